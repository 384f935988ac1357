"""Models of the Hugging Face hub by the real client, from a server on this machine."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import diffusers
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from ddpm_jax.commands import sample
from ddpm_jax.errors import UserError
from ddpm_jax.interop import pretrained
from tests.interop.hub_server import HubServer, hub
from tests.interop.small import command
from tests.interop.test_pretrained import left_in, start

NAME = "someone/ddpm-tiny"
SETTINGS = {
    "sample_size": 8,
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "block_out_channels": (16, 24),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model as the hub has it: both kinds of weights, and files that nobody needs."""
    place = tmp_path_factory.mktemp("model")
    diffusers.UNet2DModel(**SETTINGS).save_pretrained(place)
    diffusers.DDPMScheduler(num_train_timesteps=20).save_pretrained(place)
    found = {path.name: path.read_bytes() for path in place.iterdir()}
    assert "diffusion_pytorch_model.safetensors" in found
    more = dict.fromkeys(["README.md", "images/0.png", "diffusion_pytorch_model.bin"], b"no need")
    return found | more


@pytest.fixture
def server(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    with hub(NAME, files) as server:
        # What the client reads from HF_ENDPOINT and HF_HOME when it is imported.
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield server


def test_config_and_weights_are_fetched_and_nothing_else(server, tmp_path, in_process) -> None:
    run = pretrained.run_folder(NAME)
    assert run == tmp_path / "cache" / "models" / "someone--ddpm-tiny"
    assert json.loads((run / pretrained.ORIGIN).read_text())["name"] == NAME
    assert sorted(server.fetched) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
    ]
    server.shutdown()
    assert pretrained.run_folder(NAME) == run


def test_what_the_client_has_in_its_cache_needs_no_net(server, monkeypatch, files) -> None:
    folder = pretrained.hub.fetch_unet(NAME, Path("run"))
    assert (folder / "config.json").read_bytes() == files["config.json"]
    server.fetched.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pretrained.hub.fetch_unet(NAME, Path("run")) == folder and not server.fetched


def test_an_older_model_comes_as_bin(server, files) -> None:
    del (others := dict(files))["diffusion_pytorch_model.safetensors"]
    server.files = others
    folder = pretrained.hub.fetch_unet(NAME, Path("run"))
    assert (folder / "diffusion_pytorch_model.bin").read_bytes() == b"no need"


def test_without_a_connection_the_line_says_what_to_run(server, tmp_path, monkeypatch) -> None:
    run = tmp_path / "cache" / "models" / "someone--ddpm-tiny"
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        if not offline:
            server.shutdown()
            server.server_close()
        with pytest.raises(UserError) as caught:
            pretrained.run_folder(NAME)
        assert str(caught.value) == (
            f"{server.address}/{NAME} cannot be fetched: there is no connection, and it is not in "
            "that client's cache; try again, or fetch its folder by other means and run `python -m "
            f"ddpm_jax import_weights FOLDER --out {run}`"
        )
    assert left_in(tmp_path / "cache") == set()


def test_a_model_that_is_not_there_is_told(server, tmp_path, capsys) -> None:
    code, _, stderr = command(sample.main, ["--pretrained", "someone/else"], capsys)
    assert code == 2 and stderr.splitlines()[-1] == (
        f"error: {server.address}/someone/else: there is no such model, or it is not public"
    )
    assert left_in(tmp_path / "cache") == set()


def test_a_model_of_another_kind_is_refused(server, tmp_path, files, in_process) -> None:
    server.files = files | {"config.json": b'{"_class_name": "UNet2DConditionModel"}'}
    with pytest.raises(UserError, match=r"^someone/ddpm-tiny cannot be used: .*UNet2DCond"):
        pretrained.run_folder(NAME)
    assert left_in(tmp_path / "cache") == set()


def test_without_the_client_the_line_says_how_to_install_it(server, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"huggingface_hub is not installed: `pip install 'ddpm-"):
        pretrained.run_folder(NAME)


@pytest.mark.slow
def test_sample_py_draws_from_a_model_of_the_hub(server, tmp_path) -> None:
    """As a user runs it: the client reads its variables."""
    environ = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
    done = start("sample.py", *f"--pretrained {NAME} --num 2 --steps 3".split(), **environ)
    assert done.returncode == 0, done.stderr
    with np.load("pretrained/someone--ddpm-tiny/drawn/samples.npz") as drawn:
        assert drawn["arr_0"].shape == (2, 8, 8, 3)
    assert huggingface_hub.__version__ and (tmp_path / "home" / "hub").is_dir()
