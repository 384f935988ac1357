"""The trace of some steps: what is in it, and when it is written."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.config import ProfileConfig, traced_steps
from ddpm_jax.training.profile import profiled


def steps_in(folder: Path) -> list[int]:
    """Those that the trace in a folder has, in the file for Perfetto."""
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


def test_nothing_is_traced_unasked(tmp_path):
    asked = []
    steps = profiled(range(3), traced_steps(ProfileConfig()), tmp_path, lambda: asked.append(1))
    assert list(steps) == [0, 1, 2] and not asked and not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["5", "5:4", "0:4", "a:b", "1:2:3", ":"])
def test_other_words_are_refused(wrong):
    with pytest.raises(ValueError):
        traced_steps(ProfileConfig(wrong))
