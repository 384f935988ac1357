"""Slices by name, and a training step compiled for one where libtpu is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_jax.config import ParallelConfig
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.tpu_slices import CHIPS, SLICES, slice_mesh, tpu_slice

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


def dry_run(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "train.py", "--workdir", "nowhere", "--dry-run", *options]
    environment = {name: value for name, value in os.environ.items() if "JAX" not in name}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.skipif(HAS_COMPILER, reason="libtpu is installed")
def test_without_the_compiler_a_line_says_what_to_install():
    ended = dry_run("--tpu", "v5e:2x4")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "pip install 'jax[tpu]'" in ended.stderr and not ended.stdout


def test_a_slice_without_a_dry_run_is_refused():
    command = [sys.executable, "train.py", "--tpu", "v5e:2x4"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.endswith("is not here: add --dry-run\n")


@pytest.mark.skipif(not HAS_COMPILER, reason="needs libtpu: pip install 'jax[tpu]'")
def test_a_tiny_step_compiles_and_what_cannot_fit_is_said():
    tiny = "--model.channels 8 --model.norm-groups 8 --model.channel-mult 1".split()
    ended = dry_run(*tiny, "--tpu", "v5e:2x2")
    assert ended.returncode == 0, ended.stderr
    for says in ("memory       fits: ", " M a chip, by the compiler: ", "images/s on v5e:2x2"):
        assert says in ended.stdout
    assert "all-reduce" in ended.stdout  # of the gradient
