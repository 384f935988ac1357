"""What is said of a step whose loss or gradient was not finite: its number, its examples, their t.

Such a step changes nothing but counters. One bad example is found by its name; losses that grow
until nothing is finite any more show as whole batches.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.data import Source, batch_indices, record_name
from ddpm_jax.runs.metrics_log import MetricsLog

MAX_EXAMPLES = 64  # of a step, in the log
SHOWN_EXAMPLES = 3  # of a step, on stderr
SHOWN_STEPS = 5  # on stderr, from start to stop

logger = logging.getLogger("ddpm_jax")

# report(step, suspect_t): the number of a step, and for each example of its global batch the t,
# or -1 where the loss was finite: int32 [B].
Report = Callable[[int, np.ndarray], None]


def make_report(log: MetricsLog, source: Source, config: Config) -> Report:
    """Writes {"event": "skipped", ...} into the log for each skipped step; warns of the first ones.

    Of the event, "examples" are the suspects' numbers in the data set, or paths in its folder,
    "positions" their places in the global batch, and "t" their timesteps; "count" is how many there
    are, of which MAX_EXAMPLES are listed. All of the batch are suspects if only the gradient was
    not finite.
    """
    told = 0

    def report(step: int, suspect_t: np.ndarray) -> None:
        nonlocal told
        event = _describe(step, suspect_t, source, config)
        log.event("skipped", **event)
        told += 1
        if told <= SHOWN_STEPS:
            logger.warning("%s", _line(event, config.train.batch_size))
        elif told == SHOWN_STEPS + 1:
            logger.warning("more steps were skipped: metrics.jsonl names their examples")

    return report


def _describe(step: int, suspect_t: np.ndarray, source: Source, config: Config) -> dict[str, Any]:
    positions = np.flatnonzero(suspect_t >= 0)
    few = positions[:MAX_EXAMPLES]
    train = config.train
    indices = batch_indices(len(source), train.batch_size, train.seed, step - 1)[few]
    return {
        "step": step,
        "count": len(positions),
        "examples": [record_name(source, int(index)) for index in indices],
        "positions": few,
        "t": suspect_t[few],
    }


def _line(event: dict[str, Any], batch_size: int) -> str:
    pairs = list(zip(event["examples"], event["t"], strict=True))[:SHOWN_EXAMPLES]
    shown = ", ".join(f"{name} (t = {t})" for name, t in pairs)
    more = ", ..." if event["count"] > len(pairs) else ""
    return (
        f"step {event['step']} is skipped, its loss or gradient is not finite: "
        f"{event['count']} of {batch_size} examples, {shown}{more}"
    )
