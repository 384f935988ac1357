"""The steps since the last log entry, averaged without waiting for the devices."""

from collections import deque
from collections.abc import Callable, Iterator

import jax
import numpy as np

from ddpm_jax.config import TrainConfig
from ddpm_jax.errors import RunError
from ddpm_jax.training.skipped import Report
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import QUARTERS, Batch, Metrics

QUIET_STEPS = 100  # between looks for skipped ones, if no log entry comes before


AHEAD_STEPS = 2  # that the devices may have before them: a stop has to wait for those


def last_step_finite(state: TrainState) -> bool:
    """Whether the last step was not skipped. Waits for the device.

    States amid skipped steps are not saved: the parameters may be what nothing is finite with, and
    would take the place of a checkpoint of before.
    """
    return not state.skipped


class MetricWindow:
    """The steps since the last log entry: their metrics, on the device until somebody looks."""

    def __init__(
        self,
        config: TrainConfig,
        clock: Callable[[], float],
        report: Report,
        rates: Callable[[float], dict[str, float]] = lambda images_per_second: {},
    ):
        self._config, self._clock, self._report, self._rates = config, clock, report, rates
        self._metrics: list[Metrics] = []
        self._seen = 0  # steps of these that were looked at
        self._queued: deque[Metrics] = deque(maxlen=AHEAD_STEPS)
        self._timed_steps, self._started = 0, None
        self._began, self._waited, self._compile_seconds = None, 0.0, None

    def take(self, batches: Iterator[Batch]) -> Batch:
        """The next batch. What that took is waiting for data if the devices have nothing to do."""
        asked = self._clock()
        batch = next(batches)
        now = self._clock()
        if self._started is None:
            self._began = now
        elif self._queued[-1]["loss"].is_ready():
            self._waited += now - asked
        return batch

    def __len__(self) -> int:
        return len(self._metrics)

    def add(self, metrics: Metrics) -> None:
        """Takes one step's metrics. Raises RunError after too many non-finite steps in a row.

        Steps that were skipped are reported sometime until the window closes, lest the host waits
        for the device. It does so for the step of AHEAD_STEPS before.
        """
        if len(self._queued) == AHEAD_STEPS:
            self._queued[0]["loss"].block_until_ready()
        self._queued.append(metrics)
        self._metrics.append(metrics)
        if self._started is None:  # the first step compiles: the clock starts behind it
            metrics["loss"].block_until_ready()
            self._started = self._clock()
            if self._began is not None:
                self._compile_seconds = self._started - self._began
        else:
            self._timed_steps += 1
        if len(self._metrics) - self._seen == QUIET_STEPS:
            self.report_skipped()
            if not self._config.log_every_steps:
                self._metrics, self._seen = [], 0

    def restart_clock(self) -> None:
        """Leaves what was done since the last entry out of the speed."""
        if self._started is not None:  # before the first step nothing is timed
            self._timed_steps, self._started, self._waited = 0, self._clock(), 0.0

    def close(self) -> dict[str, float]:
        """Means over the window, as they are logged, and a new window. Raises as `add` does.

        The first one says what the first step took, nearly all of it to compile.
        """
        self.report_skipped()
        metrics = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(self._metrics))
        seconds = self._clock() - self._started
        rate = self._timed_steps * self._config.batch_size / seconds if self._timed_steps else 0.0
        # A skipped step's loss is not finite; the others still say how training goes.
        good = metrics["skipped"] == 0
        weight = metrics["quarter_weight"][good].sum(0)
        sums = {name: by[good].sum(0) for name, by in metrics["quarter_sums"].items()}
        numbers = {
            **{name: _mean(metrics[name][good]) for name in sums},
            **quarter_means(sums, weight),
            "grad_norm": _mean(metrics["grad_norm"][good]),
            "learning_rate": metrics["learning_rate"][-1],
            "images_per_second": rate,
            "skipped_steps": (~good).sum(),
            **self._rates(rate),
        }
        if self._timed_steps:
            numbers["data_wait_share"] = self._waited / seconds
        if self._compile_seconds is not None:
            numbers["compile_seconds"], self._compile_seconds = self._compile_seconds, None
        self._metrics, self._seen = [], 0
        self.restart_clock()
        return {name: float(number) for name, number in numbers.items()}

    def report_skipped(self) -> None:
        """Reports the skipped steps that were not yet; raises as `add`. Waits for the device."""
        metrics, self._seen = self._metrics[self._seen :], len(self._metrics)
        skipped = jax.device_get([step["skipped"] for step in metrics])
        for step, in_a_row in zip(metrics, skipped, strict=True):
            if in_a_row:
                number, suspect_t = jax.device_get((step["step"], step["suspect_t"]))
                self._report(int(number), suspect_t)
        most, longest = self._config.max_skipped_steps, max(skipped, default=0)
        if 0 < most <= longest:
            raise RunError(
                f"{longest} steps in a row had a loss or gradient that is not finite; the last "
                "checkpoint is kept; look at the data, or start anew in another --workdir with a "
                "lower --train.learning-rate"
            )


def quarter_means(sums: dict[str, np.ndarray], weight: np.ndarray) -> dict[str, float]:
    """{"loss_q0": ...}: means of what was summed up in each quarter of the chain, if anything."""
    return {
        f"{name}_q{q}": by[q] / weight[q]
        for name, by in sums.items()
        for q in range(QUARTERS)
        if weight[q]
    }


def _mean(values: np.ndarray) -> float:
    return values.mean() if len(values) else float("nan")
