"""The sweep: its samples are sample.py's, its numbers the classifier's, and files stay."""

import json
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import sample
from ddpm_jax.config import ParallelConfig, serialization
from ddpm_jax.evaluation import guidance_sweep
from ddpm_jax.evaluation.features import classifier_extractor
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.statistics import fit
from ddpm_jax.models import build_features, build_network
from ddpm_jax.runs.weights import load_weights
from ddpm_jax.runtime.devices import make_mesh
from ddpm_jax.runtime.script import run_script
from tests.run_folders import make_run, tiny

COMMAND = "--workdir model --classifier guide --judge judge --num 20 --sampler ddpm".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows no labels, two classifiers of ten, one of noise of another kind."""
    place = tmp_path_factory.mktemp("place")
    classifier = {"kind": "classifier", "pool": "adaptive", "num_classes": 10}
    make_run(place / "model", tiny(num_classes=0, prediction="eps"))
    make_run(place / "guide", tiny(**classifier), seed=1, spread=1.0)
    make_run(place / "judge", tiny(timesteps=24, **classifier), seed=2, spread=1.0)
    make_run(place / "three", tiny(**classifier | {"num_classes": 3}), seed=2)
    make_run(place / "free", tiny(num_classes=10, label_dropout=0.1, prediction="eps"))
    return place


@pytest.fixture(autouse=True)
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(main, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *words])
    main()


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz") as files:
        return dict(files)


def test_its_samples_are_those_of_sample_py_and_its_numbers_those_of_the_judge(
    tmp_path, monkeypatch
):
    out = ["--out", str(tmp_path / "sweep")]
    run(guidance_sweep.main, monkeypatch, *COMMAND, "--scales", "0,4", "--steps", "6", *out)
    found = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    keys = [(row["steps"], row["guidance"]) for row in found["rows"]]
    assert keys == [("6", 0), ("6", 4)]
    assert not (tmp_path / "sweep" / ".unfinished").exists()

    options = "--workdir model --classifier guide --num 20 --sampler ddpm --steps 6".split()
    alone = tmp_path / "alone"
    run(sample.main, monkeypatch, *options, "--guidance-scale", "4", "--out", str(alone))
    files = arrays(tmp_path / "sweep" / "steps_6_guidance_4_cfg_1")
    for name, array in arrays(alone).items():
        np.testing.assert_array_equal(files[name], array)

    # The judge sees the clean image: t = 0.
    config = serialization.read_config(Path("judge/config.json"))
    network, mesh = build_network(config), make_mesh(ParallelConfig(), 4)
    params = load_weights(Path("judge"), network, mesh).items["ema"]
    x = jnp.asarray(files["arr_0"].astype(np.float32) / 127.5 - 1)
    seen = network.apply(params, x, jnp.zeros(20)).argmax(-1)
    assert found["rows"][1]["accuracy"] == pytest.approx((seen == np.arange(20) % 10).mean())
    judged = classifier_extractor("judge", config, params, mesh).extract(files["arr_0"])
    np.testing.assert_array_equal(judged.classes, seen)
    features = build_features(config).apply(params, x, jnp.zeros(20))
    np.testing.assert_allclose(judged.pool, features, rtol=1e-4, atol=1e-4)
    assert found["rows"][1]["frechet"] > 0 < found["real"]["frechet"]
    assert found["rows"][0]["frechet"] > found["real"]["frechet"]
    own = fit(judged.pool)
    assert frechet_distance(own, own) == pytest.approx(0, abs=1e-3)

    table = (tmp_path / "sweep" / "sweep.md").read_text()
    assert table.count("\n| ") == 5 and "| real images |" in table
    assert Image.open(tmp_path / "sweep" / "sweep.png").width > 1000
    grid = Image.open(tmp_path / "sweep" / "steps_6.png")
    assert grid.width > 5 * grid.height  # a row each


def test_what_is_there_is_not_drawn_again_and_scales_are_added(tmp_path, monkeypatch):
    out = ["--out", str(tmp_path), "--steps", "4"]
    run(guidance_sweep.main, monkeypatch, *COMMAND, "--scales", "1,2", *out)
    first, second = (tmp_path / f"steps_4_guidance_{s}_cfg_1" for s in (1, 2))
    whole = arrays(first)["arr_0"]
    (first / "samples.npz").unlink()  # as after a kill between the two
    marked = arrays(second) | {"arr_0": 255 - arrays(second)["arr_0"]}
    np.savez(second / "samples.npz", **marked)
    run(guidance_sweep.main, monkeypatch, *COMMAND, "--scales", "1,2,3", *out)
    np.testing.assert_array_equal(arrays(first)["arr_0"], whole)
    np.testing.assert_array_equal(arrays(second)["arr_0"], marked["arr_0"])
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert [row["guidance"] for row in rows] == [1, 2, 3]


def test_scales_of_classifier_free_guidance_are_swept_too(tmp_path, monkeypatch):
    words = "--workdir free --judge judge --num 10 --cfg-scales 1,2 --steps 4".split()
    run(guidance_sweep.main, monkeypatch, *words, "--out", str(tmp_path))
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert [(row["guidance"], row["cfg"]) for row in rows] == [(0, 1), (0, 2)]


@pytest.fixture(scope="module")
def swept(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run(guidance_sweep.main, patch, *COMMAND, "--steps", "4", "--out", str(out))
    return out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--judge guide", "is the classifier that guides"),
        ("--judge model", "--judge model is the run of a model of kind unet"),
        ("--judge nowhere", "--judge nowhere: nowhere is no run folder"),
        ("--judge three", "has 10 classes"),
        ("--num 3", "--num 3: must be at least 8"),
        ("--steps 4,a", 'steps "a"'),
        ("--seed 1", r"holds results of other settings \(seed 0 -> 1\)"),
        ("--classifier three", r"holds results of other settings \(classifier"),
    ],
)
def test_what_cannot_be_swept_is_refused(swept, capsys, monkeypatch, words, says):
    options = dict(zip(COMMAND[::2], COMMAND[1::2], strict=True)) | {"--steps": "4"}
    words = words.split()
    options |= dict(zip(words[::2], words[1::2], strict=True))
    flat = [word for pair in options.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["sweep", *flat, "--out", str(swept)])
    with pytest.raises(SystemExit) as end:
        run_script(guidance_sweep.main)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(says, error), error
