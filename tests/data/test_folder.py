"""Folders of images: what is found, how it is labelled, and what a broken file does."""

import errno
import logging
import os
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import DataConfig
from ddpm_jax.data import Source, load_source, train_batches
from ddpm_jax.data.folder import find_images
from ddpm_jax.data.transforms import decode_image
from ddpm_jax.errors import RunError, UserError


def write(path: Path, value: int = 0, size: int = 8) -> Path:
    """An image with pixels near `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value, value, value)).save(path)
    return path


def load(folder: Path, channels: int = 3) -> Source:
    return load_source(DataConfig(name=f"folder:{folder}", image_size=8, channels=channels))


def values(source: Source) -> list[int]:
    return [int(source.records[i]["x"][0, 0, 0]) for i in range(len(source))]


def break_file(path: Path, how: str) -> None:
    if how == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
        os.truncate(path, path.stat().st_size // 2)
    elif how == "text":
        path.write_text("not an image")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "other format":
        Image.new("L", (8, 8)).save(path, "BMP")
    elif how == "bomb":  # 20 kB that would be 900 megapixels
        Image.new("1", (8, 8)).save(path, "PNG")
        content = bytearray(path.read_bytes())
        content[16:24] = (30_000).to_bytes(4) * 2  # width and height in the header
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
        path.write_bytes(content)
    elif how == "dangling link":
        path.symlink_to(path.parent / "nowhere.png")
    elif how == "pipe":
        os.mkfifo(path)


def test_images_are_found_in_order_of_their_paths(tmp_path: Path) -> None:
    names = ["b.PNG", "a/deep/er.jpeg", "a/x.JPG", "c.webp", "a.png"]
    for i, name in enumerate(names):
        write(tmp_path / name, 40 * i)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._b.png").write_text("what macOS leaves behind")
    write(tmp_path / ".cache" / "thumb.png")
    source = load(tmp_path)
    want = [40 * names.index(name) for name in sorted(names)]
    assert np.abs(np.array(values(source)) - want).max() <= 1
    assert source.num_classes == 0 and source.class_names == ()
    assert source.records[0]["label"] == -1


def test_first_level_folders_are_the_classes(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/1.png", "cat/kitten/2.png", "emu/1.png"):
        write(tmp_path / name)
    (tmp_path / "empty").mkdir()
    source = load(tmp_path)
    assert source.class_names == ("cat", "dog", "emu") and source.num_classes == 3
    assert [source.records[i]["label"] for i in range(4)] == [0, 0, 1, 2]


def test_linked_folders_count_and_cycles_end(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    write(root / "a" / "1.png")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to("a")  # beside what it is a link to
    (root / "a" / "loop").symlink_to(root)
    assert find_images(root)[0] == ["a/1.png", "b/1.png", "c/1.png"]
    assert load(root).class_names == ("a", "b", "c")
    # Two folders with links to each other: the images of both are found, and the search ends.
    (root / "a" / "loop").unlink()
    (root / "a" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "a")
    assert find_images(root / "a")[0] == ["1.png", "there/1.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_mode_becomes_the_channels_asked_for(tmp_path: Path, channels: int) -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        Image.new(mode, (11, 7)).save(tmp_path / f"{mode.replace(';', '')}.png")
    source = load(tmp_path, channels)
    for i in range(len(source)):
        image = source.records[i]["x"]
        assert image.shape == (7, 11, channels) and image.dtype == np.uint8
    assert source.broken == []
    data = DataConfig(image_size=5, channels=channels)
    with train_batches(source, data, len(source), seed=0) as batches:
        assert next(batches)["x"].shape == (len(source), 5, 5, channels)


@pytest.mark.parametrize(
    "how", ["truncated", "text", "empty", "other format", "bomb", "dangling link", "pipe"]
)
def test_broken_image_is_named_once_and_replaced_by_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    for i, name in enumerate("abd"):
        write(tmp_path / f"{name}.png", 10 + i)
    break_file(tmp_path / "c.png", how)
    source = load(tmp_path)
    with caplog.at_level(logging.WARNING, "ddpm_jax"):
        assert [values(source) for _ in range(2)] == [[10, 11, 12, 12]] * 2
    assert source.broken == ["c.png"]
    assert len(caplog.messages) == 1 and "c.png is broken" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


@pytest.mark.parametrize(
    "passing", [OSError(errno.EIO, "Input/output error"), OSError(errno.EMFILE, ""), MemoryError()]
)
def test_an_image_that_cannot_be_read_now_ends_the_run_and_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passing: Exception
) -> None:
    for i, name in enumerate("abc"):
        write(tmp_path / f"{name}.png", 10 + i)
    source = load(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("ddpm_jax.data.folder.decode_image", Mock(side_effect=passing))
        with (
            train_batches(source, DataConfig(image_size=8, channels=3), 3, seed=0) as batches,
            pytest.raises(RunError, match=r"/[abc]\.png cannot be read now: "),
        ):
            next(batches)
    assert source.broken == [] and values(source) == [10, 11, 12]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES])
def test_what_only_ever_fails_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for i, name in enumerate("ab"):
        write(tmp_path / f"{name}.png", 10 + i)
    source = load(tmp_path)

    def fail(path: Path, channels: int) -> np.ndarray:
        if path.name == "b.png":
            raise OSError(number, os.strerror(number))
        return decode_image(path, channels)

    monkeypatch.setattr("ddpm_jax.data.folder.decode_image", fail)
    assert values(source) == [10, 10] and source.broken == ["b.png"]


def test_the_last_image_is_replaced_by_the_first(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 10)
    write(tmp_path / "b.png", 11)
    break_file(tmp_path / "c.png", "text")
    assert values(load(tmp_path)) == [10, 11, 10]


def test_many_threads_name_a_broken_image_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.png", 1)
    break_file(tmp_path / "b.png", "text")
    source = load(tmp_path)
    with caplog.at_level(logging.WARNING, "ddpm_jax"), ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda i: source.records[i % 2]["label"], range(64)))
    assert labels == [-1] * 64 and len(caplog.messages) == 1


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    assert find_images(tmp_path)[0] == ["a.png"]


def test_of_many_broken_images_the_first_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.png", 1)
    for i in range(30):
        break_file(tmp_path / f"b{i}.png", "text")
    source = load(tmp_path)
    with caplog.at_level(logging.WARNING, "ddpm_jax"):
        values(source)
    assert len(source.broken) == 30
    assert len(caplog.messages) == 21 and "more images are broken" in caplog.messages[-1]


def ignored(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("ignored")]


def test_files_of_other_kinds_are_counted_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a" / "1.png")
    for name in ("a/2.gif", "b/3.GIF", "b/4.tiff", "README", ".hidden.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name, "GIF")
    assert len(load(tmp_path)) == 1
    assert ignored(caplog) == [
        f"ignored in {tmp_path}: 2 .gif, 1 without a suffix, 1 .tiff "
        "(only PNG, JPEG and WebP are read)"
    ]


def test_the_csv_file_of_the_labels_is_not_called_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("a.png,3\n")
    (tmp_path / "other.csv").write_text("a.png,4\n")
    labels = str(tmp_path / "labels.csv")
    load_source(DataConfig(name=f"folder:{tmp_path}", image_size=8, labels=labels))
    assert ignored(caplog) == [f"ignored in {tmp_path}: 1 .csv (only PNG, JPEG and WebP are read)"]


def test_a_folder_of_other_kinds_alone_says_what_it_has(tmp_path: Path) -> None:
    for i, suffix in enumerate(("gif", "gif", "bmp", "tif", "avif", "heic", "psd", "svg")):
        (tmp_path / f"{i}.{suffix}").write_bytes(b"")
    counted = "2 .gif, 1 .bmp, 1 .tif, 1 .avif, 1 .heic, 2 other kinds"
    with pytest.raises(UserError, match=rf"no PNG, JPEG or WebP images, only {counted}; put some"):
        load(tmp_path)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 1)
    for name in "bcd":  # 50 kB each, 400 million pixels
        Image.new("1", (20_000, 20_000)).save(tmp_path / f"{name}.png")
    script = f"""
import resource
from concurrent.futures import ThreadPoolExecutor
from ddpm_jax.config import DataConfig
from ddpm_jax.data import load_source
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
source = load_source(DataConfig(name="folder:{tmp_path}", image_size=8))
before = peak()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(source.records.__getitem__, range(4)))
print(source.broken, peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    broken, more_mib = done.stdout.rsplit(" ", 1)
    assert broken == "['b.png', 'c.png', 'd.png']" and float(more_mib) < 40


def test_a_home_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for settings in (
        {"name": "folder:~nobody-of-that-name/images"},
        {"name": "tfds:mnist", "dir": "~nobody-of-that-name"},
        {"name": f"folder:{write(tmp_path / 'a.png').parent}", "labels": "~nobody-of-that-name/x"},
    ):
        with pytest.raises(UserError, match=r"~nobody-of-.*: there is no such home folder"):
            load_source(DataConfig(**settings))


def test_training_sees_the_good_images(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.png", i)
    break_file(tmp_path / "4.png", "truncated")
    source = load(tmp_path)
    with train_batches(source, DataConfig(image_size=8, channels=3), 5, seed=0) as batches:
        seen = sorted(int(v) for v in next(batches)["x"][:, 0, 0, 0])
    assert seen == [0, 0, 1, 2, 3] and source.broken == ["4.png"]


def test_bad_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("a.png", "b.png"):
        break_file(tmp_path / "broken" / name, "text")
    file = write(tmp_path / "file.png")
    for folder, words in [
        (tmp_path / "none", "does not exist"),
        (file, "is a file"),
        (tmp_path / "empty", "has no PNG, JPEG or WebP images"),
        (tmp_path / "broken", "none of the 2 images"),
    ]:
        with pytest.raises(UserError) as error:
            load(folder)
        assert words in str(error.value) and str(folder) in str(error.value)
        assert "\n" not in str(error.value)
