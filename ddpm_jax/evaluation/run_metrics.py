"""What evaluate.py measures: names of metrics, of samples and of a run itself.

A metric of samples is a row of `metrics.METRICS`. One of a run, such as its bound on real images,
is a function of an `Evaluation` and a row of RUN_METRICS.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ddpm_jax.errors import UserError, suggestion
from ddpm_jax.evaluation import bits_per_dimension
from ddpm_jax.evaluation.bits_per_dimension import Evaluation
from ddpm_jax.evaluation.metrics import METRICS


class RunMetric(NamedTuple):
    """A function that writes its results, and returns a line that sums them up; and a title."""

    evaluate: Callable[[Evaluation], str]
    title: str


RUN_METRICS: Mapping[str, RunMetric] = {
    "bpd": RunMetric(bits_per_dimension.evaluate, "the variational bound, in bits per dimension"),
}


def choose_metrics(text: str) -> tuple[list[RunMetric], list[str]]:
    """The metrics of a list such as "bpd,fid": those of a run, and the names of those of samples.

    Raises UserError for an unknown name.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    known = [*RUN_METRICS, *METRICS]
    for name in names:
        if name not in known:
            hint = suggestion(name, known)
            raise UserError(f"metrics={text}: {name or 'nothing'} is no metric; {hint}")
    of_runs = [RUN_METRICS[name] for name in names if name in RUN_METRICS]
    return of_runs, [name for name in names if name in METRICS]


def check_features(names: list[str], inception: bool) -> None:
    """Raises UserError for metrics that these features do not have, as an FID of a classifier."""
    for name in names:
        if METRICS[name].inception not in (None, inception):
            alike = [
                other
                for other, metric in METRICS.items()
                if metric.measure is METRICS[name].measure and other != name
            ]
            instead = f"ask for {alike[0]}" if alike else "leave it out"
            whose = "Inception" if not inception else "a classifier (features=classifier:DIR)"
            raise UserError(f"metrics={name} takes features of {whose}; with these {instead}")
