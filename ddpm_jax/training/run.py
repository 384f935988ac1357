"""A run around its steps: its folder, its log entries, its end."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax import checkpoint, config_json, processes, visual
from ddpm_jax.config import Config, TrainConfig
from ddpm_jax.data import Source, first_images, shrink
from ddpm_jax.digest import sha256
from ddpm_jax.errors import RunError, UserError
from ddpm_jax.files import replacing
from ddpm_jax.sampling.draw import choose_labels
from ddpm_jax.training.metrics import MetricsLog, read_records
from ddpm_jax.training.skipped import Report
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import QUARTERS, Batch, Metrics

QUIET_STEPS = 100  # between looks for skipped ones, if no log entry comes before
AHEAD_STEPS = 2  # that the devices may have before them: a stop has to wait for those


def claim(workdir: Path, config: Config) -> None:
    """Writes the config into a new run folder; raises UserError if it holds another run.

    A folder of imported weights takes any config of the same network, until training saves its
    first checkpoint there.
    """
    path = workdir / "config.json"
    if path.exists():
        old = config_json.read_config(path)
        changed = config_json.differences(config, old)
        wanted = "give the settings it was started with"
        if checkpoint.only_imported(workdir / "checkpoints"):
            changed = _of_the_network(changed, config, old)
            wanted = "import its weights anew with --model CONFIG"
        if changed:
            raise UserError(
                f"{workdir} holds a run of another config ({', '.join(changed)}): choose another "
                f"--workdir, or {wanted}"
            )
    try:
        with replacing(path) as temporary:
            temporary.write_text(config_json.to_json(config))
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error.strerror}") from error


def _of_the_network(changed: list[str], new: Config, old: Config) -> list[str]:
    """Those of `config_json.differences` that imported weights would not survive."""
    learned = [config.diffusion.variance.startswith("learned") for config in (new, old)]
    free = {"model.dropout", "model.dtype", "model.remat"}
    fixed = {"data.image_size", "data.channels", "data.low_res_size"}
    fixed |= {"diffusion.variance"} if learned[0] != learned[1] else set()
    names = {phrase: phrase.split()[0] for phrase in changed}
    return [
        phrase
        for phrase, name in names.items()
        if name in fixed or (name.startswith("model.") and name not in free)
    ]


def check_labels(config: Config, num_classes: int) -> None:
    """Raises UserError unless the labels of the data are those that the model expects."""
    wanted = config.model.num_classes
    if wanted and wanted != num_classes:
        has = f"has {num_classes} classes" if num_classes else "has no labels"
        split = f" (split {config.data.split})" if config.data.name.startswith("tfds:") else ""
        raise UserError(
            f"--model.num-classes {wanted}: {config.data.name}{split} {has}; "
            f"set it to {num_classes}{' (unconditional)' if not num_classes else ''}"
        )


def picture_inputs(config: Config, source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels of the pictures drawn in training, and what a super-resolution model enlarges there.

    That is the first training images, their squares of pixels averaged: uint8 [N, h, w, C].
    """
    classes, num = config.model.num_classes, config.sample.num
    if not config.data.low_res_size:
        return choose_labels("", num, classes, seed=0), None
    images, labels = first_images(source, config.data, num)
    low_res = shrink(images, config.data.low_res_size)
    return labels if classes else np.full_like(labels, -1), low_res


def due(step: int, every: int, steps: int) -> bool:
    """Whether what happens every so many steps and at the end happens after `step`; 0: never."""
    return every > 0 and step > 0 and (step % every == 0 or step == steps)


def sound(state: TrainState) -> bool:
    """Whether the last step was not skipped. Waits for the device.

    States amid skipped steps are not saved: the parameters may be what nothing is finite with, and
    would take the place of a checkpoint of before.
    """
    return not state.skipped


class Window:
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
            self.look()
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
        self.look()
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

    def look(self) -> None:
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


def log_rest(log: MetricsLog, step: int, window: Window, config: TrainConfig) -> None:
    """Logs the steps since the last entry, for a run that ends before the next one.

    Reports those that were skipped even if nothing is logged. Raises as `Window.add`.
    """
    window.look()
    if window and config.log_every_steps:
        log.scalars(step, window.close())


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


def shown(numbers: dict[str, float]) -> dict[str, str]:
    """What the progress line says of a log entry."""
    return {"loss": f"{numbers['loss']:.4f}", "images/s": f"{numbers['images_per_second']:.0f}"}


def finish(log: MetricsLog, workdir: Path, state: TrainState, source: Source) -> None:
    """The last line of the log, with digests of the state, and the picture of the loss."""
    step = int(state.step)
    digests: dict[str, Any] = {
        "params_sha256": sha256(state.params),
        "ema_sha256": sha256(state.ema),
        "opt_state_sha256": sha256(state.opt_state),
    }
    if state.extra_ema:
        digests["extra_ema_sha256"] = {d: sha256(ema) for d, ema in state.extra_ema.items()}
    # Each of several processes knows of those that it met.
    if broken := set().union(*processes.from_all(set(source.broken))):
        print(f"{len(broken)} of {len(source)} images were broken and left out")
    log.event("finished", step=step, **digests)
    if processes.is_first():
        visual.save_curves(read_records(workdir / "metrics.jsonl"), workdir / "loss.png")
    print(f"finished after step {step}: {workdir}, params {digests['params_sha256'][:12]}")
