"""The classes of a data set find their way into the config, or a contradiction is named."""

import dataclasses
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import train
from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig
from ddpm_jax.data import (
    Source,
    check_num_classes,
    class_line,
    hold_out,
    load_source,
    warn_of_tiny_images,
    with_classes,
)
from ddpm_jax.data.sources import ArrayRecords
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.script import run_script

PETS = ("cat/1.png", "cat/2.png", "dog/1.png", "owl/deep/1.png")


def write(root: Path, *names: str, size: tuple[int, int] = (8, 8), colour: str = "white") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(root / name)


def config(name: str, num_classes: int, kind: str = "unet", labels: str = "folders") -> Config:
    return Config(
        data=DataConfig(name=name, image_size=8, channels=3, labels=labels),
        model=ModelConfig(kind=kind, num_classes=num_classes),
        diffusion=DiffusionConfig(label_dropout=0.1 if num_classes and kind == "unet" else 0.0),
    )


def completed(before: Config) -> Config:
    return with_classes(before, load_source(before.data))


def numbered(count: int) -> Source:
    """A data set of `count` classes, named by their numbers."""
    records = ArrayRecords(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1))
    return Source("test", records, count, tuple(map(str, range(count))))


@pytest.mark.parametrize("num_classes", [-1, 3])
def test_a_folders_classes_are_counted_named_and_printed(tmp_path: Path, num_classes: int) -> None:
    write(tmp_path, *PETS)
    before = config(f"folder:{tmp_path}", num_classes)
    after = completed(before)
    assert after.model.num_classes == 3 and after.data.class_names == ("cat", "dog", "owl")
    assert class_line(after) == "classes      3: cat, dog, owl"
    data = dataclasses.replace(before.data, class_names=("cat", "dog", "owl"))
    model = dataclasses.replace(before.model, num_classes=3)
    assert after == dataclasses.replace(before, data=data, model=model)
    assert completed(after) == after  # as when a run is resumed


def test_labels_of_a_csv_file_that_are_integers_have_no_names(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png")
    (tmp_path / "l.csv").write_text("a.png,0\nb.png,4\n")
    after = completed(config(f"folder:{tmp_path}", -1, labels=str(tmp_path / "l.csv")))
    assert (after.model.num_classes, after.data.class_names) == (5, ())
    assert class_line(after) == "classes      5"


def test_the_digits_are_named_and_need_no_count() -> None:
    data = DataConfig(name="digits", image_size=8, channels=1, held_out="10%")
    source, _ = hold_out(load_source(data), data)
    after = with_classes(Config(data=data, model=ModelConfig(num_classes=-1)), source)
    assert after.model.num_classes == 10
    assert class_line(after) == "classes      10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"


def test_ten_names_are_printed_and_a_thousand_are_kept() -> None:
    for count, kept in [(12, 12), (1000, 1000), (1001, 0)]:
        after = with_classes(config("digits", -1), numbered(count))
        assert after.model.num_classes == count and len(after.data.class_names) == kept
    twelve = with_classes(config("digits", -1), numbered(12))
    assert class_line(twelve) == "classes      12: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("all/1.png", "all/2.png")])
def test_without_labels_or_with_one_class_the_model_becomes_unconditional(
    tmp_path: Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, *names)
    after = completed(config(f"folder:{tmp_path}", -1))
    assert after.model.num_classes == 0 and after.data.class_names == ()
    assert after.diffusion.label_dropout == 0  # else the config would be refused
    assert class_line(after) == "classes      none: the model is unconditional"
    assert caplog.messages == []
    with pytest.raises(UserError, match=r"has (no labels|one class), but a classifier needs two"):
        completed(config(f"folder:{tmp_path}", -1, kind="classifier"))


def test_a_labelled_folder_for_an_unconditional_model_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, *PETS)
    before = config(f"folder:{tmp_path}", 0)
    assert completed(before) == before
    assert caplog.messages == [
        f"folder:{tmp_path} has 3 classes (cat, dog, owl), but the model is unconditional: "
        "give --model.num-classes -1 to train it on them"
    ]
    caplog.clear()
    with_classes(config("digits", 0), numbered(10))  # bundled sets are often used so
    assert caplog.messages == []


def test_a_stray_picture_beside_the_classes_is_named(tmp_path: Path) -> None:
    name = f"folder:{tmp_path}"
    write(tmp_path, *PETS, "stray.png")
    stray = (
        f"{name} has no labels, because stray.png lies beside 3 folders of images: "
        "move it into one of them or take it away"
    )
    with pytest.raises(UserError) as error:
        completed(config(name, 3))
    assert str(error.value) == f"--model.num-classes 3: {stray}"
    with pytest.raises(UserError) as error:
        completed(config(name, -1))
    assert str(error.value) == (
        f"{stray}; or train without: --model.num-classes 0 --diffusion.label-dropout 0"
    )
    assert completed(config(name, 0)).model.num_classes == 0  # all images, as ever
    write(tmp_path, "a.png")
    with pytest.raises(UserError, match=r"because a\.png and 1 more lie beside 3 folders"):
        completed(config(name, -1))


def test_another_number_of_classes_than_the_data_has_is_refused() -> None:
    check_num_classes(config("digits", 10), numbered(10))
    check_num_classes(config("digits", 0), numbered(10))
    for before in (config("digits", 5), config("digits", 5, kind="classifier")):
        with pytest.raises(
            UserError, match=r"--model\.num-classes 5: digits has 10 classes; set it to 10"
        ):
            with_classes(before, numbered(10))
    with pytest.raises(UserError, match=r"digits has no labels; set it to 0 \(unconditional\)"):
        with_classes(config("digits", 5), numbered(0))


@pytest.mark.slow  # compiles a step of its own, twice
def test_a_run_keeps_its_classes_and_resumes_with_them(
    tmp_path: Path,
    tiny_options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(tmp_path / "pets", *PETS, size=(90, 60))
    run = tmp_path / "run" / "config.json"
    options = f"--workdir {run.parent} --data.name folder:{tmp_path / 'pets'} --data.channels 3"
    command = [*tiny_options, *options.split(), "--model.num-classes", "-1"]
    monkeypatch.setattr(sys, "argv", ["train.py", *command])
    run_script(train.main)
    kept = json.loads(run.read_text())
    assert kept["data"]["class_names"] == ["cat", "dog", "owl"]
    assert kept["model"]["num_classes"] == 3
    assert "classes      3: cat, dog, owl\n" in capsys.readouterr().out
    (warning,) = caplog.messages
    assert warning.startswith("images of 90x60 become 8x8: give --data.image-size 64, or start")

    del kept["data"]["class_names"]  # as in the folder of an older run
    run.write_text(json.dumps(kept))
    run_script(train.main)
    assert "resumed after step 6" in capsys.readouterr().out
    assert json.loads(run.read_text())["data"]["class_names"] == ["cat", "dog", "owl"]

    (tmp_path / "pets" / "owl").rename(tmp_path / "pets" / "bird")  # other labels for all of them
    with pytest.raises(SystemExit):
        run_script(train.main)
    assert "another config (data.class_names ('cat', 'dog', 'owl') ->" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image_size", "channels", "colour", "words"),
    [
        (8, 3, "red", "become 8x8: give --data.image-size 64, or"),
        (8, 1, "grey", "become 8x8: give --data.image-size 64, or"),
        (8, 1, "red", "become 8x8 and grey: give --data.image-size 64 --data.channels 3, or"),
        (16, 3, "red", "become 16x16: give --data.image-size 64, or"),
        (32, 3, "red", None),
    ],
)
def test_photographs_that_become_tiny_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, image_size, channels, colour, words
) -> None:
    write(tmp_path, "b.png", "c.png", size=(90, 60), colour=colour)
    (tmp_path / "a.png").write_text("broken")
    data = DataConfig(name=f"folder:{tmp_path}", image_size=image_size, channels=channels)
    with caplog.at_level(logging.WARNING, "ddpm_jax"):
        warn_of_tiny_images(load_source(data), data)
    wanted = f"images of 90x60 {words} start from --config configs/folder.py"
    assert caplog.messages[1:] == ([wanted] if words else [])  # the first names the broken one


def test_small_images_may_become_small(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "a.png", size=(90, 24))
    for data in (
        DataConfig(name=f"folder:{tmp_path}", image_size=8),
        DataConfig(name="digits", image_size=2, channels=1),
        DataConfig(name="s_curve", image_size=2),
    ):
        warn_of_tiny_images(load_source(data), data)
    assert caplog.messages == []
