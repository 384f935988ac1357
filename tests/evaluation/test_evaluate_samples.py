"""evaluate.py measures samples: drawn or given, against images or statistics, once."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.inception import parameters, random_state_dict
from ddpm_jax.commands import evaluate
from ddpm_jax.config import ParallelConfig
from ddpm_jax.evaluation.features import (
    classifier_extractor,
    function_extractor,
    inception_on,
)
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.statistics import Statistics, fit
from ddpm_jax.generation import load_run
from ddpm_jax.generation.generator import Generator
from ddpm_jax.runtime.devices import make_mesh
from ddpm_jax.runtime.script import run_script
from tests.evaluation import pixels
from tests.run_folders import make_run, tiny

FLAT = "--features tests.evaluation.pixels:flat"
RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 200, (90, 4, 4, 1), np.uint8)
FAKE = RNG.integers(50, 256, (70, 4, 4, 1), np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of images, and a run that also knows no labels."""
    place = tmp_path_factory.mktemp("place")
    np.savez(place / "real.npz", REAL)
    np.savez(place / "fake.npz", FAKE, np.zeros(70, int))
    make_run(place / "run", tiny(num_classes=10, label_dropout=0.1))
    make_run(place / "classifier", tiny(kind="classifier", pool="adaptive", num_classes=10))
    return place


@pytest.fixture
def measure(place, monkeypatch, capsys):
    """measure("--samples ...") -> what evaluate.py printed, and its metrics.json."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("DDPM_JAX_CACHE", str(place / "cache"))

    def measure(options: str) -> tuple[str, dict]:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *options.split()])
        evaluate.main()
        out = capsys.readouterr().out
        return out, json.loads(Path(out.splitlines()[-1]).read_text())

    return measure


def test_samples_are_measured_against_images(measure):
    out, found = measure(
        f"--samples fake.npz --reference real.npz {FLAT} --metrics frechet,kernel,precision,recall"
    )
    [row] = found["rows"]
    distance = frechet_distance(fit(pixels.flat(FAKE)), fit(pixels.flat(REAL)))
    assert row["frechet"]["value"] == pytest.approx(distance, rel=1e-6)
    assert 0 < row["frechet"]["standard_error"] < distance
    assert row["sampling"] == {} and row["images"] == 70 and found["reference"] == "real.npz"
    assert found["features"] == "tests.evaluation.pixels:flat"
    assert f"| fake.npz | 70 | {distance:.4g} ± " in out and "| precision |" in out


def test_statistics_in_a_file_take_the_place_of_images(measure, place):
    command = f"--samples fake.npz {FLAT} --metrics frechet --reference"
    _, found = measure(f"{command} real.npz --save-statistics statistics.npz")
    names = {"mu", "sigma", "features_digest"}
    assert set(np.load(place / "statistics.npz")) == names
    _, again = measure(f"{command} statistics.npz")
    assert again["rows"][0]["frechet"] == pytest.approx(found["rows"][0]["frechet"])
    statistics = {"mu": np.zeros(16), "sigma": np.eye(16)}
    digest = function_extractor("tests.evaluation.pixels:flat").digest
    np.savez(place / "batch.npz", REAL[:50], features_digest=digest, **statistics)
    _, batch = measure(f"{command} batch.npz")  # as ADM's: its statistics count, not its images
    expected = frechet_distance(fit(pixels.flat(FAKE)), Statistics(np.zeros(16), np.eye(16)))
    assert batch["rows"][0]["frechet"]["value"] == pytest.approx(expected, rel=1e-6)


def test_features_in_a_file_take_the_place_of_images(measure, place):
    """As clean-fid keeps them for KID."""
    command = f"--samples fake.npz {FLAT} --metrics frechet,kernel,precision --reference"
    _, found = measure(f"{command} real.npz")
    digest = function_extractor("tests.evaluation.pixels:flat").digest
    np.savez(place / "features.npz", feats=pixels.flat(REAL), features_digest=digest)
    _, again = measure(f"{command} features.npz")
    for name in ("frechet", "kernel", "precision"):
        assert again["rows"][0][name] == pytest.approx(found["rows"][0][name], rel=1e-6)


def test_what_was_seen_once_is_not_looked_at_again(measure, monkeypatch):
    command = f"--samples fake.npz --reference real.npz {FLAT} --metrics frechet,precision"
    _, found = measure(command)
    monkeypatch.setattr(pixels, "flat", None)
    _, again = measure(command)
    assert again == found


def test_several_scales_of_a_run_are_drawn_once_and_make_a_table(measure, monkeypatch):
    command = f"--workdir run --cfg-scale 1,3 {FLAT} --metrics frechet --num 20 --batch-size 8"
    out, found = measure(command)
    names = [row["name"] for row in found["rows"]]
    assert len(names) == 2 and all(name.startswith("run ") for name in names)
    values = [row["frechet"]["value"] for row in found["rows"]]
    sampling = [row["sampling"] for row in found["rows"]]
    assert [each["cfg_scale"] for each in sampling] == [1, 3] and sampling[0]["steps"] == "4"
    assert values[0] != values[1] and found["reference"] == "digits"
    assert "mean little, for there are 16 features" not in out
    monkeypatch.setattr(Generator, "_draw", None)
    assert measure(command)[1] == found


def test_a_few_images_are_warned_of(measure, place):
    np.savez(place / "few.npz", FAKE[:9])
    out, _ = measure(f"--samples few.npz,fake.npz --reference real.npz {FLAT} --metrics frechet")
    assert (
        "few.npz: frechet of 9 images mean little, for there are 16 features: measure 10,000" in out
    )
    assert "fake.npz: frechet" not in out


def test_labels_beside_the_samples_are_the_classes_asked_for(measure):
    _, found = measure("--samples fake.npz --metrics accuracy --features classifier:classifier")
    assert 0 <= found["rows"][0]["accuracy"]["value"] <= 1 and found["reference"] is None


def test_a_folder_of_pictures_is_as_good_as_a_file(measure, place):
    (place / "pictures").mkdir(exist_ok=True)
    for i, image in enumerate(FAKE):
        Image.fromarray(image[..., 0]).convert("RGB").save(place / "pictures" / f"{i:03d}.png")
    np.savez(place / "rgb.npz", REAL.repeat(3, axis=3))
    np.savez(place / "fake_rgb.npz", FAKE.repeat(3, axis=3))
    command = f"--samples pictures,fake_rgb.npz --reference rgb.npz {FLAT} --metrics frechet"
    rows = measure(command)[1]["rows"]
    assert rows[0]["images_digest"] == rows[1]["images_digest"]
    assert rows[0]["frechet"] == rows[1]["frechet"]


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_features_are_the_same_on_any_devices(place, devices):
    run = load_run(place / "classifier")

    def seen(devices: int) -> np.ndarray:
        mesh = make_mesh(ParallelConfig(data=devices), 64)
        weights = run.load_weights(mesh).items["ema"]
        return classifier_extractor("", run.config, weights, mesh).extract(REAL).pool

    np.testing.assert_allclose(seen(devices), seen(1), rtol=1e-6, atol=1e-6)


@pytest.mark.slow  # two minutes: Inception at 299 pixels for 192 images
def test_inception_and_its_distance_are_the_same_on_any_devices():
    params = parameters(random_state_dict())
    images = RNG.integers(0, 256, (2, 32, 16, 16, 3), np.uint8)

    def seen(devices: int) -> tuple[np.ndarray, float]:
        extract = inception_on(make_mesh(ParallelConfig(data=devices), 16), params, "adm", 16)
        real, fake = (extract(each).pool for each in images)
        return real, frechet_distance(fit(real), fit(fake))

    features, distance = seen(1)
    for devices in (2, 8):
        its_features, its_distance = seen(devices)
        np.testing.assert_allclose(its_features, features, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(its_distance, distance, rtol=1e-6)


FAKE_AND_REAL = "--samples fake.npz --reference real.npz --metrics"
BAD = [
    (
        "--samples fake.npz --metrics frechet",
        "--samples fake.npz needs real images to .*: --reference tfds:NAME",
    ),
    ("--metrics frechet", "give a run folder"),
    (
        "--workdir run --samples fake.npz --reference real.npz --metrics frechet",
        "and only one of them",
    ),
    (
        f"{FAKE_AND_REAL} fdi",
        r"fdi is no metric; did you mean fid\?",
    ),
    (
        f"{FAKE_AND_REAL} fid {FLAT}",
        "takes features of Inception",
    ),
    (
        f"--samples fake.npz --reference nowhere.npz --metrics frechet {FLAT}",
        "nowhere.npz: no such",
    ),
    (f"--samples nowhere --reference real.npz --metrics frechet {FLAT}", "nowhere: no such file"),
    (f"--samples empty --reference real.npz --metrics frechet {FLAT}", "empty has no PNG, JPEG"),
    (
        f"--samples one.npz --reference real.npz --metrics frechet {FLAT}",
        "at least 2 images, not 1",
    ),
    (f"--samples points.npz --reference real.npz --metrics frechet {FLAT}", "not images: uint8"),
    (
        f"--samples big.npz --reference real.npz --metrics frechet {FLAT}",
        "of 16 and of 64|of 64 and",
    ),
    (f"--samples fake.npz --reference other.npz --metrics frechet {FLAT}", "16 and of 3 numbers"),
    (
        f"--samples fake.npz --reference other.npz --metrics precision {FLAT}",
        "has no features of r",
    ),
    (
        f"--samples fake.npz --reference labels.npz --metrics frechet {FLAT}",
        "no images .arr_0., no statistics .mu, sigma. and no features",
    ),
    (
        f"{FAKE_AND_REAL} frechet --features here",
        "must be inception",
    ),
    (
        f"{FAKE_AND_REAL} frechet --features nowhere:there",
        "No module named 'nowhere'",
    ),
    (
        f"{FAKE_AND_REAL} frechet --features tests.evaluation.pixels:none",
        "the features of image 0 of .*real.npz are not finite",
    ),
    (
        f"{FAKE_AND_REAL} frechet --features tests.evaluation.pixels:too_few",
        r"returned an array \[1\] for",
    ),
    (
        f"{FAKE_AND_REAL} frechet --features classifier:run",
        "is not the run of a classifier",
    ),
    (
        "--samples real.npz --metrics accuracy --features classifier:classifier",
        "not known which classes real.npz has",
    ),
    (
        "--samples big.npz --reference big.npz --metrics frechet --features classifier:classifier",
        "images of 8x8x1, and the classifier classifier, step 1 takes 4x4x1",
    ),
]


@pytest.mark.parametrize(("options", "says"), BAD)
def test_bad_input_is_answered_in_a_line(place, options, says, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("DDPM_JAX_CACHE", str(place / "cache"))
    (place / "empty").mkdir(exist_ok=True)
    np.savez(place / "one.npz", FAKE[:1])
    np.savez(place / "points.npz", np.zeros((9, 2), np.float32))
    np.savez(place / "big.npz", np.zeros((9, 8, 8, 1), np.uint8))
    digest = function_extractor("tests.evaluation.pixels:flat").digest
    statistics = {"mu": np.zeros(3), "sigma": np.eye(3)}
    np.savez(place / "other.npz", features_digest=digest, **statistics)
    np.savez(place / "theirs.npz", features_digest="other", **statistics)
    np.savez(place / "unknown.npz", **statistics)
    if not (place / "other").exists():
        make_run(place / "other", tiny(num_classes=10, image_size=8))
    np.savez(place / "labels.npz", labels=np.zeros(3))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *options.split()])
    with pytest.raises(SystemExit) as ended:
        run_script(evaluate.main)
    error = capsys.readouterr().err
    [line] = [line for line in error.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2
    assert re.search(says, line), line
