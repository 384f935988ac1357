"""The run around the steps: when things are due, what a window says, when it stops."""

import dataclasses
import json
from functools import partial
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Config, ModelConfig, TrainConfig
from ddpm_jax.data import check_num_classes
from ddpm_jax.errors import RunError, UserError
from ddpm_jax.runs import folder
from ddpm_jax.runs.metrics_log import MetricsLog, read_records
from ddpm_jax.training import loop
from ddpm_jax.training.metric_window import MetricWindow


def metrics(loss: float = 1.0, skipped: int = 0, step: int = 0) -> dict:
    return {
        "step": jnp.asarray(step),
        "nonfinite_t": jnp.array([-1, 17 if skipped else -1]),
        "loss": jnp.asarray(loss),
        "grad_norm": jnp.asarray(2.0),
        "learning_rate": jnp.asarray(0.1),
        "quarter_sums": {"loss": jnp.array([3.0, 0.0, 1.0, 0.0])},
        "quarter_weight": jnp.array([2.0, 0.0, 2.0, 0.0]),
        "skipped": jnp.asarray(skipped),
    }


def window(seconds: list[float], reported: list | None = None, **settings) -> MetricWindow:
    def report(step, nonfinite_t):
        if reported is not None:
            reported.append((step, nonfinite_t.tolist()))

    config = TrainConfig(batch_size=8, **settings)
    return MetricWindow(config, iter(seconds).__next__, report)


def test_things_are_due_at_their_steps_and_at_the_end():
    assert [s for s in range(1, 11) if loop.due(s, 4, 10)] == [4, 8, 10]
    assert not any(loop.due(s, 0, 10) for s in range(1, 11))


def test_a_window_logs_means_and_the_speed_without_the_compiling_first_step():
    log = window([100.0, 104.0, 104.0, 106.0, 106.0])
    for loss in (1.0, 2.0, 3.0):
        log.add(metrics(loss))
    numbers = log.close()
    assert numbers["loss"] == 2.0 and numbers["skipped_steps"] == 0
    assert numbers["images_per_second"] == 2 * 8 / 4
    assert numbers["loss_q0"] == 1.5 and numbers["loss_q2"] == 0.5 and "loss_q1" not in numbers
    log.add(metrics(5.0))
    numbers = log.close()
    assert numbers["loss"] == 5.0 and numbers["images_per_second"] == 8 / 2


class Unfinished:
    """A loss that its device is still at work on when it is asked for."""

    def is_ready(self) -> bool:
        return False

    def block_until_ready(self) -> None:
        pass

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        return np.array(1.0)


def test_what_a_batch_takes_is_waiting_only_while_the_devices_have_nothing_to_do():
    first, second, third = (0.0, 2.0), (6.0, 8.0), (8.0, 11.0)  # a batch is asked for, and comes
    log = window([*first, 6.0, *second, *third, 16.0, 16.0, 17.0, 17.0])
    batches = iter([{"label": 0}, {"label": 1}, {"label": 2}])
    assert log.take(batches) == {"label": 0}
    log.add(metrics())
    assert log.take(batches) == {"label": 1}
    log.add(metrics() | {"loss": Unfinished()})
    log.take(batches)
    log.add(metrics())
    numbers = log.close()
    assert numbers["data_wait_share"] == 2 / 10
    assert numbers["compile_seconds"] == 4
    log.add(metrics())
    numbers = log.close()
    assert numbers["data_wait_share"] == 0 and "compile_seconds" not in numbers


def test_the_devices_are_never_more_than_a_few_steps_behind():
    log, waited_for = window([0.0]), []
    for step in range(5):
        loss = SimpleNamespace(block_until_ready=partial(waited_for.append, step))
        log.add(metrics() | {"loss": loss})
    assert waited_for == [0, 0, 1, 2]  # the first one, because it compiles


def test_what_comes_before_the_first_step_starts_no_clock():
    log = window([0.0, 2.0, 6.0, 6.0, 8.0, 16.0, 16.0])
    log.restart_clock()  # as after pictures that a resumed run draws first
    batches = iter([{"label": 0}, {"label": 1}])
    for _ in range(2):
        log.take(batches)
        log.add(metrics())
    numbers = log.close()
    assert numbers["compile_seconds"] == 4
    assert numbers["images_per_second"] == 8 / 10 and numbers["data_wait_share"] == 2 / 10


def test_a_skipped_step_does_not_spoil_the_mean():
    log = window([0.0, 1.0, 1.0])
    log.add(metrics(1.0))
    log.add(metrics(float("nan"), skipped=1))
    numbers = log.close()
    assert numbers["loss"] == 1.0 and numbers["skipped_steps"] == 1


@pytest.mark.parametrize("most", [2, 0])
def test_too_many_skipped_steps_in_a_row_stop_the_run_wherever_they_lie(most):
    log = window([0.0, 1.0, 1.0], max_skipped_steps=most)
    for skipped in (1, 2, 0):
        log.add(metrics(skipped=skipped))
    if most:
        with pytest.raises(RunError, match="2 steps in a row"):
            log.close()
    else:
        log.close()


def test_skipped_steps_stop_a_run_that_logs_nothing():
    log = window([0.0], max_skipped_steps=50, log_every_steps=0)
    with pytest.raises(RunError, match="in a row"):
        for step in range(1, 200):
            log.add(metrics(skipped=step))


@pytest.mark.parametrize("log_every", [0, 1000])
def test_every_skipped_step_is_reported_once_even_if_nothing_is_logged(log_every):
    reported = []
    log = window([0.0, 1.0, 1.0], reported, log_every_steps=log_every)
    skipped = {1, 99, 100, 101, 200, 205}
    for step in range(1, 211):
        log.add(metrics(skipped=int(step in skipped), step=step))
    assert [step for step, _ in reported] == [1, 99, 100, 101, 200]
    assert log.close()["skipped_steps"] == (6 if log_every else 1)
    assert reported == [(step, [-1, 17]) for step in sorted(skipped)]


def test_skipped_steps_are_reported_before_they_stop_the_run():
    reported = []
    log = window([0.0, 1.0], reported, max_skipped_steps=2)
    for n in (1, 2):
        log.add(metrics(skipped=n, step=n))
    with pytest.raises(RunError):
        log.close()
    assert [step for step, _ in reported] == [1, 2]


def test_the_steps_of_a_run_that_stops_are_logged(tmp_path):
    config = TrainConfig(log_every_steps=10)
    log = window([0.0, 1.0, 1.0])
    with MetricsLog(tmp_path, 0) as file:
        loop.log_rest(file, 3, log, config)  # nothing is left to log
        log.add(metrics(2.0))
        loop.log_rest(file, 3, log, dataclasses.replace(config, log_every_steps=0))
        loop.log_rest(file, 3, log, config)
    (line,) = read_records(tmp_path / "metrics.jsonl")
    assert line["step"] == 3 and line["loss"] == 2.0


def test_a_run_folder_belongs_to_one_config(tmp_path):
    config = Config()
    folder.create_run_folder(tmp_path / "run", config)
    folder.create_run_folder(tmp_path / "run", config)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["seed"] == 0
    other = dataclasses.replace(config, train=TrainConfig(learning_rate=1.0))
    with pytest.raises(UserError, match=r"train\.learning_rate 0\.0002 -> 1\.0"):
        folder.create_run_folder(tmp_path / "run", other)
    # What a resumed run may change: how often things happen, and how long a constant rate runs.
    free = TrainConfig(steps=5, log_every_steps=7, checkpoint_every_steps=3)
    folder.create_run_folder(tmp_path / "run", dataclasses.replace(config, train=free))
    with pytest.raises(UserError, match="cannot be written"):
        folder.create_run_folder(tmp_path / "run" / "config.json" / "below", config)


def test_labels_of_the_data_and_of_the_model_agree():
    ten = Config(model=ModelConfig(num_classes=10))
    check_num_classes(ten, 10)
    check_num_classes(Config(), 10)
    for classes in (0, 5):
        with pytest.raises(UserError, match=r"--model\.num-classes 10"):
            check_num_classes(ten, classes)
