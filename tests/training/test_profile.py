"""The trace of some steps: what it holds, and when it is written."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.config import ProfileConfig, traced_steps
from ddpm_jax.training.profile import profiled, warn_of_missed_steps


def steps_in(folder: Path) -> list[int]:
    """The steps in the trace of a folder, by the file for Perfetto."""
    (path,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    assert list(path.parent.glob("*.xplane.pb"))  # and that of TensorBoard
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted(int(e["args"]["step_num"]) for e in events if e.get("name") == "train")


@pytest.mark.parametrize(
    ("wanted", "steps", "there"),
    [("3:4", range(1, 7), [3, 4]), ("1:1", range(1, 3), [1]), ("5:9", range(4, 7), [5, 6])],
)
def test_the_steps_asked_for_are_traced_as_far_as_they_come(tmp_path, wanted, steps, there):
    x, traced = [jnp.ones(8)], traced_steps(ProfileConfig(wanted))
    seen = []
    for step in profiled(steps, traced, tmp_path, lambda: x[-1].block_until_ready()):
        x.append(jax.jit(jnp.sin)(x[-1]))
        seen.append(step)
    assert seen == list(steps)
    assert steps_in(tmp_path) == there


def test_a_run_that_is_stopped_amid_them_leaves_what_there_is(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        for step in profiled(range(1, 9), range(2, 8), tmp_path, lambda: None):
            jnp.ones(8).sum().block_until_ready()
            if step == 3:
                raise KeyboardInterrupt
    assert steps_in(tmp_path)[0] == 2


def test_only_the_steps_that_were_traced_are_announced(tmp_path, capsys):
    list(profiled(range(4, 7), range(2, 6), tmp_path, lambda: None))
    assert capsys.readouterr().out == f"steps 4 to 5 are traced in {tmp_path}\n"


@pytest.mark.parametrize(
    ("first", "last", "warning"),
    [
        (20, 90, "--profile.steps 10:15: the run is already after step 20; nothing is traced"),
        (15, 90, "--profile.steps 10:15: the run is already after step 15; nothing is traced"),
        (0, 9, "--profile.steps 10:15: the run ends with step 9; nothing is traced"),
        (14, 90, None),
        (0, 10, None),
    ],
)
def test_steps_that_will_not_run_are_warned_of(first, last, warning, caplog):
    warn_of_missed_steps(traced_steps(ProfileConfig("10:15")), first, last)
    warn_of_missed_steps(traced_steps(ProfileConfig()), first, last)
    assert caplog.messages == [warning] * (warning is not None)


def test_nothing_is_traced_unasked(tmp_path):
    asked = []
    steps = profiled(range(3), traced_steps(ProfileConfig()), tmp_path, lambda: asked.append(1))
    assert list(steps) == [0, 1, 2] and not asked and not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["5", "5:4", "0:4", "a:b", "1:2:3", ":"])
def test_other_words_are_refused(wrong):
    with pytest.raises(ValueError):
        traced_steps(ProfileConfig(wrong))
