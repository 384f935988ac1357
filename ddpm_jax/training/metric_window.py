"""The metrics of the steps since the last log entry, gathered without waiting for the devices."""

from collections import deque
from collections.abc import Callable, Iterator

import jax
import numpy as np

from ddpm_jax.config import TrainConfig
from ddpm_jax.errors import RunError
from ddpm_jax.training.skipped import Report
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import QUARTERS, Metrics

QUIET_STEPS = 100  # after these without a log entry, skipped steps are looked for
AHEAD_STEPS = 2  # the host may be this far ahead of the devices; a stop waits for these steps


def last_step_finite(state: TrainState) -> bool:
    """True unless the last step was skipped. Waits for the device.

    A state after a skipped step is not saved. Its parameters may be the reason why nothing is
    finite, and the save would push an older, good checkpoint out.
    """
    return not state.skipped


class MetricWindow:
    """The metrics of the steps since the last log entry. They stay on the device until `close`.

    Args:
      config: batch size, log interval, limit of skipped steps.
      clock: the time in seconds.
      report: called for each skipped step.
      rates: further numbers for the log, made from the images per second.
    """

    def __init__(
        self,
        config: TrainConfig,
        clock: Callable[[], float],
        report: Report,
        rates: Callable[[float], dict[str, float]] = lambda images_per_second: {},
    ):
        self._config, self._clock, self._report, self._rates = config, clock, report, rates
        self._metrics: list[Metrics] = []
        self._checked = 0  # the first ones, which were searched for skipped steps
        self._queued: deque[Metrics] = deque(maxlen=AHEAD_STEPS)
        self._timed_steps = 0
        self._started: float | None = None  # of the clock; after the first step, which compiles
        self._first_batch: float | None = None  # when it arrived
        self._waited = 0.0  # seconds for data, while the devices were idle
        self._compile_seconds: float | None = None

    def take(self, batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The next batch. The time for it counts as waiting for data if the devices are idle."""
        asked = self._clock()
        batch = next(batches)
        now = self._clock()
        if self._started is None:
            self._first_batch = now
        elif self._queued[-1]["loss"].is_ready():
            self._waited += now - asked
        return batch

    def __len__(self) -> int:
        return len(self._metrics)

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of one step.

        Waits for the step before the last AHEAD_STEPS, and for no later one. So a skipped step is
        reported some time before the window closes, not at once.

        Raises:
          RunError: too many steps in a row were skipped.
        """
        if len(self._queued) == AHEAD_STEPS:
            self._queued[0]["loss"].block_until_ready()
        self._queued.append(metrics)
        self._metrics.append(metrics)
        if self._started is None:  # the first step compiles, so the clock starts after it
            metrics["loss"].block_until_ready()
            self._started = self._clock()
            if self._first_batch is not None:
                self._compile_seconds = self._started - self._first_batch
        else:
            self._timed_steps += 1
        if len(self._metrics) - self._checked == QUIET_STEPS:
            self.report_skipped()
            if not self._config.log_every_steps:
                self._metrics, self._checked = [], 0

    def restart_clock(self) -> None:
        """Excludes the time since the last log entry from the speed."""
        if self._started is not None:  # before the first step nothing is timed
            self._timed_steps, self._started, self._waited = 0, self._clock(), 0.0

    def close(self) -> dict[str, float]:
        """Returns the numbers of a log entry, and starts a new window. Raises as `add` does.

        The first entry holds "compile_seconds", the time of the first step, nearly all of which is
        compilation.
        """
        self.report_skipped()
        metrics = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(self._metrics))
        assert self._started is not None  # since a step was added
        seconds = self._clock() - self._started
        rate = self._timed_steps * self._config.batch_size / seconds if self._timed_steps else 0.0
        # The loss of a skipped step is not finite; the means are over the others.
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
        self._metrics, self._checked = [], 0
        self.restart_clock()
        return {name: float(number) for name, number in numbers.items()}

    def report_skipped(self) -> None:
        """Reports the skipped steps since the last call. Waits for the device; raises as `add`."""
        metrics, self._checked = self._metrics[self._checked :], len(self._metrics)
        skipped = jax.device_get([step["skipped"] for step in metrics])
        for step, in_a_row in zip(metrics, skipped, strict=True):
            if in_a_row:
                number, nonfinite_t = jax.device_get((step["step"], step["nonfinite_t"]))
                self._report(int(number), nonfinite_t)
        most, longest = self._config.max_skipped_steps, max(skipped, default=0)
        if 0 < most <= longest:
            raise RunError(
                f"{longest} steps in a row had a loss or gradient that is not finite; the last "
                "checkpoint is kept; look at the data, or start anew in another --workdir with a "
                "lower --train.learning-rate"
            )


def quarter_means(sums: dict[str, np.ndarray], weight: np.ndarray) -> dict[str, float]:
    """{"loss_q0": ...}: the mean in each quarter of the chain that has any examples."""
    return {
        f"{name}_q{q}": by[q] / weight[q]
        for name, by in sums.items()
        for q in range(QUARTERS)
        if weight[q]
    }


def _mean(values: np.ndarray) -> float:
    return values.mean() if len(values) else float("nan")
