"""sample.py with guidance: a classifier, classifier-free, both, and what fits neither.

The runs are made by hand, with random weights: where a classifier leads is noise, but it depends on
the label, the scale and the noise as a trained one's lead does.
"""

import dataclasses
import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import sample
from ddpm_jax.config import serialization
from ddpm_jax.generation.chain import Chain
from ddpm_jax.generation.guidance_options import read_classifier
from ddpm_jax.generation.sample_batch import UNGUIDED, SampleBatch, Scales
from ddpm_jax.runtime.script import run_script
from tests.run_folders import make_run, tiny

# Settings of a classifier's run that fit no other run here.
MISFITS = {
    "of_mnist": ("data", "name", "tfds:mnist"),
    "large": ("data", "image_size", 8),
    "in_colour": ("data", "channels", 3),
    "by_names": ("data", "labels", "names"),
    "five": ("model", "num_classes", 5),
    "long": ("diffusion", "timesteps", 24),
    "linear": ("diffusion", "schedule", "linear"),
    "rescaled": ("diffusion", "rescale_timesteps", True),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that fit one another, and some that don't; commands are run in it."""
    place = tmp_path_factory.mktemp("place")
    eps = {"prediction": "eps"}
    large = {"image_size": 8, "low_res_size": 4} | eps
    judge = {"kind": "classifier", "pool": "adaptive"}
    make_run(place / "base", tiny(label_dropout=0.1, **eps))
    make_run(place / "plain", tiny(num_classes=0, **eps))
    make_run(place / "sure", tiny(**eps))
    make_run(place / "up", tiny(label_dropout=0.1, **large))
    make_run(place / "plain_up", tiny(num_classes=0, **large))
    make_run(place / "five_up", tiny(num_classes=5, **large))
    make_run(place / "judge", tiny(**judge), seed=1, spread=1.0)
    make_run(place / "large_judge", tiny(image_size=8, **judge), seed=1, spread=1.0)
    for name, (section, field, value) in MISFITS.items():
        shutil.copytree(place / "judge", place / name)
        config = json.loads((place / name / "config.json").read_text())
        config[section][field] = value
        (place / name / "config.json").write_text(json.dumps(config))
    unread = shutil.ignore_patterns("checkpoints")
    shutil.copytree(place / "judge", place / "untrained", ignore=unread)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 1), np.uint8)
    np.savez(place / "small.npz", pixels, np.arange(5) % 3)
    return place


@pytest.fixture(autouse=True)
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def draw(place: Path, tmp_path_factory: pytest.TempPathFactory):
    """draw("--workdir base ...") -> the folder of what sample.py drew, five samples at each scale.

    The same command is run once.
    """

    @cache
    def draw(command: str) -> Path:
        out = tmp_path_factory.mktemp("out")
        words = ["--num", "5", *command.split(), "--out", str(out)]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            patch.setattr(sys, "argv", ["sample.py", *words])
            sample.main()
        return out

    return draw


def arrays(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "samples.npz") as archive:
        return dict(archive)


def images(out: Path, rows: int = 1) -> np.ndarray:
    """[rows, N, ...], as integers that may be subtracted."""
    x = arrays(out)["arr_0"].astype(int)
    return x.reshape(rows, -1, *x.shape[1:])


def moved(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far each sample is from the other, in levels of 255."""
    return np.abs(x - other).max(axis=(-3, -2, -1))


def test_a_list_of_scales_draws_a_row_each_and_scale_0_is_the_unguided_sample(draw):
    command = "--workdir base --labels 2,0 --seed 3"
    guided = draw(f"{command} --classifier judge --guidance-scale 0,1,4")
    rows = images(guided, 3)
    free = draw(command)
    np.testing.assert_array_equal(rows[0], images(free)[0])
    one = draw(f"{command} --classifier judge")
    assert moved(rows[1], images(one)[0]).max() <= 1
    assert moved(rows[0], rows[1]).min() > 1 and moved(rows[1], rows[2]).min() > 1

    files = arrays(guided)
    np.testing.assert_array_equal(files["arr_1"], [2, 0, 2, 0, 2] * 3)
    np.testing.assert_array_equal(files["guidance_scale"], np.repeat([0, 1, 4], 5))
    assert set(files) == {"arr_0", "arr_1", "guidance_scale"}
    assert len(list((guided / "images").iterdir())) == 15
    zero = draw(f"{command} --classifier judge --guidance-scale 0")
    for name in ("samples.npz", "grid.png"):
        assert (zero / name).read_bytes() == (free / name).read_bytes()


def test_classifier_free_guidance_at_scale_1_is_the_model_itself(draw):
    free = images(draw("--workdir base --labels 1"))[0]
    out = draw("--workdir base --labels 1 --cfg-scale 1,3,0")
    one, three, none = images(out, 3)
    np.testing.assert_array_equal(one, free)
    assert moved(three, one).min() > 1
    np.testing.assert_array_equal(arrays(out)["cfg_scale"], np.repeat([1, 3, 0], 5))
    other = images(draw("--workdir base --labels 2 --cfg-scale 0"))[0]
    assert moved(none, other).max() <= 1  # whatever the label
    assert moved(images(draw("--workdir base --labels 2"))[0], one).min() > 1


@pytest.mark.slow  # of the chain alone: sampling/test_guidance.py
def test_both_at_once_draw_each_pair_of_scales(draw):
    both = "--workdir base --classifier judge"
    out = draw(f"{both} --guidance-scale 0,2 --cfg-scale 1,3")
    rows = images(out, 4)
    np.testing.assert_array_equal(arrays(out)["guidance_scale"], np.repeat([0, 0, 2, 2], 5))
    np.testing.assert_array_equal(arrays(out)["cfg_scale"], np.repeat([1, 3, 1, 3], 5))
    np.testing.assert_array_equal(rows[0], images(draw("--workdir base"))[0])
    alone = images(draw(f"{both} --guidance-scale 2 --cfg-scale 3"))[0]
    assert moved(rows[3], alone).max() <= 1
    assert all(moved(rows[a], rows[b]).max() > 2 for a in range(4) for b in range(a))


def test_a_model_without_classes_is_guided_to_those_of_the_classifier(draw):
    free = draw("--workdir plain")
    assert list(arrays(free)) == ["arr_0"]
    out = draw("--workdir plain --classifier judge --guidance-scale 0,3")
    rows = images(out, 2)
    np.testing.assert_array_equal(rows[0], images(free)[0])
    np.testing.assert_array_equal(arrays(out)["arr_1"], [0, 1, 2, 0, 1] * 2)
    other = draw("--workdir plain --classifier judge --guidance-scale 3 --labels 0")
    np.testing.assert_array_equal(arrays(other)["arr_1"], [0] * 5)
    differ = moved(images(other)[0], rows[1])
    assert differ[[0, 3]].max() <= 1 and differ[[1, 2, 4]].min() > 1


def test_an_interval_without_a_step_guides_nowhere(draw):
    # Of 12 timesteps the chain has 0, 4, 7 and 11: t/T is 0, 0.33, 0.58 and 0.92.
    command = "--workdir base --labels 2,0 --seed 3"
    guided = f"{command} --classifier judge --guidance-scale 4 --guidance-interval 0.6,0.9"
    assert moved(images(draw(guided)), images(draw(command))).max() <= 1


def test_pictures_have_a_row_for_each_scale(tmp_path):
    """30 samples at 3 scales, of which 20 are shown and the chains of 21 were kept."""
    rng = np.random.default_rng(0)
    x, kept = (rng.integers(0, 256, (*n, 4, 4, 1), np.uint8) for n in [(90,), (2, 63)])
    scales = [Scales(s) for s in (0, 1, 4)]
    chain = Chain([5, 0], np.array([0.5, 0.9]), kept, kept)
    batch = SampleBatch(x, np.zeros(90, np.int32), scales, chain=chain, low_res=x)
    assert [scale.title for scale in scales] == ["unguided", "guidance 1", "guidance 4"]
    assert batch.layout.note == "the first 20 of 30 samples at each scale"
    batch.save(tmp_path)
    # Tiles of 4 pixels, each 8 times as large, with 2 pixels between, right of the titles.
    shown = np.asarray(Image.open(tmp_path / "grid.png"))[:, -(20 * 34 - 2) :]
    assert shown.shape == (3 * 34 - 2, 20 * 34 - 2)
    np.testing.assert_array_equal(shown[::34, ::34], x[:, 0, 0, 0].reshape(3, 30)[:, :20])
    assert Image.open(tmp_path / "low_res.png").size == Image.open(tmp_path / "grid.png").size
    assert len(list((tmp_path / "images").iterdir())) == 90
    film = Image.open(tmp_path / "chain.gif")
    assert film.n_frames == 3 and film.width > 5 * film.height
    strip = Image.open(tmp_path / "chain.png").size
    dataclasses.replace(batch, scales=[UNGUIDED]).save(tmp_path)
    four = Image.open(tmp_path / "chain.png").size
    assert (strip[1] - 30) * 4 == (four[1] - 30) * 3  # a sample of each scale, or four of one


def test_guidance_steers_the_first_of_two_stages(draw):
    command = "--workdir base --upsampler up --labels 1,2"
    out = draw(f"{command} --classifier judge --guidance-scale 0,3")
    rows, small = images(out, 2), images(out / "base", 2)
    free = draw(command)
    np.testing.assert_array_equal(small[0], images(free / "base")[0])
    np.testing.assert_array_equal(rows[0], images(free)[0])
    assert moved(small[0], small[1]).min() > 1 and moved(rows[0], rows[1]).min() > 1
    for folder in (out, out / "base"):
        np.testing.assert_array_equal(arrays(folder)["guidance_scale"], np.repeat([0, 3], 5))
        np.testing.assert_array_equal(arrays(folder)["arr_1"], [1, 2, 1, 2, 1] * 2)
    sizes = [Image.open(out / name).size for name in ("grid.png", "low_res.png")]
    assert all(width > 2 * height for width, height in sizes)


def test_the_second_stage_draws_a_row_of_the_same_noise(draw):
    rows = images(
        draw("--workdir plain --upsampler up --classifier judge --labels 1 --guidance-scale 0.0,0"),
        2,
    )
    np.testing.assert_array_equal(*rows)


def test_the_labels_of_a_classifier_reach_the_upsampler(draw):
    out = draw("--workdir plain --classifier judge --upsampler up --labels 1,2")
    np.testing.assert_array_equal(arrays(out)["arr_1"], [1, 2, 1, 2, 1])
    assert list(arrays(draw("--workdir plain --upsampler plain_up"))) == ["arr_0"]


def test_a_model_that_enlarges_is_guided_when_it_comes_first(draw):
    command = "--workdir plain_up --low-res small.npz"
    out = draw(f"{command} --classifier large_judge --guidance-scale 0,3")
    rows = images(out, 2)
    np.testing.assert_array_equal(rows[0], images(draw(command))[0])
    assert moved(rows[0], rows[1]).min() > 1
    np.testing.assert_array_equal(arrays(out)["arr_1"], [0, 1, 2, 0, 1] * 2)


def test_any_log_probability_guides_any_run(draw, place, tmp_path, monkeypatch):
    """The example of the docs, as it is there, on a model by hand: samples of a brightness."""
    page = Path(__file__).resolve().parents[2] / "docs" / "guidance.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert code.count('"250"') == 1  # the chain of the run by hand has 12 steps
    shutil.copytree(place / "plain", tmp_path / "runs" / "digits_unconditional")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace('"250"', '""'), names)
    monkeypatch.chdir(place)
    free = images(draw("--workdir plain --num 16"))[0] / 127.5 - 1
    means = [np.asarray(each).mean(axis=(1, 2, 3)) for each in (names["x"], free)]
    off, free_off = (np.abs(mean - names["brightness"]).mean() for mean in means)
    assert off < 0.2 < 0.35 < free_off


WRONG = [
    # Classifiers
    (
        "--workdir base --classifier nowhere",
        "--classifier nowhere: nowhere is no run folder: it ha",
    ),
    (
        "--workdir base --classifier plain",
        "--classifier plain is the run of a model of kind unet, w",
    ),
    ("--workdir base --classifier untrained", "untrained/checkpoints holds no checkpoint"),
    ("--workdir base --classifier of_mnist", "its data.name is tfds:mnist, the model's digits$"),
    (
        "--workdir base --classifier large",
        "--classifier large does not fit the model of base: its d",
    ),
    ("--workdir base --classifier large", "its data.image_size is 8, the model's 4$"),
    ("--workdir base --classifier in_colour", "its data.channels is 3, the model's 1$"),
    ("--workdir base --classifier by_names", "its data.labels is names, the model's folders$"),
    ("--workdir base --classifier five", "its model.num_classes is 5, the model's 3$"),
    ("--workdir base --classifier long", "its diffusion.timesteps is 24, the model's 12$"),
    (
        "--workdir plain --classifier rescaled",
        "its diffusion.rescale_timesteps is True, the model'",
    ),
    ("--workdir judge --classifier judge", "judge is the run of a classifier, which draws nothing"),
    (
        "--workdir plain --classifier five --upsampler up",
        "--upsampler up has 3 classes, but the classifier 5; they must be the same",
    ),
    (
        "--workdir plain --classifier judge --upsampler five_up",
        "--upsampler five_up has 5 classes, but the classifier 3; they must be the same",
    ),
    ("--workdir plain --classifier judge --labels 3", r"--labels 3: 3 is not among 0\.\.2"),
    ("--workdir plain --labels 1", "--labels 1: this model is unconditional; leave it out"),
    # Scales
    (
        "--workdir base --guidance-scale 2",
        "--guidance-scale 2: there is no classifier to guide; give --classifier DIR",
    ),
    ("--workdir base --classifier judge --guidance-scale=-1", "--guidance-scale -1: give a number"),
    ("--workdir base --classifier judge --guidance-scale 1,x", "--guidance-scale 1,x: give a numb"),
    ("--workdir base --classifier judge --guidance-scale 1,", r"or several, as in 0,1,2\.5$"),
    ("--workdir base --classifier judge --guidance-scale nan", "--guidance-scale nan: give a numb"),
    ("--workdir base --cfg-scale inf", "--cfg-scale inf: give a number of 0 or more"),
    (
        "--workdir plain --cfg-scale 2",
        "--cfg-scale 2: the model of plain is unconditional; guide it",
    ),
    ("--workdir sure --cfg-scale 1", "the model of sure never saw an image without its label; tra"),
    # Intervals
    ("--workdir base --guidance-interval 0,1", "--guidance-interval 0,1: nothing guides; give --c"),
    (
        "--workdir base --cfg-scale 2 --guidance-interval 0.5",
        r"0.5: give two rising numbers in \[0, 1\]",
    ),
    ("--workdir base --cfg-scale 2 --guidance-interval 0.8,0.2", "as in 0.2,0.8$"),
    (
        "--workdir base --cfg-scale 2 --guidance-interval 0.2,1.1",
        "-interval 0.2,1.1: give two risi",
    ),
    (
        "--workdir base --cfg-scale 2 --guidance-interval 0,.2,1",
        "-interval 0,.2,1: give two rising",
    ),
    ("--workdir base --cfg-scale 2 --guidance-interval 0,nan", "-interval 0,nan: give two rising"),
]


@pytest.mark.parametrize(("command", "pattern"), WRONG, ids=lambda value: value[-40:])
def test_wrong_commands_are_refused_in_one_line(command, pattern, place, monkeypatch, capsys):
    before = sorted(place.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["sample.py", *command.split()])
    with pytest.raises(SystemExit) as end:
        run_script(sample.main)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(pattern, line), line
    assert sorted(place.rglob("*")) == before


def test_the_same_schedule_in_other_words_fits(tmp_path):
    """Ho's linear betas are those of Improved DDPM at 1000 steps, and t * 1000 / 1000 is t."""
    words = {"beta_start": 1e-4, "beta_end": 0.02, "rescale_timesteps": True}
    classifier = tiny(timesteps=1000, schedule="linear", kind="classifier", **words)
    (tmp_path / "config.json").write_text(serialization.to_json(classifier))
    config = tiny(timesteps=1000, schedule="linear")
    assert read_classifier("classifier", tmp_path, Path("base"), config) == classifier
