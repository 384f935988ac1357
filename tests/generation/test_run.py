"""A run as an object: load_run(...).generate(...), its pictures and files, its errors."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.generation import Run, load_run
from tests.run_folders import make_run, tiny
from tests.sampling.test_loop import compilations


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny runs by hand: of digits, of their classifier, and of a model that enlarges."""
    place = tmp_path_factory.mktemp("runs")
    classes = {"num_classes": 10}
    make_run(place / "digits", tiny(label_dropout=0.1, prediction="eps", **classes))
    classifier = {"kind": "classifier", "pool": "adaptive"} | classes
    make_run(place / "digits_classifier", tiny(**classifier), seed=1, spread=1.0)
    make_run(place / "up", tiny(image_size=8, low_res_size=4, num_classes=0))
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    return load_run(place / "digits")


def test_a_line_of_a_notebook_draws_guided_samples(run, place):
    batch = run.generate(
        16,
        labels=[3, 7],
        sampler="ddim",
        steps=6,
        guidance_scale=2,
        classifier=str(place / "digits_classifier"),
    )
    assert len(batch) == 16
    assert batch.images.shape == (16, 4, 4, 1) and batch.images.dtype == np.uint8
    np.testing.assert_array_equal(batch.labels, [3, 7] * 8)
    assert [scales.guidance for scales in batch.scales] == [2.0]
    unguided = run.generate(16, labels="3,7", sampler="DDIM", steps="6")
    assert (batch.images != unguided.images).mean() > 0.2
    assert repr(unguided) == f"SampleBatch(uint8 [16, 4, 4, 1], labels {unguided.labels})"


def test_a_notebook_shows_the_grid_as_a_png_without_a_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    batch = run.generate(6, labels=[3, 7])
    with Image.open(io.BytesIO(batch._repr_png_())) as shown:
        assert shown.format == "PNG"
        np.testing.assert_array_equal(np.asarray(shown), batch.picture()[..., 0])
    assert not list(tmp_path.iterdir())


def test_saved_files_hold_the_arrays_and_replace_those_of_a_larger_batch(run, tmp_path):
    run.generate(7).save(tmp_path)
    batch = run.generate(5, labels=[1], seed=4, frames=2)
    batch.save(tmp_path)
    with np.load(tmp_path / "samples.npz") as files:
        np.testing.assert_array_equal(files["arr_0"], batch.images)
        np.testing.assert_array_equal(files["arr_1"], batch.labels)
    for i, image in enumerate(batch.images):
        shown = np.asarray(Image.open(tmp_path / "images" / f"{i:06d}.png"))
        np.testing.assert_array_equal(shown, image[..., 0])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"samples.npz", "images", "grid.png", "chain.png", "chain.gif"}
    assert len(list((tmp_path / "images").iterdir())) == 5
    run.generate(1).save(tmp_path)
    assert not (tmp_path / "chain.gif").exists()


def test_a_setting_is_compiled_once_and_weights_are_read_once(place, monkeypatch):
    run = load_run(place / "digits")
    options = {"classifier": place / "digits_classifier", "guidance_scale": [0, 2]}
    first = run.generate(5, **options)
    monkeypatch.setattr("ddpm_jax.generation.run.load_weights", None)  # none is called
    with compilations() as later:
        again = run.generate(5, **options)
        run.generate(9, labels="random", seed=8, classifier=options["classifier"])
    assert not later
    np.testing.assert_array_equal(again.images, first.images)


def test_several_scales_draw_a_row_of_the_same_noise_each(run):
    rows = run.generate(5, cfg_scale=[1, 3]).images.reshape(2, 5, 4, 4, 1)
    np.testing.assert_array_equal(rows[0], run.generate(5).images)
    assert (rows[0] != rows[1]).any()


def test_samples_of_one_run_are_enlarged_by_another(run, place):
    small = run.generate(3)
    up = load_run(place / "up")
    large = up.generate(low_res=small.images)
    assert large.images.shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(large.low_res, small.images)
    other = up.generate(low_res=255 - small.images)
    assert (other.images != large.images).mean() > 0.2


def test_a_checkpoint_or_an_average_may_be_chosen(tiny_run):
    newest, older = load_run(tiny_run), load_run(tiny_run, checkpoint=4)
    trained = load_run(tiny_run, ema=0)
    images = [run.generate(2, steps=3).images for run in (newest, older, trained)]
    assert all((a != b).any() for a, b in itertools.pairwise(images))
    with pytest.raises(UserError, match=r"ema=0\.5: the run keeps weights averaged at"):
        load_run(tiny_run, ema=0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num": 0}, "num=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"labels": [3, 10]}, r"labels=3,10: 10 is not among 0\.\.9"),
        ({"eta": 2}, r"eta=2: must be in \[0, 1\]"),
        ({"steps": 99}, 'digits: steps "99": '),
        ({"sampler": "ddimm"}, "sampler=ddimm: .*did you mean ddim"),
        ({"batch_size": 0}, "batch_size=0: must be"),
        ({"guidance_scale": 2}, "guidance_scale=2: there is no classifier to guide"),
        ({"cfg_scale": [1, -1]}, "cfg_scale=1,-1: give a number of 0 or more"),
        ({"guidance_interval": (0.2, 0.4)}, r"guidance_interval=0\.2,0\.4: nothing guides"),
        ({"low_res": np.zeros((1, 4, 4, 1), np.uint8)}, "low_res is given, but .*enlarges nothing"),
    ],
    ids=str,
)
def test_errors_speak_of_arguments(run, arguments, says):
    with pytest.raises(UserError, match=says) as error:
        run.generate(**arguments)
    assert "--" not in str(error.value).replace("--model", "")


def test_images_to_enlarge_must_fit(place):
    up = load_run(place / "up")
    with pytest.raises(UserError, match=r"low_res is float64 \[2, 4, 4, 1\]; it must be uint8"):
        up.generate(low_res=np.zeros((2, 4, 4, 1)))
    with pytest.raises(UserError, match="num=3: low_res has 2 images"):
        up.generate(3, low_res=np.zeros((2, 4, 4, 1), np.uint8))
