"""What importing a part of the package loads. Light parts stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What a run needs of data, pictures and logs; and what only other projects' weights need.
DATA_AND_LOGS = {
    "grain",
    "matplotlib",
    "PIL",
    "sklearn",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
    "tyro",
}
# Third-party packages that jax, numpy and jaxtyping load themselves.
LIGHT = {"jax", "jaxlib", "jaxtyping", "numpy"}


def loaded_by(statement: str) -> set[str]:
    """The top-level packages in the report of `python -X importtime`."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {row[2].strip().partition(".")[0] for row in rows[1:]}  # after the heading


def third_party(packages: set[str]) -> set[str]:
    return {name for name in packages if name not in sys.stdlib_module_names}


def test_the_report_shows_a_package_that_is_imported():
    assert {"json", "optax", "jax"} <= loaded_by("import json, optax")


def test_diffusion_and_sampling_load_nothing_heavy_besides_jax_and_numpy():
    """Nothing beyond what these load by themselves, so that no new dependency slips in."""
    ours = loaded_by("import ddpm_jax.diffusion, ddpm_jax.sampling")
    assert {"ddpm_jax", "jax", "numpy"} <= ours
    theirs = loaded_by(f"import {', '.join(sorted(LIGHT))}, jax.numpy")
    assert third_party(ours) - third_party(theirs) <= {"ddpm_jax"}
    heavy = {"flax", "optax", "orbax", "tensorstore"} | DATA_AND_LOGS
    assert not heavy & ours


@pytest.mark.parametrize(
    "module", ["models", "runtime.devices", "runs.checkpoints", "generation.generator"]
)
def test_the_core_loads_no_library_of_data_pictures_or_logs(module):
    assert not DATA_AND_LOGS & loaded_by(f"import ddpm_jax.{module}")
