"""Training measures its samples as it goes, keeps the best checkpoint, and loses nothing."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from ddpm_jax.commands import train
from ddpm_jax.generation import load_run
from ddpm_jax.generation.generator import Generator
from ddpm_jax.runs.saved_steps import saved_steps
from ddpm_jax.runtime.script import run_script

OPTIONS = """
--data.image-size 8 --data.channels 1 --model.channels 8 --model.norm-groups 4
--model.channel-mult 1 --model.num-res-blocks 1 --model.attention-resolutions
--diffusion.timesteps 20 --sample.steps 4 --sample.sampler ddim --sample.batch-size 16
--train.batch-size 16 --train.steps 8 --train.sample-every-steps 0 --train.log-every-steps 0
--train.checkpoint-every-steps 0 --train.learning-rate 0.01 --train.keep-checkpoints 1
--train.ema-decay 0.5 --evaluate.every-steps 2 --evaluate.num 40
--evaluate.metrics frechet,precision --evaluate.features tests.evaluation.pixels:flat
""".split()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(folder) -> exit code, and the log of train.py with OPTIONS."""
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))

    def run(folder: Path, *options: str) -> tuple[int, list[dict]]:
        monkeypatch.setattr(sys, "argv", ["train.py", "--workdir", str(folder), *OPTIONS, *options])
        try:
            run_script(train.main)
            code = 0
        except SystemExit as ended:
            code = ended.code
        log = folder / "metrics.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return code, [json.loads(line) for line in lines]

    return run


def test_metrics_are_logged_and_the_best_checkpoint_is_kept_and_drawn_from(run, tmp_path):
    code, records = run(tmp_path / "run")
    found = {r["step"]: r["frechet"] for r in records if "frechet" in r}
    assert code == 0 and list(found) == [2, 4, 6, 8]
    measured = [record for record in records if "frechet" in record]
    assert all(0 <= r["precision"] <= 1 and r["frechet_standard_error"] > 0 for r in measured)
    best = min(found, key=found.get)
    assert saved_steps(tmp_path / "run" / "checkpoints") == sorted({best, 8})
    assert not (tmp_path / "run" / "evaluation" / "training").exists()
    batch = load_run(tmp_path / "run").generate(2)
    assert (batch.images == load_run(tmp_path / "run", best).generate(2).images).all()
    newest = load_run(tmp_path / "run", "newest").generate(2)
    assert (newest.images == load_run(tmp_path / "run", 8).generate(2).images).all()


@pytest.mark.slow  # as evaluate.py, killed, in tests/evaluation/test_evaluate.py
def test_a_run_stopped_amid_an_evaluation_goes_on_where_it_was(run, tmp_path, monkeypatch):
    _, whole = run(tmp_path / "whole")
    drawn, draw = [], Generator._draw

    def stop_in_the_second_batch(self, *arguments):
        drawn.append(1)
        if len(drawn) == 5:  # three batches at step 2, and one at step 4
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, *arguments)

    monkeypatch.setattr(Generator, "_draw", stop_in_the_second_batch)
    code, records = run(tmp_path / "stopped")
    assert code == 75 and [r["step"] for r in records if "frechet" in r] == [2]
    code, records = run(tmp_path / "stopped")
    assert code == 0 and len(drawn) == 13  # the batch under way alone was drawn twice
    for name in ("frechet", "params_sha256", "ema_sha256"):
        assert [r[name] for r in records if name in r] == [r[name] for r in whole if name in r]
    kept = saved_steps(tmp_path / "whole" / "checkpoints")
    assert saved_steps(tmp_path / "stopped" / "checkpoints") == kept


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--evaluate.metrics fdi", "fdi is no metric; did you mean fid?"),
        (
            "--evaluate.metrics bpd",
            "--evaluate.metrics bpd: training measures samples of",
        ),
        ("--evaluate.metrics fid", "--evaluate.metrics fid takes features of Inception"),
        (
            "--evaluate.features nowhere:there",
            "--evaluate.features nowhere:there: No module named",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_before_the_first_step(
    run, tmp_path, capsys, options, says
):
    code, records = run(tmp_path / "run", *options.split())
    error = capsys.readouterr().err
    assert code == 2 and not records and says in error and error.startswith("error: ")
