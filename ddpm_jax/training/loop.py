"""The training loop: its steps, and what happens after each of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, TrainConfig, serialization, traced_steps
from ddpm_jax.data import Batches, Source, train_batches
from ddpm_jax.runs.checkpoints import Checkpoints
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.history import recorded
from ddpm_jax.runs.metrics_log import MetricsLog, read_records
from ddpm_jax.runtime import devices, processes, signals
from ddpm_jax.runtime.progress import Progress, progress
from ddpm_jax.training.evaluators import Evaluator, Results, due
from ddpm_jax.training.metric_window import MetricWindow, last_step_finite
from ddpm_jax.training.profile import profiled, warn_of_missed_steps
from ddpm_jax.training.skipped import make_report
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import TrainStep
from ddpm_jax.training.validation import BestScore, EarlyStop
from ddpm_jax.visualization.plots import save_curves


class Run(NamedTuple):
    """A run that is ready to train: all that stays the same from its first step to its last."""

    config: Config
    workdir: Path
    source: Source  # of the training examples
    mesh: Mesh
    train_step: TrainStep  # compiled for the mesh
    evaluators: Sequence[Evaluator]
    rates: Callable[[float], dict[str, float]]  # numbers for the log, from the images per second


def train_loop(run: Run, state: TrainState, checkpoints: Checkpoints) -> None:
    """Trains from `state` to the last step, or until the held-out loss stops falling.

    Raises:
      RunError: too many steps in a row were not finite, or a checkpoint could not be written.
      signals.Interrupted: a signal came; the steps until then are saved.
    """
    config, first = run.config.train, int(state.step)
    with (
        MetricsLog(run.workdir, first, run.config) as log,
        _batches(run, first) as batches,
        progress(config.steps, first, "step", run.workdir.name) as bar,
    ):
        report = make_report(log, run.source, run.config)
        window = MetricWindow(config, time.monotonic, report, run.rates)
        loop = _Loop(run, checkpoints, log, window, bar, state, first)
        with (
            recorded(run.workdir, first, lambda: loop.step),
            signals.deferred(loop.save_at_stop),
        ):
            loop.train(batches)
            checkpoints.wait()
            finish(log, run.workdir, loop.state, run.source)


def _batches(run: Run, first: int) -> Batches:
    """This process's part of the batches after step `first`."""
    return train_batches(
        run.source,
        run.config.data,
        run.config.train.batch_size,
        run.config.train.seed,
        start_step=first,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


@dataclass
class _Loop:
    """A run while it trains. The last three fields change with each step."""

    run: Run
    checkpoints: Checkpoints
    log: MetricsLog
    window: MetricWindow
    bar: Progress
    state: TrainState
    step: int  # that of `state`, without a wait for the device
    best_score: float | None = None  # this step's score, if it is the lowest so far

    def train(self, batches: Batches) -> None:
        """All steps. The body of the loop is the order of events."""
        config, first = self.run.config.train, int(self.state.step)
        early_stop = EarlyStop(config.early_stop_validations, self.log.earlier)
        best = BestScore(self.run.config.evaluate, self.log.earlier)
        self.best_score = best.add(self.evaluate(first, lambda evaluator: evaluator.missing(first)))
        if self.best_score is not None:
            self.save(first)
        for step in self.steps(first, early_stop):
            self.advance(batches)
            if due(step, config.log_every_steps, config.steps):
                self.log_window(step)
            results = self.evaluate(step, lambda evaluator: evaluator.before_save)
            validated = "held_out_loss" in results
            loss = float(results["held_out_loss"]) if validated else None
            lowest_loss = early_stop.add(loss) if validated else None
            self.best_score = best.add(results) if best.at_work else lowest_loss
            last = step == config.steps or early_stop.over
            if last:
                log_rest(self.log, step, self.window, config)
            save = due(step, config.checkpoint_every_steps, config.steps)
            if last or self.best_score is not None or (save and last_step_finite(self.state)):
                self.save(step)
            self.evaluate(step, lambda evaluator: not evaluator.before_save)
            self.bar.update(1)
            if not last:  # the end of the run waits for the last save anyway
                self.checkpoints.check()
            signals.check_together(step)
        if early_stop.over:
            print(
                f"stops early: {config.early_stop_validations} validations in a row had no lower"
                " held-out loss; the weights of the lowest are kept, and drawn from"
            )

    def steps(self, first: int, early_stop: EarlyStop) -> Iterator[int]:
        """The steps after `first`, until early stopping; those that the config names are traced."""
        traced, last = traced_steps(self.run.config.profile), self.run.config.train.steps
        warn_of_missed_steps(traced, first, last)
        return profiled(
            takewhile(lambda step: not early_stop.over, range(first + 1, last + 1)),
            traced,
            self.run.workdir / "tensorboard",
            lambda: jax.block_until_ready(self.state),
        )

    def advance(self, batches: Batches) -> None:
        """One training step."""
        batch = devices.shard_local_batch(self.window.take(batches), self.run.mesh)
        self.state, metrics = self.run.train_step(self.state, batch)
        self.step += 1
        self.window.add(metrics)

    def log_window(self, step: int) -> None:
        """Logs the steps since the last log entry."""
        numbers = self.window.close()
        self.log.scalars(step, numbers)
        loss, rate = numbers["loss"], numbers["images_per_second"]
        self.bar.set_postfix({"loss": f"{loss:.4f}", "images/s": f"{rate:.0f}"}, refresh=False)

    def evaluate(self, step: int, chosen: Callable[[Evaluator], bool]) -> Results:
        """Runs and logs those evaluators that are due after `step` and `chosen`."""
        all_results: dict[str, float | np.ndarray] = {}
        for evaluator in self.run.evaluators:
            if due(step, evaluator.every_steps, self.run.config.train.steps) and chosen(evaluator):
                results = evaluator.evaluate(step, self.state)
                log_results(self.log, step, results)
                self.window.restart_clock()
                all_results |= results
        return all_results

    def save(self, step: int) -> None:
        """Starts to write a checkpoint, with its score if that is the best so far."""
        config = serialization.to_json(self.run.config)
        self.checkpoints.save(step, self.state, config, self.best_score)

    def save_at_stop(self) -> str:
        """Logs and saves what a stopped run has not yet; says what is saved."""
        step, saved = int(self.state.step), self.checkpoints.saved
        log_rest(self.log, step, self.window, self.run.config.train)
        if saved < step and (self.best_score is not None or last_step_finite(self.state)):
            self.save(step)
        self.checkpoints.wait()
        saved = self.checkpoints.saved
        return f"after step {step}, saved" + (f" up to step {saved}" if saved < step else "")


def log_results(log: MetricsLog, step: int, results: Results) -> None:
    """Logs the results of an evaluator: numbers, and pictures, uint8 [H, W, C]."""
    pictures = {name: x for name, x in results.items() if isinstance(x, np.ndarray)}
    if numbers := {name: x for name, x in results.items() if not isinstance(x, np.ndarray)}:
        log.scalars(step, numbers)
    for name, picture in pictures.items():
        log.image(step, name, picture)


def log_rest(log: MetricsLog, step: int, window: MetricWindow, config: TrainConfig) -> None:
    """Logs the steps since the last log entry, for a run that ends before the next one.

    Reports the skipped ones even if the config asks for no log. Raises as `MetricWindow.add`.
    """
    window.report_skipped()
    if window and config.log_every_steps:
        log.scalars(step, window.close())


def finish(log: MetricsLog, workdir: Path, state: TrainState, source: Source) -> None:
    """The last line of the log, with digests of the state, and the plot of the loss."""
    step = int(state.step)
    digests: dict[str, Any] = {
        "params_sha256": sha256(state.params),
        "ema_sha256": sha256(state.ema),
        "opt_state_sha256": sha256(state.opt_state),
    }
    if state.extra_ema:
        digests["extra_ema_sha256"] = {d: sha256(ema) for d, ema in state.extra_ema.items()}
    # Each process knows only of the broken images that it has read.
    if broken := set().union(*processes.all_gather_objects(set(source.broken))):
        print(f"{len(broken)} of {len(source)} images were broken and left out")
    log.event("finished", step=step, **digests)
    if processes.is_main_process():
        save_curves(read_records(workdir / "metrics.jsonl"), workdir / "loss.png")
    print(f"finished after step {step}: {workdir}, params {digests['params_sha256'][:12]}")
