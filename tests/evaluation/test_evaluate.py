"""evaluate.py: the bound of a run, in which order and however often it is computed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import evaluate
from ddpm_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bpd(tiny_run, tmp_path, monkeypatch):
    """`bpd(name, "--num", ...)`: the numbers of an evaluation of the tiny run, and its folder."""

    def run(name: str, *options: str, workdir: Path = tiny_run) -> tuple[dict, Path]:
        out = tmp_path / name
        arguments = ["evaluate.py", "--workdir", str(workdir), "--out", str(out), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        evaluate.main()
        return json.loads((out / "bpd.json").read_text()), out

    return run


def totals(out: Path) -> np.ndarray:
    parts = sorted((out / "parts").iterdir())
    return np.concatenate([np.load(part)["total_bpd"] for part in parts])


def test_the_terms_sum_to_the_total_and_are_drawn(bpd):
    numbers, out = bpd("whole", "--num", "12", "--batch-size", "8")
    assert numbers["examples"] == 12 and numbers["timesteps"] == list(range(20))
    assert numbers["total_bpd"] == pytest.approx(
        sum(numbers["vb"]) + numbers["prior_bpd"], rel=1e-5
    )
    assert totals(out).mean() == pytest.approx(numbers["total_bpd"], rel=1e-6)
    # A network that was hardly trained still does better than 8 bits for each of 17 levels.
    assert 1 < numbers["total_bpd"] < 20
    assert len(numbers["xstart_mse"]) == len(numbers["eps_mse"]) == 20
    assert Image.open(out / "bpd.png").width == 1000


def test_an_examples_bound_depends_on_its_index_alone(bpd):
    _, whole = bpd("whole", "--num", "12", "--batch-size", "12")
    _, parts = bpd("parts", "--num", "10", "--batch-size", "4")
    np.testing.assert_allclose(totals(parts), totals(whole)[:10], rtol=1e-5)
    _, other = bpd("other", "--num", "4", "--batch-size", "4", "--seed", "1")
    assert np.abs(totals(other) - totals(whole)[:4]).max() > 1e-3


def test_a_shorter_chain_is_another_bound(bpd):
    numbers, _ = bpd("short", "--num", "4", "--batch-size", "4", "--steps", "5")
    assert len(numbers["vb"]) == 5 and numbers["timesteps"][-1] == 19


def test_an_older_checkpoint_can_be_named(bpd):
    newest, _ = bpd("newest", "--num", "4", "--batch-size", "4")
    older, out = bpd("older", "--num", "4", "--batch-size", "4", "--checkpoint", "4")
    assert json.loads((out / "settings.json").read_text())["checkpoint"] == 4
    assert older["total_bpd"] != newest["total_bpd"]


@pytest.mark.slow  # as sample.py, killed, in test_sample.py
def test_an_evaluation_killed_at_any_moment_goes_on_where_it_was(tiny_run, tmp_path):
    def start(out: Path) -> subprocess.Popen:
        options = ["--num", "256", "--batch-size", "4", "--out", str(out)]
        command = [sys.executable, "evaluate.py", "--workdir", str(tiny_run), *options]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    out = tmp_path / "killed"
    for signum, code, parts in ((signal.SIGKILL, -signal.SIGKILL, 3), (signal.SIGTERM, 75, 6)):
        process = start(out)
        deadline = time.monotonic() + 240
        while len(list(out.glob("parts/*.npz"))) < parts:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signum)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == code
    assert output.endswith(b"stopped by SIGTERM; the same command goes on\n")
    before = {path: path.stat().st_mtime_ns for path in out.glob("parts/*.npz")}
    assert 6 <= len(before) < 64 and not (out / "bpd.json").exists()

    for folder in (out, tmp_path / "undisturbed"):
        process = start(folder)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    whole = json.loads((tmp_path / "undisturbed" / "bpd.json").read_text())
    assert json.loads((out / "bpd.json").read_text()) == whole


def test_of_several_runs_each_has_its_folder(bpd, tiny_run, tmp_path, monkeypatch):
    few = ["--num", "4", "--batch-size", "4"]
    numbers, _ = bpd("alone", *few)
    both, copy = tmp_path / "both", shutil.copytree(tiny_run, tmp_path / "copy")
    options = ["--workdir", f"{tiny_run},{copy}", "--out", str(both), *few]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *options])
    evaluate.main()
    for run in (tiny_run, copy):
        assert json.loads((both / run.name / "bpd.json").read_text()) == numbers


def test_a_damaged_part_is_computed_again(bpd):
    numbers, out = bpd("damaged", "--num", "8", "--batch-size", "4")
    part = sorted((out / "parts").iterdir())[0]
    part.write_bytes(part.read_bytes()[:100])
    again, _ = bpd("damaged", "--num", "8", "--batch-size", "4")
    assert again == numbers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "5"], r"no checkpoint of step 5; there are: \[2, 4, 6\]"),
        (["--num", "1798"], r"--num 1798: digits has 1797 examples"),
        (["--num", "-1"], r"--num -1: must be at least 0"),
        (["--batch-size", "0"], r"--batch-size 0: must be at least 1"),
        (["--steps", "21"], r'steps "21": .*a number up to 20'),
    ],
)
def test_what_cannot_be_evaluated_is_refused(bpd, options, message):
    with pytest.raises(UserError, match=message):
        bpd("refused", *options)


def test_results_of_other_settings_or_weights_are_not_mixed(bpd, tiny_run, tmp_path):
    numbers, _ = bpd("mixed", "--num", "4", "--batch-size", "4")
    with pytest.raises(UserError, match=r"results of other settings \(seed 0 -> 1\)"):
        bpd("mixed", "--num", "4", "--batch-size", "4", "--seed", "1")
    other = shutil.copytree(tiny_run, tmp_path / "run")
    assert bpd("mixed", "--num", "4", "--batch-size", "4", workdir=other)[0] == numbers
    shutil.rmtree(other / "checkpoints" / "6")  # other weights of the same step
    shutil.move(other / "checkpoints" / "4", other / "checkpoints" / "6")
    with pytest.raises(UserError, match=r"results of other settings \(run \w{16} -> \w{16}\)"):
        bpd("mixed", "--num", "4", "--batch-size", "4", workdir=other)
