"""Reports of skipped steps, whose loss or gradient was not finite: number, examples, timesteps.

Such a step changes nothing but counters. The names show a single bad example; whole batches of
names show a loss that grew until nothing was finite any more.
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

# report(step, nonfinite_t). nonfinite_t, int32 [B], holds a value for each example of the step's
# global batch: its t if the example may be to blame, else -1.
Report = Callable[[int, np.ndarray], None]


def make_report(log: MetricsLog, source: Source, config: Config) -> Report:
    """Logs {"event": "skipped", ...} for each skipped step, and warns of the first few on stderr.

    The event lists the examples whose loss was not finite, or the whole batch if only the gradient
    was not. "examples" are their numbers in the data set or their paths in its folder, "positions"
    their places in the global batch, "t" their timesteps. "count" is the number of these examples;
    at most MAX_EXAMPLES are listed.
    """
    reported = 0

    def report(step: int, nonfinite_t: np.ndarray) -> None:
        nonlocal reported
        event = _describe(step, nonfinite_t, source, config)
        log.event("skipped", **event)
        reported += 1
        if reported <= SHOWN_STEPS:
            logger.warning("%s", _line(event, config.train.batch_size))
        elif reported == SHOWN_STEPS + 1:
            logger.warning("more steps were skipped: metrics.jsonl names their examples")

    return report


def _describe(step: int, nonfinite_t: np.ndarray, source: Source, config: Config) -> dict[str, Any]:
    """The fields of the event."""
    positions = np.flatnonzero(nonfinite_t >= 0)
    listed = positions[:MAX_EXAMPLES]
    train = config.train
    indices = batch_indices(len(source), train.batch_size, train.seed, step - 1)[listed]
    return {
        "step": step,
        "count": len(positions),
        "examples": [record_name(source, int(index)) for index in indices],
        "positions": listed,
        "t": nonfinite_t[listed],
    }


def _line(event: dict[str, Any], batch_size: int) -> str:
    """The event as a line on stderr."""
    pairs = list(zip(event["examples"], event["t"], strict=True))[:SHOWN_EXAMPLES]
    shown = ", ".join(f"{name} (t = {t})" for name, t in pairs)
    more = ", ..." if event["count"] > len(pairs) else ""
    return (
        f"step {event['step']} is skipped, its loss or gradient is not finite: "
        f"{event['count']} of {batch_size} examples, {shown}{more}"
    )
