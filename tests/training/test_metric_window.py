"""The metrics between two log entries: means, speed, waiting for data, skipped steps."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_jax.config import TrainConfig
from ddpm_jax.errors import RunError
from ddpm_jax.training.metric_window import MetricWindow
from tests.training.fakes import metrics_of


def make_window(seconds: list[float], reported: list | None = None, **settings) -> MetricWindow:
    def report(step, nonfinite_t):
        if reported is not None:
            reported.append((step, nonfinite_t.tolist()))

    config = TrainConfig(batch_size=8, **settings)
    return MetricWindow(config, iter(seconds).__next__, report)


def test_the_numbers_are_means_and_the_speed_is_without_the_compiling_first_step():
    window = make_window([100.0, 104.0, 104.0, 106.0, 106.0])
    for loss in (1.0, 2.0, 3.0):
        window.add(metrics_of(loss))
    numbers = window.close()
    assert numbers["loss"] == 2.0 and numbers["skipped_steps"] == 0
    assert numbers["images_per_second"] == 2 * 8 / 4
    assert numbers["loss_q0"] == 1.5 and numbers["loss_q2"] == 0.5 and "loss_q1" not in numbers
    window.add(metrics_of(5.0))
    numbers = window.close()
    assert numbers["loss"] == 5.0 and numbers["images_per_second"] == 8 / 2


class Unfinished:
    """A loss that its device has not computed yet."""

    def is_ready(self) -> bool:
        return False

    def block_until_ready(self) -> None:
        pass

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        return np.array(1.0)


def test_the_time_for_a_batch_counts_as_waiting_only_while_the_devices_are_idle():
    first, second, third = (
        (0.0, 2.0),
        (6.0, 8.0),
        (8.0, 11.0),
    )  # when a batch is asked for, and when it comes
    window = make_window([*first, 6.0, *second, *third, 16.0, 16.0, 17.0, 17.0])
    batches = iter([{"label": 0}, {"label": 1}, {"label": 2}])
    assert window.take(batches) == {"label": 0}
    window.add(metrics_of())
    assert window.take(batches) == {"label": 1}
    window.add(metrics_of() | {"loss": Unfinished()})
    window.take(batches)
    window.add(metrics_of())
    numbers = window.close()
    assert numbers["data_wait_share"] == 2 / 10
    assert numbers["compile_seconds"] == 4
    window.add(metrics_of())
    numbers = window.close()
    assert numbers["data_wait_share"] == 0 and "compile_seconds" not in numbers


def test_the_devices_are_never_more_than_a_few_steps_behind():
    window, waited_for = make_window([0.0]), []
    for step in range(5):
        loss = SimpleNamespace(block_until_ready=partial(waited_for.append, step))
        window.add(metrics_of() | {"loss": loss})
    assert waited_for == [0, 0, 1, 2]  # step 0 twice: it compiles


def test_the_clock_starts_after_the_first_step_whatever_came_before():
    window = make_window([0.0, 2.0, 6.0, 6.0, 8.0, 16.0, 16.0])
    window.restart_clock()  # as after pictures that a resumed run draws first
    batches = iter([{"label": 0}, {"label": 1}])
    for _ in range(2):
        window.take(batches)
        window.add(metrics_of())
    numbers = window.close()
    assert numbers["compile_seconds"] == 4
    assert numbers["images_per_second"] == 8 / 10 and numbers["data_wait_share"] == 2 / 10


def test_skipped_steps_are_left_out_of_the_means():
    window = make_window([0.0, 1.0, 1.0])
    window.add(metrics_of(1.0))
    window.add(metrics_of(float("nan"), skipped=1))
    numbers = window.close()
    assert numbers["loss"] == 1.0 and numbers["skipped_steps"] == 1


@pytest.mark.parametrize("most", [2, 0])
def test_too_many_skipped_steps_in_a_row_stop_the_run_even_if_good_ones_follow(most):
    window = make_window([0.0, 1.0, 1.0], max_skipped_steps=most)
    for skipped in (1, 2, 0):
        window.add(metrics_of(skipped=skipped))
    if most:
        with pytest.raises(RunError, match="2 steps in a row"):
            window.close()
    else:
        window.close()


def test_skipped_steps_stop_a_run_that_logs_nothing():
    window = make_window([0.0], max_skipped_steps=50, log_every_steps=0)
    with pytest.raises(RunError, match="in a row"):
        for step in range(1, 200):
            window.add(metrics_of(skipped=step))


@pytest.mark.parametrize("log_every", [0, 1000])
def test_every_skipped_step_is_reported_once_even_if_nothing_is_logged(log_every):
    reported = []
    window = make_window([0.0, 1.0, 1.0], reported, log_every_steps=log_every)
    skipped = {1, 99, 100, 101, 200, 205}
    for step in range(1, 211):
        window.add(metrics_of(skipped=int(step in skipped), step=step))
    assert [step for step, _ in reported] == [1, 99, 100, 101, 200]
    assert window.close()["skipped_steps"] == (6 if log_every else 1)
    assert reported == [(step, [-1, 17]) for step in sorted(skipped)]


def test_skipped_steps_are_reported_before_they_stop_the_run():
    reported = []
    window = make_window([0.0, 1.0], reported, max_skipped_steps=2)
    for n in (1, 2):
        window.add(metrics_of(skipped=n, step=n))
    with pytest.raises(RunError):
        window.close()
    assert [step for step, _ in reported] == [1, 2]
