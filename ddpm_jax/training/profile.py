"""A trace of some steps of a run: what the host and the devices did, and when."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax


def profiled(
    steps: Iterable[int], traced: range, folder: Path, wait: Callable[[], object]
) -> Iterator[int]:
    """`steps` as they are; what the caller does in those that are `traced` is traced.

    The trace is written when the last of them is done: `wait()` waits for the devices before it
    begins and before it ends. TensorBoard shows it with `pip install xprof`; ui.perfetto.dev opens
    the `perfetto_trace.json.gz` in it. It has as much as there is if the steps end early.
    """
    tracing = False
    try:
        for step in steps:
            if step in traced and not tracing:
                wait()
                jax.profiler.start_trace(folder, create_perfetto_trace=True)
                tracing = True
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                yield step
            if tracing and step == traced[-1]:
                wait()
                jax.profiler.stop_trace()
                tracing = False
                print(f"steps {traced[0]} to {step} are traced in {folder}")
    finally:
        if tracing:
            jax.profiler.stop_trace()
