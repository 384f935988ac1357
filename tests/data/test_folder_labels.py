"""How a folder's images get their classes: three ways, and the mistakes in each."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from ddpm_jax.commands import train
from ddpm_jax.config import DataConfig
from ddpm_jax.data import load_source
from ddpm_jax.data.folder_labels import label_images
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.script import run_script

PATHS = ["a/1.png", "a/2.png", "b/3.jpg", "b/deep/4.png", "c/1.png"]


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_folders_are_the_first_level_ones() -> None:
    assert label_images(PATHS, "folders") == ([0, 0, 1, 1, 2], 3, ("a", "b", "c"))
    assert label_images([*PATHS, "root.png"], "folders") == ([-1] * 6, 0, ())
    # Numbers, too, are in the order of strings, as they always were.
    assert label_images(["10/a.png", "9/a.png"], "folders")[2] == ("10", "9")


def test_names_are_split_at_their_first_underscore_as_in_the_original_code() -> None:
    paths = ["dog_1_x.png", "sub/cat_1.png", "sub/dog_2.jpg", "cat.png", "9_1.png", "10_1.png"]
    assert label_images(paths, "names") == ([3, 2, 3, 2, 1, 0], 4, ("10", "9", "cat", "dog"))
    assert label_images(["one.png"], "names") == ([0], 1, ("one",))


@pytest.mark.parametrize(
    "text",
    [
        "a/1.png,5\na/2.png,0\nb/3.jpg,1\nb/deep/4.png,1\nc/1.png,0\n",
        # A header, another order, spaces, a byte order mark, CRLF, blank lines, bare names.
        "\ufefffile,label\r\nc/1.png,0\r\n\r\n2.png, 0\r\n3.jpg,01\r\n4.png,1\r\n./a/1.png,5",
        'Image Name,"the ""class"""\n"a/1.png","5"\na/2.png,0\n3.jpg,1\n4.png,1\nc/1.png,0\n'
        "c/1.png,0\n",
    ],
)
def test_integers_of_a_csv_file_are_taken_as_they_are(text: str, tmp_path: Path) -> None:
    assert label_images(PATHS, write(tmp_path / "l.csv", text)) == ([5, 0, 1, 1, 0], 6, ())


def test_other_labels_of_a_csv_file_are_numbered_in_their_sorted_order(tmp_path: Path) -> None:
    rows = zip(PATHS, ["dog", "10", "9", "cat", "9"], strict=True)
    file = write(tmp_path / "l.csv", "".join(f"{name},{label}\n" for name, label in rows))
    assert label_images(PATHS, file) == ([3, 0, 1, 2, 1], 4, ("10", "9", "cat", "dog"))


ALL = "".join(f"{path},0\n" for path in PATHS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a/1.png,5\n", "has no label for 4 of 5 images, the first a/2.png; add rows such as"),
        ("", "has no label for 5 of 5 images"),
        (ALL + "d.png,1\ne.png,1\n", "2 of 7 rows name no image of the folder, the first d.png"),
        (ALL + "1.png,0\n", "line 6: 1.png may be a/1.png and c/1.png; give the path"),
        (ALL + "a/1.png,3\n", "line 6: a/1.png is 3, but 0 on a line before"),
        (ALL.replace(",0", ",-1", 1), "label -1 must be 0 or more"),
        (ALL.replace(",0", ",4294967296", 1), "label 4294967296 must be 0 or more, and below 2^31"),
        ("a/1.png;5\n", "line 1: 'a/1.png;5' must be two values, as in cats/1.png,3"),
        ("file,label,split\na/1.png,5,train\n", "line 1: 'file,label,split' must be two values"),
        ("a/1.png,\n", "line 1: 'a/1.png,' must be two values"),
        (b"\xff\xfe\x00", "as CSV: 'utf-8' codec can't decode"),
        ('"a/1.png,5\n', "as CSV: unexpected end of data"),
    ],
)
def test_csv_files_that_cannot_be_used_are_refused_in_one_line(
    text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        label_images(PATHS, write(tmp_path / "l.csv", text))
    assert words in str(error.value) and str(tmp_path / "l.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_ways_that_do_not_exist_or_give_no_classes_are_refused(tmp_path: Path) -> None:
    for how, words in [
        ("folder", "data.labels is 'folder'; it must be folders, names or a CSV .* folders?"),
        (str(tmp_path / "l.csv"), "must be folders, names or a CSV file that exists"),
        (str(tmp_path), "must be folders, names or a CSV file"),
        ("", "data.labels is ''; it must be folders, names or a CSV file"),
    ]:
        with pytest.raises(UserError, match=words):
            label_images(PATHS, how)
    with pytest.raises(UserError, match=r"no two of the 2 images share .* as in 1-a\.png; name"):
        label_images(["x/1-a.png", "x/2-a.png"], "names")


def test_a_folder_is_opened_with_the_labels_asked_for(tmp_path: Path) -> None:
    for name in ("x/cat_1.png", "x/dog_1.png", "y/dog_2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    file = write(tmp_path / "l.csv", "x/cat_1.png,2\nx/dog_1.png,7\ny/dog_2.png,7\n")
    for how, labels, classes, names in [
        ("folders", [0, 0, 1], 2, ("x", "y")),
        ("names", [0, 1, 1], 2, ("cat", "dog")),
        (file, [2, 7, 7], 8, ()),
    ]:
        data = DataConfig(name=f"folder:{tmp_path}", image_size=8, channels=3, labels=how)
        source = load_source(data)
        assert [source.records[i]["label"] for i in range(3)] == labels
        assert (source.num_classes, source.class_names) == (classes, names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--data.labels names", "data.labels is 'names', but digits has its own labels or none"),
        ("--data.name folder:x --data.labels nams", "must be folders, names or a CSV file that"),
        ("--data.name folder:x --data.labels names", "no two of the 2 images share what stands"),
        ("--data.name folder:x --data.labels l.csv", "l.csv has no label for 1 of 2 images, the"),
        ("--data.name folder:x --model.num-classes 3", "--model.num-classes 3: folder:x has no l"),
        (
            "--data.name s_curve --data.random-crop True --model.kind mlp --model.num-classes 0",
            "s_curve has points; set data.random_crop to False",
        ),
    ],
)
def test_training_refuses_wrong_labels_in_one_line(
    options: str,
    words: str,
    tmp_path: Path,
    tiny_options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / "x" / name)
    write(tmp_path / "l.csv", "a.png,0\n")
    options = f"--workdir run --diffusion.label-dropout 0 {options}"
    monkeypatch.setattr(sys, "argv", ["train.py", *tiny_options, *options.split()])
    with pytest.raises(SystemExit) as end:
        run_script(train.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and words in line, line
    assert not (tmp_path / "run").exists()
