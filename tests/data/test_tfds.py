"""TFDS sets, from tiny ArrayRecord ones that are written by hand, without TensorFlow."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from ddpm_jax.config import Config, DataConfig, ModelConfig
from ddpm_jax.data import Source, check_num_classes, load_source, prepare
from ddpm_jax.errors import UserError
from tests.tiny_tfds import write_tfds

LABELLED = {
    "id": tfds.features.Text(),
    "image": tfds.features.Image(shape=(6, 6, 3)),
    "label": tfds.features.ClassLabel(names=["ant", "bee"]),
}


def write_set(
    root: Path,
    folder: str = "tiny/1.0.0",
    features: dict[str, Any] = LABELLED,
    splits: dict[str, Iterable[int]] | None = None,
    file_format: str = "array_record",
) -> Path:
    """A prepared set whose images have the given pixel values, and their parity as the label."""
    name, _, version = folder.rpartition("/")
    splits = splits or {"train": range(5), "test": range(5, 8)}
    records = {
        split: [
            {key: made_up(feature, value) for key, feature in features.items()} for value in few
        ]
        for split, few in splits.items()
    }
    return write_tfds(root, name, features, records, version, file_format)


def made_up(feature: Any, value: int) -> Any:
    """What a record holds for `feature`: an image of that pixel value, its parity, or text."""
    if isinstance(feature, tfds.features.Image):
        return np.full((6, 6, 1 if feature.shape[-1] == 1 else 3), value, np.uint8)
    return value % 2 if isinstance(feature, tfds.features.ClassLabel) else b"some text"


def load(root: Path, name: str = "tfds:tiny", **settings: Any) -> Source:
    settings = {"image_size": 6, "channels": 3, **settings}
    return load_source(DataConfig(name=name, dir=str(root), **settings))


def values(source: Source) -> list[int]:
    return [int(source.records[i]["x"][0, 0, 0]) for i in range(len(source))]


def one_line_error(root: Path, name: str = "tfds:tiny", **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        load(root, name, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_images_labels_and_class_names(tmp_path: Path) -> None:
    write_set(tmp_path)
    source = load(tmp_path)
    assert values(source) == [0, 1, 2, 3, 4]
    record = source.records[3]
    assert record["x"].shape == (6, 6, 3) and record["x"].dtype == np.uint8
    assert record["label"] == 1
    assert source.num_classes == 2 and source.class_names == ("ant", "bee")


def test_splits_are_joined_and_cut(tmp_path: Path) -> None:
    write_set(tmp_path)
    assert values(load(tmp_path, split="train+test")) == list(range(8))
    assert values(load(tmp_path, split="train[:2]+test[1:]")) == [0, 1, 6, 7]


def test_newest_version_unless_one_is_named(tmp_path: Path) -> None:
    write_set(tmp_path, "tiny/9.0.0", splits={"train": [9]})
    write_set(tmp_path, "tiny/10.0.0", splits={"train": [10]})
    (tmp_path / "tiny" / "11.0.0.incompleteABC").mkdir()
    (tmp_path / "tiny" / "12.0.0").mkdir()
    assert values(load(tmp_path)) == [10]
    assert values(load(tmp_path, "tfds:tiny:9.0.0")) == [9]


def test_configurations_are_named_in_full(tmp_path: Path) -> None:
    write_set(tmp_path, "tiny/bedroom/1.0.0")
    write_set(tmp_path, "tiny/church/1.0.0", splits={"train": [7]})
    assert values(load(tmp_path, "tfds:tiny/church")) == [7]
    assert "bedroom, church; choose one, as in tfds:tiny/bedroom" in one_line_error(tmp_path)


def test_unlabelled_set(tmp_path: Path) -> None:
    write_set(tmp_path, features={"photo": tfds.features.Image(shape=(None, None, 3))})
    source = load(tmp_path)
    assert source.num_classes == 0 and source.class_names == ()
    assert source.records[0]["label"] == -1


def test_hidden_labels_are_none(tmp_path: Path) -> None:
    image = np.zeros((6, 6, 3), np.uint8)
    labels = {"train": [0, 1], "test": [-1, -1], "holes": [0, -1, 1]}
    splits = {
        split: [{"id": b"", "image": image, "label": label} for label in few]
        for split, few in labels.items()
    }
    write_tfds(tmp_path, "tiny", LABELLED, splits)
    for split in ("test", "train+test"):
        source = load(tmp_path, split=split)
        assert source.num_classes == 0 and source.records[0]["label"] == -1
        with pytest.raises(UserError, match=rf"tiny \(split {re.escape(split)}\) has no labels"):
            data = DataConfig(name="tfds:tiny", split=split)
            check_num_classes(Config(data=data, model=ModelConfig(num_classes=2)), source)
    with pytest.raises(UserError, match=r"record 1 of tfds:tiny has no label; choose another"):
        load(tmp_path, split="holes").records[1]


def test_images_without_a_fixed_channel_count_are_converted(tmp_path: Path) -> None:
    write_set(tmp_path, features={"image": tfds.features.Image(shape=(None, None, None))})
    assert load(tmp_path, channels=1).records[2]["x"].shape == (6, 6, 1)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    write_set(tmp_path / "rgb")
    write_set(tmp_path / "grey", features={"image": tfds.features.Image(shape=(6, 6, 1))})
    write_set(tmp_path / "text", features={"text": tfds.features.Text()})
    write_set(tmp_path / "rows", file_format="tfrecord")
    float_image = tfds.features.Image(shape=(6, 6, 1), dtype=np.float32)
    write_set(tmp_path / "float", features={"image": float_image})
    assert "has 3 channels; set --data.channels 3" in one_line_error(tmp_path / "rgb", channels=1)
    assert "has 1 channel; set --data.channels 1" in one_line_error(tmp_path / "grey")
    assert "has no images; its features are text" in one_line_error(tmp_path / "text")
    assert "float32 images" in one_line_error(tmp_path / "float", channels=1)
    assert "prepared as tfrecord, not array_record" in one_line_error(tmp_path / "rows")
    for split in ("val", "train+val", "train[:900%]", "train[90%:80%]", "train[0:0]", "", "["):
        message = one_line_error(tmp_path / "rgb", split=split)
        assert repr(split) in message and "splits of tfds:tiny are train, test" in message


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "random", "picture"])
def test_damaged_records_are_found_at_once(tmp_path: Path, damage: str) -> None:
    target = write_set(tmp_path)
    path = target / "tiny-train.array_record-00000-of-00001"
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "random":
        path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))
    else:  # whole records of something else
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for _ in range(5):
            writer.write(b"no example")
        writer.close()
    message = one_line_error(tmp_path)
    assert "record 0 of tfds:tiny cannot be read" in message and "prepare it again" in message


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_description(tmp_path: Path, name: str) -> None:
    target = write_set(tmp_path)
    (target / name).write_text('{"na')
    assert f"{target} is no readable TFDS data set" in one_line_error(tmp_path)


def test_without_tensorflow_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = one_line_error(tmp_path, "tfds:mnist")
    assert f"tfds:mnist is not prepared in {tmp_path}" in message
    assert "`pip install -e '.[prepare]'`" in message
    write_set(tmp_path)
    assert "(only 1.0.0)" in one_line_error(tmp_path, "tfds:tiny:2.0.0")


def test_a_failed_preparation_is_shown_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no such processor')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    message = one_line_error(tmp_path, "tfds:mnist")
    assert "cannot import TensorFlow (no such processor)" in capfd.readouterr().err
    assert "cannot prepare tfds:mnist" in message
    assert f"`python -m ddpm_jax.data.prepare mnist --dir {tmp_path}` ended with 2" in message


def test_a_set_is_prepared_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command[1:])
        write_set(tmp_path)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "run", run)
    assert values(load(tmp_path)) == [0, 1, 2, 3, 4]
    assert commands == [["-m", "ddpm_jax.data.prepare", "tiny", "--dir", str(tmp_path)]]


def test_prepare_writes_array_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}

    class Builder:
        info = type("Info", (), {"full_name": "tiny/1.0.0"})
        data_dir = str(tmp_path)

        def download_and_prepare(self, **options: Any) -> None:
            calls.update(options)

    def builder(name: str, **options: Any) -> Builder:
        calls.update(name=name, **options)
        return Builder()

    monkeypatch.setitem(sys.modules, "tensorflow", type(sys)("tensorflow"))
    monkeypatch.setattr(tfds, "builder", builder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # put back afterwards
    prepare.main(["tiny", "--dir", str(tmp_path)])
    assert calls["name"] == "tiny" and calls["data_dir"] == str(tmp_path)
    assert calls["file_format"].value == "array_record"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("Dataset tiny cannot be loaded at version 9.9.9, only: 1.0.0."),
        AssertionError("tiny/1.0.0 requires manual download of\n  archives:\n\nby hand"),
        ConnectionError("no network"),
    ],
)
def test_what_tfds_cannot_prepare_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def builder(name: str, **_: Any) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "tensorflow", type(sys)("tensorflow"))
    monkeypatch.setattr(tfds, "builder", builder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # put back afterwards
    with pytest.raises(UserError) as raised:
        prepare.main(["tiny"])
    assert str(raised.value) == f"TFDS cannot prepare tiny: {' '.join(str(error).split())}"


def test_reading_imports_no_tensorflow_and_prints_nothing(tmp_path: Path) -> None:
    write_set(tmp_path)
    code = f"""
import sys
from ddpm_jax.config import Config, DataConfig, ModelConfig
from ddpm_jax.data import load_source, train_batches
data = DataConfig(name="tfds:tiny", dir={str(tmp_path)!r}, image_size=4, channels=3)
with train_batches(load_source(data), data, 4, seed=0) as batches:
    assert next(batches)["x"].shape == (4, 4, 4, 3)
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
