"""Steps that are not finite, in a whole run: named, not saved, and the end of it if they last."""

import json
import logging
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax import data
from ddpm_jax.commands import train
from ddpm_jax.config import DataConfig
from ddpm_jax.runtime.script import run_script

BATCH = 8
OPTIONS = f"""
--config configs/s_curve.py --model.channels 8 --model.num-res-blocks 1 --diffusion.timesteps 20
--train.batch-size {BATCH} --train.steps 12 --train.warmup-steps 0 --train.sample-every-steps 0
--train.log-every-steps 6 --train.checkpoint-every-steps 2 --train.max-skipped-steps 4
""".split()
PLACE = 3  # of the bad example in the batch


@pytest.fixture
def start(monkeypatch, capsys, tmp_path):
    """`start(bad, stop)`: exit code and stderr of a run; steps of `bad` spoilt, SIGTERM in one."""

    def start(bad: range = range(0), stop: int | None = None, more: str = "") -> tuple[int, str]:
        first = 1 + max((int(path.name) for path in tmp_path.glob("run/checkpoints/*")), default=0)
        shard_local_batch, steps = train.devices.shard_local_batch, iter(range(first, 100))

        def spoilt(batch: dict, mesh) -> dict:
            if (step := next(steps)) in bad:
                batch["x"][PLACE] = np.nan
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return shard_local_batch(batch, mesh)

        command = ["train.py", "--workdir", str(tmp_path / "run"), *OPTIONS, *more.split()]
        with monkeypatch.context() as patch:
            patch.setattr(train.devices, "shard_local_batch", spoilt)
            patch.setattr(sys, "argv", command)
            patch.chdir(Path(__file__).resolve().parents[2])
            try:
                run_script(train.main)
                code = 0
            except SystemExit as end:
                code = end.code
        return code, capsys.readouterr().err

    return start


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())


def events(tmp_path: Path) -> list[dict]:
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record.get("event") == "skipped"]


def test_a_bad_example_is_named_with_its_place_and_its_t(start, tmp_path, caplog):
    assert start(range(8, 9))[0] == 0
    (event,) = events(tmp_path)
    points = data.load_source(DataConfig(name="s_curve"))
    index = data.batch_indices(len(points), BATCH, seed=0, step=7)[PLACE]
    assert event["step"] == 8 and event["count"] == 1
    assert event["positions"] == [PLACE] and event["examples"] == [index]
    assert 0 <= event["t"][0] < 20
    (message,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert message == (
        f"step 8 is skipped, its loss or gradient is not finite: 1 of 8 examples, {index} "
        f"(t = {event['t'][0]})"
    )
    assert kept(tmp_path) == ["10", "12", "6"]  # not that of step 8


def test_steps_that_stay_bad_stop_the_run_and_leave_its_good_checkpoints(start, tmp_path):
    for attempt in range(2):  # it goes on from step 4, and stops there again
        code, stderr = start(range(5, 100))
        assert code == 1 and "steps in a row had a loss or gradient that is not finite" in stderr
        assert kept(tmp_path) == ["2", "4"]
        assert [event["step"] for event in events(tmp_path)] == list(range(5, 13)), attempt
    # A stop amid them saves nothing either.
    code, stderr = start(range(5, 100), stop=6)
    assert code == 75 and "stopped by SIGTERM after step 6, saved up to step 4;" in stderr
    assert kept(tmp_path) == ["2", "4"]
    # And without them, all is as if they had never been.
    assert start()[0] == 0
    end = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    other = tmp_path / "run"
    other.rename(tmp_path / "spoilt")
    assert start()[0] == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1] == end


def test_the_last_steps_are_looked_at_even_if_nothing_is_logged(start, tmp_path):
    quiet = "--train.log-every-steps 0"
    code, stderr = start(range(9, 100), stop=11, more=quiet)
    assert code == 75 and "after step 11, saved up to step 8;" in stderr
    assert [event["step"] for event in events(tmp_path)] == [9, 10, 11]
    code, stderr = start(range(9, 100), more=quiet)
    assert code == 1 and "4 steps in a row" in stderr
    assert [event["step"] for event in events(tmp_path)] == [9, 10, 11, 12]
    assert kept(tmp_path) == ["4", "6", "8"]
