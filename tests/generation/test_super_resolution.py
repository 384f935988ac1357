"""sample.py with super-resolution: images given, images drawn just before, and wrong ones of both.

The runs are made by hand, with random weights: what they draw is noise, but noise that depends on
all inputs of the networks.
"""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import sample, train
from ddpm_jax.config import serialization
from ddpm_jax.data import centre_crop, decode_image
from ddpm_jax.runtime.script import run_script
from tests.run_folders import TINY, make_run, tiny

CLASSES = TINY.model.num_classes


def write_images(folder: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    rng = np.random.default_rng(0)
    for name, (height, width) in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, images and samples, good and bad; commands are run in it."""
    place = tmp_path_factory.mktemp("place")
    make_run(place / "base", tiny())
    make_run(place / "up", tiny(image_size=8, low_res_size=4), seed=4)
    make_run(place / "plain_base", tiny(num_classes=0))
    make_run(place / "plain_up", tiny(image_size=8, low_res_size=4, num_classes=0), seed=4)

    for name, field, value in [
        ("five_up", "num_classes", 5),
        ("judge", "kind", "classifier"),
    ]:
        shutil.copytree(place / ("up" if name == "five_up" else "base"), place / name)
        config = json.loads((place / name / "config.json").read_text())
        config["model"][field] = value
        (place / name / "config.json").write_text(json.dumps(config))

    write_images(place / "flat", {"b.png": (4, 4), "a.jpg": (30, 19), "c.webp": (9, 4)})
    write_images(place / "classes", {f"{c}/{i}.png": (4, 4) for c in "xyz" for i in range(2)})
    write_images(place / "two", {f"{c}/{i}.png": (4, 4) for c in "xy" for i in range(2)})
    write_images(place / "small", {"a.png": (4, 4), "b.png": (3, 20)})
    write_images(place / "cut", {"a.png": (4, 4)})
    (place / "cut" / "b.png").write_text("not an image")
    (place / "empty").mkdir()
    (place / "file.png").write_text("no npz")

    images = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 1), np.uint8)
    np.savez(place / "images.npz", images)
    np.savez(place / "labelled.npz", images, np.arange(6) % CLASSES)
    np.savez(place / "wrong_size.npz", images.repeat(2, axis=1))
    np.savez(place / "wrong_type.npz", images / 255)
    np.savez(place / "wrong_labels.npz", images, np.arange(6))
    np.savez(place / "few_labels.npz", images, np.arange(5))
    np.savez(place / "named.npz", pictures=images)
    (place / "half.npz").write_bytes((place / "images.npz").read_bytes()[:200])
    return place


@pytest.fixture(autouse=True)
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """draw("--workdir base ...") -> the folder of what sample.py drew."""

    def draw(command: str) -> Path:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        monkeypatch.setattr(sys, "argv", ["sample.py", *command.split(), "--out", str(out)])
        sample.main()
        return out

    return draw


def arrays(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "samples.npz") as archive:
        return dict(archive)


def test_a_cascade_is_its_two_commands_byte_for_byte(draw):
    what = "--num 5 --labels 2,0 --seed 5"
    both = draw(f"--workdir base --upsampler up --upsampler-steps 6 {what}")
    small = draw(f"--workdir base {what}")
    large = draw(f"--workdir up --low-res {small} --steps 6 --seed 5")
    assert arrays(both)["arr_0"].shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(arrays(both)["arr_1"], [2, 0, 2, 0, 2])
    for ours, theirs in [(both / "base" / "samples.npz", small / "samples.npz")] + [
        (both / name, large / name)
        for name in ("samples.npz", "grid.png", "low_res.png", "images/000004.png")
    ]:
        assert ours.read_bytes() == theirs.read_bytes()
    assert not (small / "low_res.png").exists() and not (large / "base").exists()
    assert len(list((both / "images").iterdir())) == 5


def test_a_sample_depends_on_seed_index_label_and_its_image_alone(draw, place, tmp_path):
    first = arrays(draw("--workdir up --low-res labelled.npz"))
    np.testing.assert_array_equal(first["arr_1"], np.arange(6) % CLASSES)
    few = arrays(draw("--workdir up --low-res labelled.npz --num 3"))
    np.testing.assert_array_equal(few["arr_0"], first["arr_0"][:3])

    with np.load(place / "labelled.npz") as archive:
        images, labels = archive["arr_0"].copy(), archive["arr_1"].copy()
    images[1], labels[4] = 255 - images[1], (labels[4] + 1) % CLASSES
    np.savez(tmp_path / "changed.npz", images, labels)
    other = arrays(draw(f"--workdir up --low-res {tmp_path / 'changed.npz'}"))
    changed = np.abs(other["arr_0"].astype(int) - first["arr_0"]).max(axis=(1, 2, 3))
    assert changed[1] > 10 and changed[4] > 0 and not changed[[0, 2, 3, 5]].any()
    seeds = arrays(draw("--workdir up --low-res labelled.npz --seed 1"))
    assert (seeds["arr_0"] != first["arr_0"]).mean() > 0.2


def test_a_folder_is_enlarged_in_the_order_of_its_paths(draw):
    out = draw("--workdir plain_up --low-res flat --frames 3")
    assert list(arrays(out)) == ["arr_0"] and arrays(out)["arr_0"].shape == (3, 8, 8, 1)
    shown = np.asarray(Image.open(out / "low_res.png"))
    for name, tile in [("b.png", shown[:300, 302:]), ("c.webp", shown[302:, :300])]:
        image = centre_crop(decode_image(Path("flat") / name, 1), 4)[..., 0]
        np.testing.assert_array_equal(tile, image.repeat(75, axis=0).repeat(75, axis=1))
    assert Image.open(out / "chain.gif").n_frames == 4


@pytest.mark.parametrize(
    ("command", "labels"),
    [
        ("--workdir up --low-res classes", [0, 0, 1, 1, 2, 2]),
        ("--workdir up --low-res classes --num 3 --labels 2", [2, 2, 2]),
        ("--workdir up --low-res flat --labels all", [0, 1, 2]),
        ("--workdir up --low-res images.npz --labels 1,2", [1, 2, 1, 2, 1, 2]),
        ("--workdir plain_base --upsampler up --num 3 --labels 1,2", [1, 2, 1]),
        ("--workdir base --upsampler up --num 4", [0, 1, 2, 0]),
    ],
)
def test_labels_come_from_the_images_or_the_command(draw, command, labels):
    np.testing.assert_array_equal(arrays(draw(command))["arr_1"], labels)


def test_an_upsampler_without_classes_gets_no_labels(draw):
    out = draw("--workdir base --upsampler plain_up --num 2 --labels 1 --frames 3")
    assert list(arrays(out)) == ["arr_0"]
    np.testing.assert_array_equal(arrays(out / "base")["arr_1"], [1, 1])


WRONG = [
    # What goes with what
    (
        "--workdir up",
        r"up enlarges images of 4x4: give --low-res PATH, .* another run and --upsampler up",
    ),
    (
        "--workdir base --low-res flat",
        "low_res is given, but the model of base enlarges nothing: leave",
    ),
    ("--workdir base --upsampler base", "--upsampler base enlarges nothing; leave it out"),
    ("--workdir base --upsampler nowhere", "nowhere is no run folder: it has no config.json"),
    ("--workdir base --upsampler-steps 5", "--upsampler-steps 5: there is no upsampler"),
    ("--workdir base --upsampler up --upsampler-steps 99", 'up: steps "99": cannot divide'),
    ("--workdir base --upsampler up --steps 98", 'base: steps "98": cannot divide'),
    (
        "--workdir up --low-res labelled.npz --upsampler up",
        "--upsampler up enlarges images of 4x4x1; the first model draws images of 8x8x1",
    ),
    (
        "--workdir base --upsampler five_up",
        "--upsampler five_up has 5 classes, but the first model 3; they must be the same",
    ),
    ("--workdir judge", "judge is the run of a classifier, which draws nothing"),
    # Images
    ("--workdir up --low-res nowhere", "--low-res nowhere: no such file or folder"),
    ("--workdir up --low-res empty", "--low-res empty has no PNG, JPEG or WebP images, and no sam"),
    ("--workdir up --low-res base", r"--low-res base is a run folder; .* base/drawn, or draw and"),
    ("--workdir up --low-res small --labels 1", "b.png is 3x20, smaller than the 4x4 that the mod"),
    ("--workdir up --low-res cut --labels 1", "cut: b.png cannot be read: .*; take it away"),
    ("--workdir up --low-res file.png", "file.png is neither a folder of images nor a samples.npz"),
    ("--workdir up --low-res half.npz", "half.npz is neither a folder of images nor a samples.npz"),
    ("--workdir up --low-res named.npz", "named.npz is neither .*arr_0 is not a file in the ar"),
    ("--workdir up --low-res wrong_size.npz", r"wrong_size.npz: its images are 8x4x1, .* 4x4x1"),
    ("--workdir up --low-res wrong_type.npz", r"arr_0 is float64 \[6, 4, 4, 1\], not uint8 \[N, H"),
    ("--workdir plain_up --low-res flat --num 4", "--num 4: --low-res flat has 3 images"),
    ("--workdir plain_up --low-res images.npz --num 7", "--num 7: --low-res images.npz has 6 im"),
    # Labels
    ("--workdir up --low-res flat", "3 classes, and what it enlarges has no labels: give --labels"),
    ("--workdir up --low-res images.npz", "what it enlarges has no labels: give --labels 3,7"),
    ("--workdir plain_base --upsampler up", "what it enlarges has no labels: give --labels 3,7"),
    ("--workdir plain_up --low-res flat --labels 1", "--labels 1: this model is unconditional"),
    ("--workdir plain_base --upsampler plain_up --labels 1", "--labels 1: this model is uncond"),
    ("--workdir up --low-res flat --labels 3", r"--labels 3: 3 is not among 0\.\.2"),
    ("--workdir up --low-res two", "two: its images are of 2 classes, those of the model 3; give"),
    ("--workdir up --low-res wrong_labels.npz", r"label 3 is not among 0\.\.2; give --labels"),
    ("--workdir up --low-res few_labels.npz", "arr_1 must be a label, an integer, for each image"),
    # Folders for the samples
    ("--workdir up --low-res classes --out classes", "--out classes overlaps with --low-res class"),
    ("--workdir up --low-res classes --out classes/x", "overlaps with --low-res classes: choose"),
    ("--workdir up --low-res classes/x --labels 1 --out classes", "overlaps with --low-res classe"),
]


@pytest.mark.parametrize(("command", "pattern"), WRONG, ids=lambda value: value[:50])
def test_wrong_commands_are_refused_in_one_line(command, pattern, place, monkeypatch, capsys):
    before = sorted(place.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["sample.py", *command.split()])
    with pytest.raises(SystemExit) as end:
        run_script(sample.main)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(pattern, line), line
    assert sorted(place.rglob("*")) == before


def csv_labels(place: Path, tmp_path: Path, text: str) -> Path:
    """A copy of the run "up" that takes labels from a CSV file."""
    run = shutil.copytree(place / "up", tmp_path / "run")
    (tmp_path / "labels.csv").write_text(text)
    config = serialization.read_config(run / "config.json")
    data = dataclasses.replace(config.data, labels=str(tmp_path / "labels.csv"))
    (run / "config.json").write_text(serialization.to_json(dataclasses.replace(config, data=data)))
    return run


def test_integers_of_a_csv_file_may_leave_out_classes(draw, place, tmp_path):
    run = csv_labels(place, tmp_path, "a.jpg,0\nb.png,1\nc.webp,1\n")
    out = draw(f"--workdir {run} --low-res flat")
    np.testing.assert_array_equal(arrays(out)["arr_1"], [0, 1, 1])


def test_a_csv_file_of_other_images_is_refused_with_the_way_out(
    place, tmp_path, monkeypatch, capsys
):
    run = csv_labels(place, tmp_path, "other.jpg,0\n")
    monkeypatch.setattr(sys, "argv", f"sample.py --workdir {run} --low-res flat".split())
    with pytest.raises(SystemExit):
        run_script(sample.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"--low-res flat: .*labels\.csv: 1 of 1 rows .*; or give --labels", line)


def test_samples_of_a_base_are_safe_from_those_that_enlarge_them(draw, capsys, monkeypatch):
    out = draw("--workdir base --upsampler up --num 2")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = f"sample.py --workdir up --low-res {out / 'base'} --out {out}"
    monkeypatch.setattr(sys, "argv", again.split())
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_script(sample.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"--out {out} holds samples of another command \(.*low_res", line), line
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.slow  # half a minute of training; the other tests make their models by hand
def test_a_model_that_train_py_made_enlarges_what_it_is_given(
    draw, tiny_options, monkeypatch, tmp_path
):
    """Ten classes of digits, cut at random and halved in training."""
    options = f"""--workdir {tmp_path / "run"} --data.low-res-size 4 --data.random-crop True
        --train.steps 1 --train.sample-every-steps 1 --model.num-res-blocks 1 --parallel.data 1
        --sample.num 2 --sample.batch-size 1"""
    monkeypatch.setattr(sys, "argv", ["train.py", *tiny_options, *options.split()])
    train.main()
    assert (tmp_path / "run" / "samples" / "step_00000001.png").exists()
    out = draw(f"--workdir {tmp_path / 'run'} --low-res images.npz --labels 7,8 --num 3")
    np.testing.assert_array_equal(arrays(out)["arr_1"], [7, 8, 7])
