"""train.py as a process: its contract, its end after kills, and what it never imports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ddpm_jax.runs.history import read_history
from tests.tiny_tfds import write_tfds

ROOT = Path(__file__).resolve().parents[2]
# A net that compiles fast; 60 steps, a checkpoint every 10.
TINY = """
--model.channels 8 --model.norm-groups 8 --model.channel-mult 1 --diffusion.timesteps 50
--sample.steps 10 --sample.num 4 --sample.batch-size 4 --train.steps 60 --train.batch-size 8
--train.log-every-steps 5 --train.sample-every-steps 30 --train.checkpoint-every-steps 10
--train.extra-ema-decays 0.5 0.7
""".split()

ENVIRONMENT = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}


def start(workdir: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "train.py", "--workdir", str(workdir), *TINY, *more]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(workdir: Path, *more: str) -> str:
    process = start(workdir, *more)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def records(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def untimed(record: dict) -> dict:
    """A record of the log without what differs from run to run."""
    timed = {"images_per_second", "data_wait_share", "model_flops_per_second", "compile_seconds"}
    return {name: value for name, value in record.items() if name not in timed}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(workdir)
    return workdir


def test_a_run_folder_holds_what_the_contract_says(undisturbed):
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["train"]["steps"] == 60 and config["data"]["name"] == "digits"
    *logged, last = records(undisturbed)
    assert [record["step"] for record in logged] == list(range(5, 61, 5))
    names = {
        "step",
        "loss",
        "grad_norm",
        "learning_rate",
        "images_per_second",
        "loss_q0",
        "loss_q3",
    }
    names |= {"data_wait_share", "model_flops_per_second"}
    assert all(names <= record.keys() for record in logged[2:])
    # Once, and there is no peak of a CPU to compare with.
    assert [r["step"] for r in logged if "compile_seconds" in r] == [5]
    assert not any("model_flops_utilisation" in record for record in logged)
    assert all(0 <= record["data_wait_share"] <= 1 for record in logged)
    assert last["event"] == "finished" and last["step"] == 60
    digests = [last[f"{name}_sha256"] for name in ("params", "ema", "opt_state")]
    digests += last["extra_ema_sha256"].values()
    assert len(set(digests)) == 5 and all(len(digest) == 64 for digest in digests)
    assert {path.name for path in (undisturbed / "samples").iterdir()} == {
        "step_00000030.png",
        "step_00000060.png",
    }
    assert {path.name for path in (undisturbed / "checkpoints").iterdir()} == {"40", "50", "60"}
    assert list((undisturbed / "tensorboard").iterdir())
    assert (undisturbed / "loss.png").stat().st_size > 1000


def kill_when(workdir: Path, reached: Callable[[], bool]) -> None:
    """Starts the command and kills it, as kill -9 does, once `reached()` holds."""
    process = start(workdir)
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, f"ended before it could be killed: {process.stdout.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_run_killed_at_any_moment_ends_as_if_undisturbed(undisturbed, tmp_path):
    workdir = tmp_path / "killed"
    checkpoints = workdir / "checkpoints"

    def logged(step: int) -> Callable[[], bool]:
        return lambda: any(record.get("step", 0) >= step for record in records(workdir))

    def saving() -> bool:
        return any("tmp" in path.name for path in checkpoints.glob("*"))

    kill_when(workdir, (workdir / "config.json").exists)  # before the first step
    kill_when(workdir, saving)  # in mid-save
    kill_when(workdir, logged(35))  # between two checkpoints
    output = run(workdir)
    assert "resumed after step" in output
    *steps, finished = records(workdir)
    assert finished == records(undisturbed)[-1]
    assert [record["step"] for record in steps] == list(range(5, 61, 5))
    for ours, theirs in zip(steps, records(undisturbed), strict=False):
        assert untimed(ours) == untimed(theirs)
    *killed, last = read_history(workdir)
    assert last.end == "finished" and last.last == 60
    assert killed and all(start.last is None for start in killed)


def test_a_finished_run_stays_as_it_is(undisturbed):
    before = (undisturbed / "metrics.jsonl").read_text()
    output = run(undisturbed)
    assert "finished after step 60" in output
    assert (undisturbed / "metrics.jsonl").read_text() == before


def test_training_on_a_tensorflow_data_set_never_imports_tensorflow(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(8, 8, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    rng = np.random.default_rng(0)
    records = [
        {"image": rng.integers(0, 256, (8, 8, 1), np.uint8), "label": i % 10} for i in range(20)
    ]
    write_tfds(tmp_path / "data", "made_up", features, {"train": records})
    # A stand-in that reports its import: with TensorFlow absent, not importing it proves nothing.
    fake = tmp_path / "path" / "tensorflow"
    fake.mkdir(parents=True)
    mark = tmp_path / "imported"
    (fake / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    options = ["--workdir", str(tmp_path / "run"), "--data.dir", str(tmp_path / "data")]
    options += ["--data.name", "tfds:made_up", "--train.checkpoint-every-steps", "0"]
    options += ["--train.sample-every-steps", "0"]
    script = f"""
import sys
sys.argv = ["train.py", *{[*TINY, *options]!r}]
import tensorflow_datasets
from ddpm_jax.commands import train
train.main()
assert "tensorflow" not in sys.modules
"""
    environment = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path / 'path'}:{ROOT}"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=300)
    assert not mark.exists()


EARLY = """
--config configs/digits_classifier.py --model.attention-resolutions 8 --model.num-head-channels 8
--train.learning-rate 0.1 --train.learning-rate-decay constant
--train.checkpoint-every-steps 7 --train.validate-every-steps 4 --train.early-stop-validations 2
--train.keep-checkpoints 1 --train.sample-every-steps 0
""".split()


@pytest.mark.slow
def test_a_run_stops_early_and_keeps_its_best_also_after_a_kill(tmp_path):
    output = run(tmp_path / "whole", *EARLY)
    assert "stops early: 2 validations" in output
    *steps, finished = records(tmp_path / "whole")
    losses = {r["step"]: r["held_out_loss"] for r in steps if "held_out_loss" in r}
    best = min(losses, key=losses.get)
    assert best < 60 and list(losses)[-1] == finished["step"] == best + 8
    kept = {path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()}
    assert kept == {str(best), str(best + 8)}

    # Stopped between the two validations that decide, it counts both.
    process = start(tmp_path / "killed", *EARLY)
    wanted = tmp_path / "killed" / "checkpoints" / str(best)
    while not any(r.get("step", 0) >= best + 4 for r in records(tmp_path / "killed")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wanted.exists()
    assert "resumed after step" in run(tmp_path / "killed", *EARLY)
    assert records(tmp_path / "killed")[-1] == finished
    again = run(tmp_path / "killed", *EARLY)
    assert f"resumed after step {best + 8}" in again and "stops early" in again
