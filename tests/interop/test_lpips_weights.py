"""The weights of LPIPS: where they are looked for, files that fit, and files that do not."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_jax.errors import UserError
from ddpm_jax.interop import lpips_weights, weight_files
from ddpm_jax.interop.download import file_sha256
from ddpm_jax.interop.lpips_weights import (
    ALEXNET,
    LINEAR,
    LpipsFiles,
    WeightFile,
    find_lpips,
    read_lpips,
)
from ddpm_jax.models.lpips import param_shapes
from tests.lpips_by_torch import Tensors, random_weights

FEATURES, LAYERS = random_weights()
CLASSIFIER = {"classifier.6.weight": torch.ones(10, 4), "classifier.6.bias": torch.ones(10)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no package `lpips`: the only places to look."""
    for name in (ALEXNET.variable, LINEAR.variable, "DDPM_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(lpips_weights.importlib.util, "find_spec", lambda name: None)
    return tmp_path


@pytest.fixture
def files(tmp_path: Path) -> LpipsFiles:
    """Whole files of random weights, as a user may name them."""
    torch.save(FEATURES | CLASSIFIER, tmp_path / "alexnet.pth")
    torch.save(LAYERS, tmp_path / "linear.pth")
    return LpipsFiles(WeightFile(tmp_path / "alexnet.pth"), WeightFile(tmp_path / "linear.pth"))


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_both_files_are_read_with_or_without_the_classifier(files):
    params = read_lpips(files)
    assert {name: array.shape for name, array in params.items()} == param_shapes()
    assert {array.dtype for array in params.values()} == {np.dtype(np.float32)}
    kernel = FEATURES["features.3.weight"]
    np.testing.assert_array_equal(params["features.3.kernel"][1, 2, 3, 4], kernel[4, 3, 1, 2])
    np.testing.assert_array_equal(params["features.3.bias"], FEATURES["features.3.bias"])
    weights = LAYERS["lin2.model.1.weight"]
    np.testing.assert_array_equal(params["lin2.kernel"].ravel(), weights.ravel())
    torch.save(FEATURES, files.alexnet.path)
    assert read_lpips(files).keys() == params.keys()


def test_nothing_is_at_hand_unless_both_files_are(home):
    assert find_lpips() is None
    touch(home / ".cache/torch/hub/checkpoints" / ALEXNET.name)
    assert find_lpips() is None
    touch(home / ".cache/ddpm_jax" / LINEAR.name)
    assert find_lpips() is not None


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, ".cache/ddpm_jax"),
        ({}, ".cache/torch/hub/checkpoints"),
        ({"DDPM_JAX_CACHE": "ours", "XDG_CACHE_HOME": "all"}, "ours"),
        ({"XDG_CACHE_HOME": "all"}, "all/torch/hub/checkpoints"),
        ({"TORCH_HOME": "torches", "XDG_CACHE_HOME": "all"}, "torches/hub/checkpoints"),
    ],
)
def test_alexnet_is_found_where_we_and_torch_keep_files(variables, folder, home, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(home / value))
    monkeypatch.setenv(LINEAR.variable, str(touch(home / "named.pth")))
    path = touch(home / folder / ALEXNET.name)
    alexnet, linear = find_lpips()
    assert alexnet == (path, "7be5be79") and linear == (home / "named.pth", "")


def test_an_installed_package_has_its_layers_and_is_not_imported(home, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DDPM_JAX_CACHE", str(home))
    monkeypatch.syspath_prepend(home / "site")
    touch(home / "site/lpips/__init__.py").write_text("raise ImportError('has been run')")
    path = touch(home / "site/lpips/weights/v0.1" / LINEAR.name)
    touch(home / ALEXNET.name)
    assert find_lpips().linear == (path, LINEAR.sha256)
    assert "lpips" not in sys.modules


def test_a_variable_comes_first_and_must_name_a_file(home, monkeypatch):
    for published in (ALEXNET, LINEAR):
        touch(home / ".cache/ddpm_jax" / published.name)
    monkeypatch.setenv(ALEXNET.variable, str(touch(home / "mine.pth")))
    assert find_lpips().alexnet == (home / "mine.pth", "")
    monkeypatch.setenv(LINEAR.variable, str(home / "absent.pth"))
    assert refusal(find_lpips) == f"DDPM_JAX_LPIPS: {home}/absent.pth: no such file"


@pytest.mark.parametrize(("named", "other"), [(ALEXNET, LINEAR), (LINEAR, ALEXNET)])
def test_a_variable_for_one_file_says_how_to_give_the_other(named, other, home, monkeypatch):
    monkeypatch.setenv(named.variable, str(touch(home / "named.pth")))
    message = refusal(find_lpips)
    assert message.startswith(f"{named.variable} is set, but LPIPS needs {other.name} too")
    assert f"{home}/.cache/ddpm_jax" in message and message.endswith(other.variable)


def test_a_file_of_a_published_name_must_be_the_published_one(files):
    digest = file_sha256(files.alexnet.path)
    path = files.alexnet.path
    assert read_lpips(files._replace(alexnet=WeightFile(path, digest[:8])))
    message = refusal(lambda: read_lpips(files._replace(alexnet=WeightFile(path, "7be5be79"))))
    assert message.startswith(f"{path} is not the published file: its sha256 is {digest}, expected")
    assert "7be5be79..." in message


def with_vgg(alexnet: Tensors, linear: Tensors) -> None:
    alexnet["features.0.weight"] = torch.ones(64, 3, 3, 3)


def without_a_layer(alexnet: Tensors, linear: Tensors) -> None:
    del linear["lin4.model.1.weight"]


def with_squeezenets(alexnet: Tensors, linear: Tensors) -> None:
    linear["lin5.model.1.weight"] = torch.ones(1, 512, 1, 1)


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (with_vgg, "alexnet", "features.0.weight is [64, 3, 3, 3], expected [64, 3, 11, 11]"),
        (without_a_layer, "linear", "1 missing (lin4.model.1.weight)"),
        (with_squeezenets, "linear", "1 unexpected (lin5.model.1.weight)"),
    ],
)
def test_a_file_of_another_network_is_refused(change, name, message, files):
    weights = dict(FEATURES), dict(LAYERS)
    change(*weights)
    for file, tensors in zip(files, weights, strict=True):
        torch.save(tensors, file.path)
    found = refusal(lambda: read_lpips(files))
    assert found.startswith(f"{getattr(files, name).path}: ") and message in found


def test_a_file_that_is_damaged_or_has_code_is_refused(files, tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    whole = files.alexnet.path.read_bytes()
    files.alexnet.path.write_bytes(whole[: len(whole) // 2])
    message = refusal(lambda: read_lpips(files))
    assert message.startswith(f"{files.alexnet.path} is damaged, or no file of PyTorch weights")
    torch.save({"features.0.bias": Code()}, files.alexnet.path)
    assert "could run code" in refusal(lambda: read_lpips(files))
    assert not (tmp_path / "ran").exists()


def test_without_torch_the_message_says_how_to_install_it(files, monkeypatch):
    def without(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(weight_files.importlib, "import_module", without)
    assert refusal(lambda: read_lpips(files)).startswith("torch is not installed: `pip install")


def test_the_published_name_has_the_digest():
    assert ALEXNET.name == f"alexnet-owt-{ALEXNET.sha256}.pth"
