"""A training run that is started again and again, for chaos.py: its folder and its processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ddpm_jax.config import ParallelConfig, serialization
from ddpm_jax.models import build_network
from ddpm_jax.runs.checkpoints import Checkpoints
from ddpm_jax.runtime import devices
from ddpm_jax.training.state import init_state, make_optimizer

ROOT = Path(__file__).resolve().parent.parent
# Points of the S curve, whose network starts within seconds; its weights, 128 x 128, are split.
OPTIONS = """
--config configs/s_curve.py --diffusion.timesteps 50 --train.batch-size 8 --train.warmup-steps 0
--train.log-every-steps 1 --sample.steps 50 --sample.num 8 --sample.batch-size 8
""".split()
LIMIT_SECONDS = 3600  # for anything to happen, on a busy machine


class Mesh(NamedTuple):
    """How a start of the run is laid out."""

    data: int
    fsdp: int
    devices: int  # there are as many, of which data * fsdp are used


class Pace(NamedTuple):
    """How often things happen, and how long a run is for a SIGKILL: longer than one takes to come.

    Rounding grows: on other meshes losses agree to 1e-6 for 200 steps, and to 1e-4 after 300.
    """

    checkpoint_steps: int
    picture_steps: int
    steps_per_kill: int


class Run:
    """A run folder, and the processes that work on it."""

    def __init__(self, workdir: Path, kills: int, pace: Pace, processes: int) -> None:
        self.workdir, self.pace, self.count = workdir, pace, processes
        self.steps = pace.steps_per_kill * max(kills, 1)
        self._output = workdir.with_suffix(".out")
        self._processes: list[subprocess.Popen] = []

    def start(self, mesh: Mesh) -> None:
        """Starts train.py on a mesh; its output goes to a file, for a full pipe would block."""
        command = [sys.executable, "train.py", "--workdir", str(self.workdir), *OPTIONS]
        command += ["--train.steps", str(self.steps)]
        command += ["--train.checkpoint-every-steps", str(self.pace.checkpoint_steps)]
        command += ["--train.sample-every-steps", str(self.pace.picture_steps)]
        command += ["--parallel.data", str(mesh.data), "--parallel.fsdp", str(mesh.fsdp)]
        self._output.parent.mkdir(parents=True, exist_ok=True)
        with self._output.open("w") as output:
            self._processes = [
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=os.environ | environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                for environment in _environments(mesh.devices, self.count)
            ]

    def signal(self, signum: int, hit: Sequence[int] | None = None) -> None:
        """Sends it to all processes, or to those of these numbers."""
        for i in range(len(self._processes)) if hit is None else hit:
            self._processes[i].send_signal(signum)

    def running(self) -> bool:
        return all(process.poll() is None for process in self._processes)

    def end(self) -> tuple[tuple[int, ...], str]:
        """Waits for all; their exit codes and what they said."""
        codes = tuple(process.wait(timeout=LIMIT_SECONDS) for process in self._processes)
        return codes, self._output.read_text()

    def records(self) -> list[dict]:
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def logged(self) -> int:
        return max((record["step"] for record in self.records() if "step" in record), default=0)

    def half_written(self) -> set[tuple[str, int]]:
        """Checkpoints on their way; what an earlier kill left is another than a new one."""
        found = set()
        for path in self.workdir.glob("checkpoints/*tmp*"):
            with suppress(FileNotFoundError):  # it has become whole meanwhile
                found.add((path.name, path.stat().st_ino))
        return found

    def newest(self) -> int:
        steps = (path.name for path in self.workdir.glob("checkpoints/*"))
        return max((int(step) for step in steps if step.isdigit()), default=0)


def _environments(devices: int, processes: int) -> list[dict[str, str]]:
    """The environment of each process that has its part of the devices."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices // processes),
        # Without it a start would compile for longer than it trains.
        "JAX_COMPILATION_CACHE_DIR": os.environ.get(
            "JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax")
        ),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    if processes == 1:
        return [environment]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    environment |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    return [environment | {"JAX_PROCESS_ID": str(i)} for i in range(processes)]


def digests(run: Run) -> dict[str, str]:
    """Those of parameters, average and optimizer, from the last line of the log."""
    last = run.records()[-1]
    assert last["event"] == "finished", last
    return {name: value for name, value in last.items() if name.endswith("sha256")}


def parameters(run: Run) -> dict[str, np.ndarray]:
    """Those of the newest checkpoint."""
    config = serialization.read_config(run.workdir / "config.json")
    network = build_network(config)
    optimizer = make_optimizer(config.train)
    abstract = jax.eval_shape(
        lambda: init_state(network.init(jax.random.key(0)), optimizer, config)
    )
    mesh = devices.make_mesh(ParallelConfig(data=1), 1)
    with Checkpoints(run.workdir / "checkpoints", 3) as checkpoints:
        state = checkpoints.restore(devices.replicated_abstract(abstract, mesh))
    return jax.device_get(state.params)
