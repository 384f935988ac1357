"""Examples kept from training: a share of a set, or another split."""

import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ddpm_jax.config import DataConfig
from ddpm_jax.data import hold_out, load_source
from ddpm_jax.errors import UserError
from tests.tiny_tfds import write_tfds

DIGITS = DataConfig(name="digits", image_size=8, channels=1)


def images(source) -> list[bytes]:
    return [source.records[i]["x"].tobytes() for i in range(len(source))]


def test_a_share_is_taken_from_the_set_and_stays_the_same():
    source = load_source(DIGITS)
    data = dataclasses.replace(DIGITS, held_out="10%")
    kept, held_out = hold_out(source, data)
    assert len(held_out) == 180 and len(kept) == 1617
    assert kept.num_classes == held_out.num_classes == 10
    assert sorted(images(kept) + images(held_out)) == sorted(images(source))
    assert images(hold_out(source, data)[1]) == images(held_out)
    # They come from all of the set: every class is there.
    assert {held_out.records[i]["label"] for i in range(len(held_out))} == set(range(10))


def test_without_the_setting_nothing_is_held_out():
    source = load_source(DIGITS)
    assert hold_out(source, DIGITS) == (source, None)


def test_another_split_of_tfds_is_validated_on(tmp_path):
    label = tfds.features.ClassLabel(num_classes=2)
    features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": label}
    image = np.zeros((8, 8, 3), np.uint8)
    splits = {
        "train": [{"image": image, "label": 0}] * 6,
        "test": [{"image": image, "label": 1}] * 3,
    }
    write_tfds(tmp_path, "tiny", features, splits)
    data = DataConfig(name="tfds:tiny", dir=str(tmp_path), image_size=8, held_out="test")
    kept, held_out = hold_out(load_source(data), data)
    assert len(kept) == 6 and len(held_out) == 3


def write_splits(root, labels: dict[str, list[int]]) -> DataConfig:
    label = tfds.features.ClassLabel(num_classes=2)
    features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": label}
    image = np.zeros((8, 8, 3), np.uint8)
    splits = {
        name: [{"image": image, "label": value} for value in values]
        for name, values in labels.items()
    }
    write_tfds(root, "tiny", features, splits)
    return DataConfig(name="tfds:tiny", dir=str(root), image_size=8)


@pytest.mark.parametrize(
    ("split", "held_out", "shared"),
    [
        ("train", "train", True),
        ("train+test", "test", True),
        ("test+train[:4]", "train[3:]", True),
        ("train[:50%]", "train[50%:]", False),
        ("train[2:4]", "train[:2]+train[4:]+test", False),
    ],
)
def test_a_split_that_shares_examples_is_refused(tmp_path, split, held_out, shared):
    data = write_splits(tmp_path, {"train": [0, 1] * 3, "test": [1] * 3})
    data = dataclasses.replace(data, split=split, held_out=held_out)
    source = load_source(data)
    if not shared:
        assert len(hold_out(source, data)[1]) > 0
        return
    with pytest.raises(UserError, match=r"shares examples with --data\.split .*; give another"):
        hold_out(source, data)


def test_a_wrong_split_is_named_as_the_one_held_out(tmp_path):
    data = write_splits(tmp_path, {"train": [0, 1], "test": [-1, -1]})
    source = load_source(data)
    with pytest.raises(UserError, match=r"^data\.held_out is 'val', but the splits of .* train"):
        hold_out(source, dataclasses.replace(data, held_out="val"))
    message = r"--data\.held-out test: has no labels, but --data\.split train has 2 classes"
    with pytest.raises(UserError, match=message):
        hold_out(source, dataclasses.replace(data, held_out="test"))


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        ("test", "digits has no splits; give a share, 10%"),
        ("10", "digits has no splits; give a share, 10%"),
        ("0%", "must be above 0% and below 100%"),
        ("100%", "must be above 0% and below 100%"),
        ("150%", "must be above 0% and below 100%"),
        ("0.01%", "leaves 1797 of 1797 examples to train on and 0 to validate on"),
    ],
)
def test_what_cannot_be_held_out_is_refused(held_out, words):
    data = dataclasses.replace(DIGITS, held_out=held_out)
    with pytest.raises(UserError, match=rf"^--data\.held-out {held_out}: {words}"):
        hold_out(load_source(DIGITS), data)


def test_a_broken_image_is_not_replaced_by_one_from_the_other_side(tmp_path):
    for i in range(20):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    for i in range(0, 20, 3):
        (tmp_path / f"{i:02d}.png").write_bytes(b"broken")
    data = DataConfig(name=f"folder:{tmp_path}", image_size=8, channels=1, held_out="50%")
    sides = hold_out(load_source(data), data)
    seen = [{int(side.records[i]["x"][0, 0, 0]) for i in range(len(side))} for side in sides]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == {i for i in range(20) if i % 3}
    assert len(sides[0].broken) == 7
