"""JAX as every test sees it: 8 CPU devices, full matmul precision, one compilation cache."""

import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# A job in the background of a shell is told to ignore SIGINT, and so would be all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Through the environment, so that the scripts that tests start share the cache.
for name, value in {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).resolve().parent.parent / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    # A fifth less time to compile. Results round as users' do, which at level 0 they do not.
    "XLA_FLAGS": "--xla_backend_optimization_level=1",
}.items():
    os.environ.setdefault(name, value)

from tests import type_checks  # noqa: E402

type_checks.install()

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

from ddpm_jax.interop.download import alone  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
# Libraries that read absl flags refuse to before somebody has parsed them.
flags.FLAGS.mark_as_parsed()

# Settings of a run that compiles and ends within seconds.
TINY_OPTIONS = """
--model.channels 8 --model.norm-groups 8 --model.channel-mult 1 --diffusion.timesteps 20
--sample.steps ddim5 --sample.num 4 --sample.batch-size 8 --train.batch-size 8 --train.steps 6
--train.checkpoint-every-steps 2 --train.sample-every-steps 0 --train.log-every-steps 2
"""


# Files that take longest. They come first, so that no worker is left alone with one at the end.
LONGEST = (
    "runtime/test_processes.py",
    "training/test_train.py",
    "runtime/test_signals.py",
    "training/test_metrics_in_training.py",
    "test_bad_input.py",
    "test_edit.py",
    "generation/test_sample.py",
    "parity/test_evaluators.py",
    "training/test_step.py",
    "runs/test_disk_full.py",
)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a worker waits while a process that its test starts loads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)  # stable: other files stay in order


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays; garbage collections need not go through it


@pytest.fixture(scope="module", autouse=True)
def programs_forgotten() -> Iterator[None]:
    """Files share few programs. Kept, they take gigabytes, and time in each garbage collection."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_options() -> list[str]:
    """What `tiny_run` was trained with; the same resumes a copy of it."""
    return TINY_OPTIONS.split()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_options: list[str]) -> Path:
    """A finished run of the digits, of six steps and three checkpoints. To be left as it is."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # that of all workers
    with alone(place / "trained"):  # one trains it, and each has a copy
        if not (place / "trained").exists():
            train_tiny(place / "training", tiny_options)
            (place / "training").rename(place / "trained")
    return shutil.copytree(place / "trained", tmp_path_factory.mktemp("runs") / "tiny")


def train_tiny(workdir: Path, options: list[str]) -> None:
    train = Path(__file__).resolve().parent.parent / "train.py"
    command = [sys.executable, str(train), "--workdir", str(workdir), *options]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
