"""What the host spends on an image besides the step: data, transfers, log, bookkeeping.

    python -m benchmarks.host_cost --data-dir DIR       # where TFDS keeps CIFAR-10

It runs the loop of train.py itself, twice, with the data, the batches and the log of
configs/cifar10.py, and a step in the place of the real one. The first does nothing: how many images
a second, and a second of CPU time, one process then sustains, in the first epoch, which decodes,
and after it. The second takes `--step-seconds` in which the host only waits, as for a device: what
share of the time goes by until the next batch is there. 128 images of this network cannot take less
than 9 ms on one H200 (4.5 TFLOP at 494 TFLOP/s); a step of a third of that peak takes 27 ms.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import train
from benchmarks import report
from ddpm_jax.runs.metrics_log import read_records
from ddpm_jax.runtime import devices
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import QUARTERS, Batch, Metrics

EPOCH_STEPS = 391  # until 50,000 images have been read in batches of 128
# The parameters only have to be there, and the one checkpoint of the end is written in no time.
SMALL = """
--model.channels 32 --model.channel-mult 1 --model.num-res-blocks 1 --model.attention-resolutions
--train.sample-every-steps 0 --train.checkpoint-every-steps 0
"""


@dataclass(frozen=True)
class Args:
    data_dir: str = ""  # folder of prepared TFDS data sets; empty: ~/tensorflow_datasets
    steps: int = 1600  # of the first run; the first epoch has 391
    step_seconds: float = 0.027  # that a step of the second run takes
    timed_steps: int = 400  # of the second run, after its first epoch
    json: Path | None = None  # file for the figures


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    idle, _ = run(args.data_dir, args.steps, 0.0)
    _, waits = run(args.data_dir, EPOCH_STEPS + args.timed_steps, args.step_seconds)
    result = {
        "images_per_second": rates(idle[EPOCH_STEPS:], 0),
        "images_per_cpu_second": rates(idle[EPOCH_STEPS:], 1),
        "first_epoch_images_per_second": rates(idle[:EPOCH_STEPS], 0),
        "step_seconds": args.step_seconds,
        "data_wait_share": float(np.mean(waits)),
        **report.about(),
    }
    print(json.dumps(result, indent=2))
    if args.json is not None:
        report.write(args.json, result)


def run(data_dir: str, steps: int, step_seconds: float) -> tuple[np.ndarray, list[float]]:
    """Runs train.py with a step that only takes time.

    Returns:
      The seconds at the start of each step, [steps, 2], by the clock and of CPU time of this
      process; and `data_wait_share` of each log entry after the first epoch.
    """
    moments: list[tuple[float, float]] = []

    def pmapped(step: Callable, *_: Any) -> Callable:
        jitted = jax.jit(step, donate_argnums=0)

        def timed(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            moments.append((time.monotonic(), time.process_time()))
            time.sleep(step_seconds)
            return jitted(state, batch)

        return timed

    with ExitStack() as stack:
        workdir = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        options = f"--config configs/cifar10.py {SMALL} --train.steps {steps}".split()
        options += ["--workdir", str(workdir), "--data.dir", data_dir]
        stack.enter_context(mock.patch.object(sys, "argv", ["train.py", *options]))
        stack.enter_context(mock.patch.object(train, "make_train_step", lambda *_: nothing))
        stack.enter_context(mock.patch.object(devices, "pmapped", pmapped))
        train.main()
        records = read_records(workdir / "metrics.jsonl")
    logged = [r for r in records if r.get("step", 0) >= EPOCH_STEPS + 100]
    return np.array(moments), [r["data_wait_share"] for r in logged if "data_wait_share" in r]


def nothing(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """A step that counts itself, and has numbers for the log."""
    one = jnp.ones(())
    quarters = jnp.ones(QUARTERS)
    metrics = {
        "loss": one,
        "quarter_sums": {"loss": quarters},
        "quarter_weight": quarters,
        "grad_norm": one,
        "learning_rate": one,
        "skipped": jnp.zeros((), jnp.int32),
        "step": state.step,
        "nonfinite_t": jnp.full(len(batch["x"]), -1),
    }
    return state._replace(step=state.step + 1), metrics


def rates(moments: np.ndarray, clock: int) -> float:
    """Images a second of one of the two clocks, over all steps that began at these moments."""
    seconds = moments[-1, clock] - moments[0, clock]
    return 128 * (len(moments) - 1) / seconds


if __name__ == "__main__":
    main()
