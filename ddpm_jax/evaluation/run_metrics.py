"""What evaluate.py measures of a run: one table, RUN_METRICS.

Another metric is a function of an `Evaluation` and a row of the table.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import bits_per_dimension
from ddpm_jax.evaluation.bits_per_dimension import Evaluation


class RunMetric(NamedTuple):
    """A function that writes its results, and returns a line that sums them up; and a title."""

    evaluate: Callable[[Evaluation], str]
    title: str


RUN_METRICS: Mapping[str, RunMetric] = {
    "bpd": RunMetric(bits_per_dimension.evaluate, "the variational bound, in bits per dimension"),
}


def choose_metrics(text: str) -> list[RunMetric]:
    """The metrics of a list such as "bpd,fid"; raises UserError for an unknown name."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in RUN_METRICS:
            close = difflib.get_close_matches(name, RUN_METRICS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(RUN_METRICS)}"
            raise UserError(f"metrics={text}: {name or 'nothing'} is no metric; {hint}")
    return [RUN_METRICS[name] for name in dict.fromkeys(names)]
