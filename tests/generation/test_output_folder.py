"""Samples of one command never take the place of another's."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.commands import sample
from ddpm_jax.errors import UserError
from ddpm_jax.generation import GenerationOptions, load_run, output_folder
from ddpm_jax.generation.run import Plan
from ddpm_jax.runtime.script import run_script
from tests.run_folders import make_run, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", tiny())


@pytest.fixture
def draw(run, monkeypatch, capsys):
    """draw("--num 2 ...") -> what sample.py printed, or its error."""

    def draw(options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sample.py", "--workdir", str(run), *options.split()])
        try:
            run_script(sample.main)
        except SystemExit as end:
            assert end.code == 2
            return capsys.readouterr().err
        return capsys.readouterr().out

    yield draw
    for folder in run.glob("drawn*"):
        shutil.rmtree(folder)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def number(folder: Path) -> int:
    with np.load(folder / "samples.npz") as files:
        return len(files["arr_0"])


def test_a_quick_look_leaves_earlier_samples_alone(draw, run):
    draw("--num 9 --frames 3")
    before = contents(run / "drawn")
    assert re.search(r"drawn holds samples of another command \(num 9 -> 2, fra", draw("--num 2"))
    assert contents(run / "drawn") == before and number(run / "drawn_2") == 2
    assert "3 samples in" in draw("--num 3 --seed 1")
    assert contents(run / "drawn") == before and number(run / "drawn_2") == 2
    assert number(run / "drawn_3") == 3


def test_the_same_command_and_more_samples_of_it_keep_their_folder(draw, run):
    draw("--num 3 --labels 0,1")
    first = contents(run / "drawn")
    assert "another command" not in draw("--num 3 --labels 0,1 --batch-size 2")
    draw("--num 5 --labels 0,1 --frames 2")
    assert [path.name for path in run.glob("drawn*")] == ["drawn"]
    assert number(run / "drawn") == 5 and (run / "drawn" / "chain.gif").exists()
    later = contents(run / "drawn")
    image = run / "drawn" / "images" / "000002.png"
    assert later[image] == first[image]


@pytest.mark.parametrize(
    "options", ["--seed 1", "--steps 6", "--labels 2", "--sampler ddim", "--num 1"]
)
def test_a_folder_that_is_named_is_refused_in_one_line(draw, run, tmp_path, options):
    out = tmp_path / "mine"
    draw(f"--num 2 --out {out}")
    before = contents(out)
    name = options.split()[0].removeprefix("--")
    pattern = rf"error: --out {out} holds samples of another command \(.*{name} .*--out {out}_2\n$"
    error = draw(f"--num 2 --out {out} {options}")
    assert error.count("\n") == 1 and re.search(pattern, error), error
    assert contents(out) == before


def test_unfinished_samples_of_another_command_are_kept_too(draw, run):
    draw("--num 2")
    (run / "drawn" / "samples.npz").unlink()
    batch = run / "drawn" / output_folder.UNFINISHED / "digest" / "00000000_2.npz"
    batch.parent.mkdir(parents=True)
    batch.write_bytes(b"")
    draw("--num 2 --seed 1")
    assert batch.exists() and number(run / "drawn_2") == 2


def test_samples_without_a_description_are_left_alone(draw, run):
    draw("--num 2")
    (run / "drawn" / "command.json").unlink()
    assert "another command (it has no command.json)" in draw("--num 2")
    assert number(run / "drawn_2") == 2


def test_a_folder_that_holds_no_samples_is_used(draw, run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    draw(f"--num 2 --out {tmp_path}")
    assert (tmp_path / "notes.txt").read_text() == "mine" and number(tmp_path) == 2
    described = json.loads((tmp_path / "command.json").read_text())
    assert described["num"] == 2 and described["model"].endswith(" step 1")


def test_a_grid_that_leaves_samples_out_says_so(draw):
    assert "grid.png" not in draw("--num 60")
    assert "\ngrid.png shows the first 20 of 21 samples of each class\n" in draw("--num 63")


def test_a_folder_remembers_which_images_of_memory_were_enlarged(tmp_path):
    up = load_run(make_run(tmp_path / "up", tiny(image_size=8, low_res_size=4, num_classes=0)))
    black = np.zeros((2, 4, 4, 1), np.uint8)
    first, again, other = (
        up.plan(GenerationOptions(low_res=images)) for images in (black, black.copy(), black + 1)
    )

    def open_folder(plan: Plan, out: Path) -> Path:
        return output_folder.open_folder(plan, output_folder.describe(plan), out)

    out = open_folder(first, tmp_path / "out")
    first.generate().save(out)
    assert open_folder(again, out) == out
    with pytest.raises(UserError, match="samples of another command \\(low_res "):
        open_folder(other, out)
