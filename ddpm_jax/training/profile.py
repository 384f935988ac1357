"""A trace of some training steps: what the host and the devices did, and when."""

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax

from ddpm_jax.runtime import processes

logger = logging.getLogger("ddpm_jax")


def profiled(
    steps: Iterable[int], traced: range, folder: Path, wait: Callable[[], object]
) -> Iterator[int]:
    """Yields `steps`, and traces what the caller does in those that are in `traced`.

    `wait()` must wait for the devices; it is called before the trace begins and before it ends. The
    trace is written after the last traced step, or with fewer steps if `steps` end earlier.
    TensorBoard shows it after `pip install xprof`; ui.perfetto.dev opens its
    `perfetto_trace.json.gz`.
    """
    first = None  # traced step
    try:
        for step in steps:
            if step in traced and first is None:
                wait()
                jax.profiler.start_trace(folder, create_perfetto_trace=True)
                first = step
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                yield step
            if first is not None and step == traced[-1]:
                wait()
                jax.profiler.stop_trace()
                print(f"steps {first} to {step} are traced in {folder}")
                first = None
    finally:
        if first is not None:
            jax.profiler.stop_trace()


def warn_of_missed_steps(traced: range, first: int, last: int) -> None:
    """Warns if none of the steps to trace is among `first + 1` to `last`, those that will run."""
    if not traced or not processes.is_main_process():
        return
    where = None
    if traced[-1] <= first:
        where = f"the run is already after step {first}"
    elif traced[0] > last:
        where = f"the run ends with step {last}"
    if where:
        option = f"--profile.steps {traced[0]}:{traced[-1]}"
        logger.warning("%s: %s; nothing is traced", option, where)
