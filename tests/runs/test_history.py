"""The history of a run: when it was started, on what, and how each start ended."""

import time
from pathlib import Path

import pytest

from ddpm_jax.runs.history import FILE, read_history, recorded
from ddpm_jax.runtime import signals


def test_each_start_is_kept_with_its_end(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    with recorded(tmp_path, 0, lambda: 20):
        time.sleep(0.05)
    with pytest.raises(signals.Interrupted), recorded(tmp_path, 20, lambda: 25):
        raise signals.Interrupted(15, "after step 25, saved")
    with pytest.raises(ValueError), recorded(tmp_path, 25, lambda: 30):
        raise ValueError("two\nlines")
    whole = (tmp_path / FILE).read_text()
    with recorded(tmp_path, 30, lambda: 40):
        killed = (tmp_path / FILE).read_text()  # as kill -9 leaves it, and a torn line
    (tmp_path / FILE).write_text(killed + '{"time": 1, "ev')
    starts = read_history(tmp_path)
    assert [(start.first, start.last, start.end) for start in starts] == [
        (0, 20, "finished"),
        (20, 25, "SIGTERM after step 25, saved"),
        (25, 30, "two"),
        (30, None, "no end recorded: killed, or still at work"),
    ]
    assert killed.startswith(whole)
    assert (starts[0].seconds or 0) > 0.04 and starts[3].seconds is None
    assert starts[0].began.startswith(time.strftime("%Y-", time.gmtime()))
    assert starts[0].machine["devices"] == "8 x cpu" and "jax" in starts[0].versions


def test_a_run_goes_on_where_its_history_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with recorded(tmp_path, 0, lambda: 1):
        done = True
    assert done
