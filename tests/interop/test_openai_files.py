"""OpenAI's .pt files, in and out: bit for bit, in little memory; and files that are none."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from ddpm_jax.config import ModelConfig, ParallelConfig, command_line
from ddpm_jax.config.serialization import read_config
from ddpm_jax.interop import export_weights, import_weights, published
from ddpm_jax.interop.openai import import_state_dict, unknown_settings
from ddpm_jax.models import build_network, count_parameters
from ddpm_jax.runs.checkpoints import load_ema
from ddpm_jax.runtime import devices
from tests.interop.small import (
    TINY,
    command,
    config_of,
    export_run,
    import_run,
    same_bits,
    state_dict,
)
from tests.parity.golden import FOLDER

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def small_weights() -> dict[str, torch.Tensor]:
    return state_dict(config_of(TINY))


@pytest.fixture
def place(
    tmp_path: Path, small_weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a config and weights that suit it; commands are run in it."""
    (tmp_path / "small.py").write_text(TINY)
    torch.save(small_weights, tmp_path / "small.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_exported_weights_are_the_imported_ones_bit_for_bit(place, capsys) -> None:
    stdout = import_run(place / "small.pt", place / "run", capsys, "small.py")
    count = count_parameters(build_network(config_of(TINY)).abstract)
    assert f"{count:,} parameters of small.py" in stdout
    assert "--config small.py --workdir" in stdout
    assert read_config(place / "run" / "config.json") == config_of(TINY)
    items = {path.name for path in (place / "run" / "checkpoints" / "0").iterdir()}
    assert "ema" in items and "state" not in items  # no moments of Adam: a third of the size
    export_run(place / "run", place / "back.pt", capsys)
    assert same_bits(torch.load("small.pt"), torch.load("back.pt"))


def test_special_numbers_survive(place, capsys) -> None:
    weights = torch.load("small.pt")
    bits = torch.tensor([0x7FC00001, -0x800000, -0x80000000, 1], dtype=torch.int32)
    weights["out.2.bias"] = bits[:2].view(torch.float32)  # a NaN with a payload, -inf
    weights["out.0.bias"][:2] = bits[2:].view(torch.float32)  # -0, the smallest denormal
    torch.save(weights, "small.pt")
    import_run(place / "small.pt", place / "run", capsys, "small.py")
    export_run(place / "run", place / "back.pt", capsys)
    assert same_bits(weights, torch.load("back.pt"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_precisions_become_float32(dtype, place, capsys) -> None:
    weights = {name: value.to(dtype) for name, value in torch.load("small.pt").items()}
    torch.save(weights, "other.pt", _use_new_zipfile_serialization=False)  # the older format
    import_run(place / "other.pt", place / "run", capsys, "small.py")
    export_run(place / "run", place / "back.pt", capsys)
    assert same_bits({k: v.float() for k, v in weights.items()}, torch.load("back.pt"))


def test_every_published_model_has_a_config() -> None:
    for model in published.MODELS:
        assert command_line.load_config(published.config_path(model)).model.kind != "mlp"


def test_a_classifier_goes_in_and_out_too(place, capsys) -> None:
    text = TINY.replace('variance="learned_range"', "").replace(
        "ModelConfig(\n", 'ModelConfig(\n            kind="classifier",\n'
    )
    (place / "classifier.py").write_text(text)
    config = command_line.load_config(place / "classifier.py")
    weights = state_dict(config)
    assert "out.2.positional_embedding" in weights
    torch.save(weights, "classifier.pt")
    stdout = import_run(place / "classifier.pt", place / "run", capsys, "classifier.py")
    assert f"--classifier {place / 'run'}" in stdout
    export_run(place / "run", place / "back.pt", capsys)
    assert same_bits(weights, torch.load("back.pt"))


class Payload:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def text_file() -> None:
    Path("wrong.pt").write_text("no weights\n" * 100)


def empty_file() -> None:
    Path("wrong.pt").touch()


def zip_file() -> None:
    with zipfile.ZipFile("wrong.pt", "w") as archive:
        archive.writestr("notes.txt", "hello")


def pickle_with_code() -> None:
    Path("wrong.pt").write_bytes(pickle.dumps({"weight": Payload()}))


def old_pickle_with_code() -> None:
    Path("wrong.pt").write_bytes(pickle.dumps({"weight": Payload()}, protocol=2))


def pt_with_code() -> None:
    torch.save({**torch.load("small.pt"), "more": Payload()}, "wrong.pt")


def old_pt_with_code() -> None:
    torch.save({"more": Payload()}, "wrong.pt", _use_new_zipfile_serialization=False)


def truncated() -> None:
    whole = Path("small.pt").read_bytes()
    Path("wrong.pt").write_bytes(whole[: len(whole) // 2])


def old_truncated() -> None:
    torch.save(torch.load("small.pt"), "old.pt", _use_new_zipfile_serialization=False)
    whole = Path("old.pt").read_bytes()
    Path("wrong.pt").write_bytes(whole[: len(whole) // 2])


def a_list() -> None:
    torch.save([torch.ones(3)], "wrong.pt")


def nothing() -> None:
    torch.save({}, "wrong.pt")


def nested() -> None:
    torch.save({"ema": torch.load("small.pt"), "step": 3}, "wrong.pt")


def a_folder() -> None:
    Path("wrong.pt").mkdir()


def absent() -> None:
    pass


DAMAGED = "damaged, or no file of PyTorch weights"
WRONG_FILES = [
    (text_file, DAMAGED),
    (empty_file, DAMAGED),
    (zip_file, rf"{DAMAGED} \(.*not in a subdirectory: notes.txt\): get it again"),
    (pickle_with_code, DAMAGED),
    (old_pickle_with_code, "holds posix.system besides weights, which could run code: not loaded"),
    (pt_with_code, "holds posix.system besides weights"),
    (old_pt_with_code, "holds posix.system besides weights"),
    (truncated, rf"{DAMAGED} \(PytorchStreamReader failed"),
    (old_truncated, rf"{DAMAGED} \(unexpected EOF"),
    (a_list, "holds a list, expected a state dict: tensors by name"),
    (nothing, "holds nothing, expected a state dict"),
    (nested, "no state dict: ema is a dict, expected a tensor"),
    (a_folder, r"wrong.pt is not a folder of a UNet2DModel: it has no config.json"),
    (absent, "wrong.pt: no such file or folder$"),
]


@pytest.mark.parametrize(
    ("make", "pattern"), WRONG_FILES, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_wrong_file_is_refused_in_one_line_and_never_run(make, pattern, place, capsys) -> None:
    make()
    options = ["wrong.pt", "--model", "small.py", "--out", "run"]
    check_refused(*command(import_weights.main, options, capsys), pattern)
    assert not (place / "executed").exists() and not (place / "run").exists()


def check_refused(code: int, stdout: str, stderr: str, pattern: str) -> None:
    assert code == 2, stderr
    (line,) = stderr.splitlines()
    assert re.search(pattern, line), line


def other_weights(change: str, weights: dict[str, torch.Tensor]) -> None:
    match change:
        case "missing":
            del weights["out.2.bias"], weights["middle_block.1.qkv.weight"]
        case "unexpected":
            weights["label_emb.bias"] = torch.ones(3)
        case "mis-shaped":
            weights["label_emb.weight"] = torch.ones(1000, 128)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ("missing", r"2 missing \(middle_block.1.qkv.weight, out.2.bias\)$"),
        ("unexpected", r"1 unexpected \(label_emb.bias\)$"),
        (
            "mis-shaped",
            r"1 of another shape \(label_emb.weight is \[1000, 128\], expected \[10, 128\]\)$",
        ),
    ],
)
def test_weights_of_another_model_are_named(change, pattern, place, capsys) -> None:
    weights = torch.load("small.pt")
    other_weights(change, weights)
    torch.save(weights, "other.pt")
    options = ["other.pt", "--model", "small.py", "--out", "run"]
    pattern = rf"other.pt does not fit --model small.py: .*{pattern}"
    check_refused(*command(import_weights.main, options, capsys), pattern)
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ("small.pt --out run", "--model is needed: small.pt does not say .* --model NAME, of imag"),
        ("small.pt --model imagnet64 --out run", r"unknown; did you mean imagenet64\? there are: "),
        ("small.pt --model qqqq --out run", "--model qqqq: unknown; there are: imagenet64, image"),
        (
            "small.pt --model smal.py --out run",
            r"--model smal.py: no such file; did you mean small.py\?",
        ),
        ("google/ddpm-cifar10-32 --out run", "no such file or folder; `hf download google/ddpm-"),
        ("64x64_diffusion.pt --out run", "64x64_diffusion.pt: no such file or folder$"),
        ("small.pt --model small.py --out .", "--out . is there already: name a new folder"),
        ("small.pt --model small.py --out small.py", "--out small.py is there already"),
        ("small.pt --model small.py --out small.py/run", "--out .* cannot be written: Not a dir"),
    ],
)
def test_wrong_commands_are_refused_in_one_line(options, pattern, place, capsys) -> None:
    check_refused(*command(import_weights.main, options.split(), capsys), pattern)
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("64x64_diffusion.pt", "--model is needed: .* by its name: --model imagenet64$"),
        ("x.safetensors", r"x.safetensors: name its folder, \., to import a UNet2DModel"),
    ],
)
def test_the_name_of_a_file_says_what_is_missing(file, pattern, place, capsys) -> None:
    Path(file).touch()
    check_refused(*command(import_weights.main, [file, "--out", "run"], capsys), pattern)


def test_a_run_is_not_overwritten(place, capsys) -> None:
    import_run(place / "small.pt", place / "run", capsys, "small.py")
    options = ["small.pt", "--model", "small.py", "--out", "run"]
    check_refused(*command(import_weights.main, options, capsys), "--out run is there already")
    options = ["--workdir", "run", "--to", "small.pt"]
    check_refused(*command(export_weights.main, options, capsys), "--to small.pt is there already")
    options = ["--workdir", "nowhere", "--to", "new.pt"]
    check_refused(*command(export_weights.main, options, capsys), "nowhere is no run folder")


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    package, place, monkeypatch, capsys
) -> None:
    import_run(place / "small.pt", place / "run", capsys, "small.py")
    monkeypatch.setitem(sys.modules, package, None)
    options = ["--workdir", "run", "--to", "new.pt" if package == "torch" else "new"]
    pattern = rf"{package} is not installed: `pip install 'ddpm-jax\[interop\]'`, .*-e '\.\[interop"
    check_refused(*command(export_weights.main, options, capsys), pattern)


def test_settings_that_openais_code_lacks_are_refused_unless_forced(place, capsys) -> None:
    text = TINY.replace(" channels=32,", " channels=32, norm_groups=16, norm_epsilon=1e-6,")
    (place / "other.py").write_text(text)
    import_run(place / "small.pt", place / "run", capsys, "other.py")
    options = ["--workdir", "run", "--to", "back.pt"]
    pattern = "OpenAI's code has no model.norm_groups 16, model.norm_epsilon 1e-06: with these"
    check_refused(*command(export_weights.main, options, capsys), pattern)
    assert not Path("back.pt").exists()
    code, _, stderr = command(export_weights.main, [*options, "--force", "True"], capsys)
    assert (code, stderr) == (0, "")
    assert same_bits(torch.load("small.pt"), torch.load("back.pt"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"first_width": "channels", "channel_mult": (2, 1)}, ["model.first_width channels"]),
        ({"first_width": "channels"}, []),  # of one width with the first level
        ({"downsample_padding": "after"}, ["model.downsample_padding after"]),
        ({"downsample_padding": "after", "resblock_updown": True}, []),  # then nothing is padded
    ],
    ids=str,
)
def test_a_setting_is_named_only_where_it_changes_the_network(changes, named) -> None:
    assert unknown_settings(ModelConfig(**changes)) == named


def test_weights_are_those_that_the_file_holds(place, capsys) -> None:
    """Sampling loads what the converter makes, which the parity tests check."""
    import_run(place / "small.pt", place / "run", capsys, "small.py")
    abstract = build_network(config_of(TINY)).abstract
    arrays = {name: value.numpy() for name, value in torch.load("small.pt").items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    expected = import_state_dict(shapes, arrays.get, abstract)
    mesh = devices.make_mesh(ParallelConfig(data=1), 1)
    abstract = devices.replicated_abstract(abstract, mesh)
    loaded = load_ema(place / "run" / "checkpoints", abstract)
    jax.tree.map(np.testing.assert_array_equal, loaded.items["ema"], expected)


@pytest.fixture
def huge_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that pytest does not keep."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def peak_of(*command: str | Path) -> float:
    """Peak memory, in bytes, of a command that must succeed."""
    process = subprocess.Popen([sys.executable, "-m", *map(str, command)], cwd=ROOT)
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(s.split()[1]) for s in status.splitlines() if "VmHWM" in s)])
        time.sleep(0.02)
    assert process.returncode == 0
    return peak * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures as Linux does")
def test_the_largest_common_model_goes_in_and_out_within_a_minute_and_thrice_its_size(
    huge_folder,
) -> None:
    """ADM at 64x64: 296 million parameters, 1.2 GB."""
    official = json.loads((FOLDER / "official" / "64x64_diffusion.json").read_text())
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(shape).uniform_(-1, 1, generator=generator)
        for name, shape in official["state_dict"].items()
    }
    file, back, run = (huge_folder / name for name in ("full.pt", "back.pt", "run"))
    torch.save(weights, file)
    before = os.times()
    importing = "ddpm_jax.interop.import_weights", file, "--model", "imagenet64", "--out", run
    peaks = [peak_of(*importing)]
    peaks.append(peak_of("ddpm_jax.interop.export_weights", "--workdir", run, "--to", back))
    after = os.times()
    assert max(peaks) < 3 * file.stat().st_size, peaks
    # On an idle machine both take less than the time of one core, which is what is compared here.
    assert sum(after[2:4]) - sum(before[2:4]) < 60
    assert same_bits(weights, torch.load(back, mmap=True))
