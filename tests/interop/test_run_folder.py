"""A run folder of imported weights: drawn from, trained on, and never mistaken for a training."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_jax.commands import sample, train
from ddpm_jax.config.serialization import read_config
from ddpm_jax.interop.import_weights import main as import_weights
from tests.interop.small import TINY, command, config_of, export_run, state_dict

ROOT = Path(__file__).resolve().parent.parent.parent
TRAINING = """
--data.flip True --diffusion.loss rescaled_mse --train.steps 2 --train.batch-size 4
--train.learning-rate 1e-30 --train.checkpoint-every-steps 1 --train.sample-every-steps 0
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.py, small.pt and the run of them, "run". To be left as it is."""
    place = tmp_path_factory.mktemp("imported")
    (place / "small.py").write_text(TINY)
    torch.save(state_dict(config_of(TINY)), place / "small.pt")
    words = [place / "small.pt", "--model", place / "small.py", "--out", place / "run"]
    before, sys.argv = sys.argv, ["import_weights.py", *map(str, words)]
    try:
        import_weights()
    finally:
        sys.argv = before
    return place


def start_training(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, ROOT / "train.py", "--config", place / "small.py"]
    words = [*script, "--workdir", place / "run", *options]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=ROOT)


def test_samples_are_drawn_at_once(imported, tmp_path, capsys) -> None:
    options = ["--workdir", imported / "run", "--num", "3", "--labels", "1,2", "--out", tmp_path]
    code, _, stderr = command(sample.main, options, capsys)
    assert code == 0, stderr
    with np.load(tmp_path / "samples.npz") as drawn:
        assert drawn["arr_0"].shape == (3, 8, 8, 1)
        assert len(np.unique(drawn["arr_0"])) > 20


def test_training_starts_from_the_weights_under_other_settings(imported, tmp_path, capsys) -> None:
    place = shutil.copytree(imported, tmp_path / "place")
    # As a run leaves it that was killed while it wrote its first checkpoint:
    (place / "run" / "checkpoints" / "1.orbax-checkpoint-tmp-1790000000000000").mkdir()

    done = start_training(place, *TRAINING.split())
    assert done.returncode == 0, done.stderr
    assert "finished after step 2" in done.stdout and "resumed" not in done.stdout
    assert read_config(place / "run" / "config.json").diffusion.loss == "rescaled_mse"
    export_run(place / "run", place / "back.pt", capsys)
    first, last = torch.load(place / "small.pt"), torch.load(place / "back.pt")
    for name, value in first.items():  # at that learning rate nothing but the average rounds
        torch.testing.assert_close(last[name], value, rtol=1e-6, atol=0)

    # From now on it is a run like any other.
    words = ["--config", place / "small.py", "--workdir", place / "run", *TRAINING.split()]
    code, _, stderr = command(train.main, [*words, "--diffusion.loss", "mse"], capsys)
    assert code == 2
    assert "another config (diffusion.loss rescaled_mse -> mse): choose another" in stderr


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ("--model.channels 64", "model.channels 32 -> 64"),
        ("--model.attention-order new", "model.attention_order legacy -> new"),
        ("--diffusion.variance fixed_small", "diffusion.variance learned_range -> fixed_small"),
        ("--data.image-size 16", "data.image_size 8 -> 16"),
    ],
)
def test_a_network_that_the_weights_do_not_fit_is_refused(
    options, pattern, imported, tmp_path, capsys
) -> None:
    place = shutil.copytree(imported, tmp_path / "place")
    before = (place / "run" / "config.json").read_text()
    words = ["--config", place / "small.py", "--workdir", place / "run"]
    words += [*TRAINING.split(), *options.split()]
    code, _, stderr = command(train.main, words, capsys)
    assert code == 2
    (line,) = stderr.splitlines()
    assert f"holds a run of another config ({pattern}): choose another --workdir, or" in line
    assert "import its weights anew with --model CONFIG" in line
    assert (place / "run" / "config.json").read_text() == before
    assert json.loads(before)["model"]["channels"] == 32
