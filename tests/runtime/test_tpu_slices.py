"""Slices by name, and a training step compiled for one where libtpu is installed."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from benchmarks import tpu_fit
from ddpm_jax.commands import sample, train
from ddpm_jax.config import Config, ParallelConfig
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.compiled_cost import PRODUCTS, Cost
from ddpm_jax.runtime.devices import replicated
from ddpm_jax.runtime.script import run_script
from ddpm_jax.runtime.slice_report import Fit, compile_for, memory_line, two_digits
from ddpm_jax.runtime.tpu_slices import CHIPS, SLICES, slice_mesh, tpu_slice
from ddpm_jax.training.tpu_dry_run import smaller_settings

ROOT = Path(__file__).resolve().parents[2]
HAS_COMPILER = importlib.util.find_spec("libtpu") is not None


def test_a_slice_is_known_by_chip_and_shape():
    assert tpu_slice("v5e:2x4").size == 8 and tpu_slice("v5p:2x2x4").size == 16
    assert all(tpu_slice(name).chip is CHIPS[name.split(":")[0]] for name in SLICES)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v5e-8", "did you mean v5e:2x4?"),
        ("v5litepod-16", "did you mean v5e:4x4?"),
        ("v6e-1", "did you mean v6e:1x1?"),
        ("v5p-8", "did you mean v5p:2x2x1?"),  # cores
        ("v5e:2x3", "did you mean v5e:2x"),
        ("v5e-3", "there are: v5e:1x1, v5e:2x2"),
        ("nonsense", "there are: v5e:1x1"),
    ],
)
def test_another_name_is_answered_with_the_one_that_was_meant(name, says):
    with pytest.raises(UserError, match="--tpu") as error:
        tpu_slice(name)
    assert says in str(error.value)


def test_the_table_of_the_docs_is_that_of_the_figures_and_has_every_published_config():
    rows = tpu_fit.read(ROOT / "benchmarks" / "results" / "tpu_fit.json")
    published = {path.stem for path in (ROOT / "configs").glob("*.py")} - tpu_fit.OURS
    wanted = {(name, use) for name in published for use in tpu_fit.uses(tpu_fit.load(name))}
    assert {(row["config"], row["use"]) for row in rows} == wanted
    assert all(row["needed"] <= row["available"] for row in rows)
    assert tpu_fit.table(rows) in (ROOT / "docs" / "scaling.md").read_text()


def test_what_fits_by_a_quick_compilation_alone_is_fitted_with_the_next_setting(monkeypatch):
    def compiled(target, lower, quickly=False):
        config, _ = lower.args
        fits = quickly or config.train.grad_accumulation_steps > 1
        return Fit(3, 2 + 2 * fits, 0, object() if fits else None)

    monkeypatch.setattr(tpu_fit, "prepare", tpu_slice)
    monkeypatch.setattr(tpu_fit, "compile_for", compiled)
    monkeypatch.setattr(tpu_fit, "program_cost", lambda _: Cost(Counter({PRODUCTS: 94 * 10**6})))
    quick = tpu_fit.first_fit("cifar10", "train", "v5e", tried=[]) | {"program": ""}
    assert quick["options"] == ""
    row = tpu_fit.add_speed("cifar10", "train", "v5e", [quick])
    assert row["options"] == "--model.remat True --train.grad-accumulation-steps 4"
    assert [each["options"] for each in row["tried"]] == ["", "--model.remat True"]
    assert row["cycles"] == 94 * 10**6 and (row["needed"], row["available"]) == (3, 4)


def test_a_speed_has_two_digits_also_if_it_is_less_than_an_image_a_second():
    given = (0.01234, 0.1, 9.96, 123.4, 1234.5)
    assert [two_digits(value) for value in given] == ["0.012", "0.1", "10", "120", "1,200"]


@pytest.mark.parametrize(
    ("parallel", "batch_size", "says"),
    [
        (ParallelConfig(), 60, "a batch of 60 cannot be split evenly over the 8 chips of v5e:2x4"),
        (ParallelConfig(data=4), 64, "v5e:2x4 has 8 chips"),
        (ParallelConfig(fsdp=16), 64, "v5e:2x4 has 8 chips"),
    ],
)
def test_a_batch_or_mesh_that_does_not_suit_the_slice_is_refused(parallel, batch_size, says):
    with pytest.raises(UserError, match=says):
        slice_mesh(tpu_slice("v5e:2x4"), parallel, batch_size)


def test_settings_that_take_less_are_tried_once_each_the_split_state_last():
    config = Config()  # batches of 128 over 1 or 4 chips
    remat, fsdp = "--model.remat True", "--parallel.fsdp 4"
    parts = [f"{remat} --train.grad-accumulation-steps {n}" for n in (4, 16, 64)]
    one, four = (
        {options: setting for options, setting in smaller_settings(config, tpu_slice(name))}
        for name in ("v5e:1x1", "v5e:2x2")
    )
    assert list(one) == [remat, *parts]
    assert list(four) == [*list(one)[:3], *(f"{fsdp} {each}" for each in list(one)[:3])]
    assert all(setting.model.remat for setting in four.values())
    last = four[f"{fsdp} {parts[1]}"]
    assert last.train == replace(config.train, grad_accumulation_steps=16)
    assert last.parallel == ParallelConfig(data=1, fsdp=4)


def dry_run(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "train.py", "--workdir", "nowhere", "--dry-run", *options]
    environment = {name: value for name, value in os.environ.items() if "JAX" not in name}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.skipif(HAS_COMPILER, reason="libtpu is installed")
def test_without_the_compiler_a_line_says_what_to_install():
    ended = dry_run("--tpu", "v5e:2x4")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "pip install 'jax[tpu]'" in ended.stderr and not ended.stdout


@pytest.mark.parametrize(
    ("script", "options", "says"),
    [
        (
            train,
            "--tpu v5e:2x4",
            "--tpu v5e:2x4 compiles for a TPU that is not here: add --dry-run",
        ),
        (sample, "--tpu v5e:2x4", "add --dry-run"),
        (sample, "--dry-run", "--dry-run says what a TPU takes: add --tpu SLICE"),
    ],
)
def test_half_of_a_dry_run_is_refused(script, options, says, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script.py", "--workdir", "nowhere", *options.split()])
    with pytest.raises(SystemExit) as ended:
        run_script(script.main)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and says in error and error.count("\n") == 1


@pytest.mark.skipif(not HAS_COMPILER, reason="needs libtpu: pip install 'jax[tpu]'")
def test_a_tiny_step_compiles_and_what_cannot_fit_is_said():
    tiny = "--model.channels 8 --model.norm-groups 8 --model.channel-mult 1".split()
    ended = dry_run(*tiny, "--tpu", "v5e:2x2")
    assert ended.returncode == 0, ended.stderr
    for says in ("memory       fits: ", " M a chip, by the compiler: ", "images/s on v5e:2x2"):
        assert says in ended.stdout
    assert "all-reduce" in ended.stdout  # of the gradient


@pytest.mark.slow  # two minutes: four compilations
@pytest.mark.skipif(not HAS_COMPILER, reason="needs libtpu: pip install 'jax[tpu]'")
def test_the_smallest_change_that_fits_is_found_by_trying():
    tiny = "--model.channels 8 --model.norm-groups 8 --model.channel-mult 1".split()
    ended = dry_run(*tiny, "--tpu", "v5e:1x1", "--train.batch-size", "524288")
    assert ended.returncode == 0, ended.stderr
    *tried, fits = [line for line in ended.stdout.splitlines() if line.startswith("memory ")]
    assert len(tried) >= 2 and all("does not fit" in line for line in tried)
    _, _, options = fits.partition(", with ")
    assert "fits: " in fits and f"change that fits: {options}\n" in ended.stdout
    assert "images/s on v5e:1x1" in ended.stdout


@pytest.mark.skipif(not HAS_COMPILER, reason="needs libtpu: pip install 'jax[tpu]'")
def test_a_chain_compiles_and_no_weights_are_read(tiny_run, tmp_path):
    config = tmp_path / "run" / "config.json"
    config.parent.mkdir()
    config.write_bytes((tiny_run / "config.json").read_bytes())
    command = [sys.executable, "sample.py", str(config.parent), "--dry-run", "--tpu", "v5e:2x2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "; 5 steps of " in ended.stdout
    assert "images/s on v5e:2x2" in ended.stdout


@pytest.mark.skipif(not HAS_COMPILER, reason="needs libtpu: pip install 'jax[tpu]'")
def test_what_the_compiler_says_of_too_little_memory_is_read():
    target = tpu_slice("v5e:2x2")
    mesh = slice_mesh(target, ParallelConfig(), 4)
    large = jax.ShapeDtypeStruct((3 * 2**30,), "float32", sharding=replicated(mesh))  # 12 GiB
    fit = compile_for(target, lambda: jax.jit(lambda x: (x + 1, x * 2)).lower(large))
    assert not fit.fits
    assert fit.needed == 36 * 2**30 and fit.available == 15.75 * 2**30
    assert memory_line(fit).startswith("memory       does not fit: 36.0")
