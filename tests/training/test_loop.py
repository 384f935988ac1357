"""The training loop: the order of events, the resume rules, and what a stop leaves."""

import dataclasses
import os
import signal

import numpy as np
import pytest

from ddpm_jax.config import TrainConfig
from ddpm_jax.runs.checkpoints import Checkpoints
from ddpm_jax.runs.metrics_log import MetricsLog, read_records
from ddpm_jax.runtime import signals
from ddpm_jax.training import loop
from ddpm_jax.training.evaluators import Evaluator
from ddpm_jax.training.metric_window import MetricWindow
from tests.training.fakes import counting_run, first_state, metrics_of


def train(run: loop.Run, first: int = 0, keep: int = 9) -> None:
    with Checkpoints(run.workdir / "checkpoints", keep) as checkpoints:
        loop.train_loop(run, first_state(first), checkpoints)


def steps_of(run: loop.Run, name: str) -> list[int]:
    """The steps at which the log has an entry with this name."""
    return [r["step"] for r in read_records(run.workdir / "metrics.jsonl") if name in r]


def saved_steps(run: loop.Run) -> list[int]:
    return sorted(int(path.name) for path in (run.workdir / "checkpoints").iterdir())


def test_a_step_is_logged_then_evaluated_then_saved_then_evaluated_again(tmp_path):
    events = []
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=9)

    def note(name: str):
        def evaluate(step: int, state) -> dict:
            assert int(state.step) == step
            events.append((name, step, max(steps_of(run, "loss")), checkpoints.saved))
            return {name: 0.5}

        return evaluate

    evaluators = [Evaluator(4, note("after")), Evaluator(3, note("before"), before_save=True)]
    settings = {"steps": 6, "log_every_steps": 2, "checkpoint_every_steps": 2}
    run = counting_run(tmp_path, evaluators, **settings)
    with checkpoints:
        loop.train_loop(run, first_state(), checkpoints)
    # (evaluator, step, last step in the log, last step saved)
    assert events == [
        ("before", 3, 2, 2),
        ("after", 4, 4, 4),
        ("before", 6, 6, 4),
        ("after", 6, 6, 6),
    ]
    assert steps_of(run, "loss") == [2, 4, 6]
    assert steps_of(run, "before") == [3, 6] and steps_of(run, "after") == [4, 6]
    assert steps_of(run, "params_sha256") == [6]
    assert saved_steps(run) == [2, 4, 6]


@pytest.mark.parametrize(
    ("first", "missing", "evaluated"),
    [(3, True, [3, 6]), (3, False, [6]), (4, True, [6]), (0, True, [3, 6])],
)
def test_a_resumed_run_makes_only_the_missing_results_of_its_own_step_again(
    tmp_path, first, missing, evaluated
):
    seen, asked = [], []

    def evaluate(step: int, state) -> dict:
        seen.append(step)
        return {}

    def is_missing(step: int) -> bool:
        asked.append(step)
        return missing

    run = counting_run(tmp_path, [Evaluator(3, evaluate, missing=is_missing)], steps=6)
    train(run, first)
    assert seen == evaluated
    assert asked == ([3] if first == 3 else [])


def test_numbers_and_pictures_of_an_evaluator_go_to_the_log(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(MetricsLog, "image", lambda self, *image: shown.append(image))
    picture = np.zeros((4, 4, 3), np.uint8)
    run = counting_run(
        tmp_path, [Evaluator(1, lambda step, state: {"fid": 2.0, "grid": picture})], steps=1
    )
    train(run)
    assert steps_of(run, "fid") == [1] and steps_of(run, "grid") == []
    assert shown == [(1, "grid", picture)]


def test_the_run_ends_early_when_the_held_out_loss_stops_falling(tmp_path, capsys):
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.0}
    validation = Evaluator(2, lambda step, state: {"held_out_loss": losses[step]}, before_save=True)
    run = counting_run(
        tmp_path, [validation], steps=20, early_stop_validations=2, checkpoint_every_steps=0
    )
    train(run, keep=1)
    assert steps_of(run, "held_out_loss") == [2, 4, 6, 8]
    assert "stops early: 2 validations" in capsys.readouterr().out
    # Beside the last checkpoint, that of the lowest loss is kept.
    assert saved_steps(run) == [4, 8]


def test_a_signal_stops_the_run_after_its_step_which_is_logged_and_saved(tmp_path):
    def stop(step: int, state) -> dict:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    run = counting_run(tmp_path, [Evaluator(3, stop, before_save=True)], steps=6)
    stopped = pytest.raises(signals.Interrupted, match=r"SIGTERM after step 3, saved$")
    with stopped, signals.listening():
        train(run)
    assert steps_of(run, "loss") == [3] and saved_steps(run) == [3]


def test_the_last_steps_of_a_run_that_stops_are_logged(tmp_path):
    config = TrainConfig(batch_size=8, log_every_steps=10)
    window = MetricWindow(config, iter([0.0, 1.0, 1.0]).__next__, lambda step, t: None)
    with MetricsLog(tmp_path, 0) as log:
        loop.log_rest(log, 3, window, config)  # there is nothing to log
        window.add(metrics_of(2.0))
        loop.log_rest(log, 3, window, dataclasses.replace(config, log_every_steps=0))
        loop.log_rest(log, 3, window, config)
    (line,) = read_records(tmp_path / "metrics.jsonl")
    assert line["step"] == 3 and line["loss"] == 2.0
