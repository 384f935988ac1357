"""sample.py: its files, and that sample i is a function of (seed, i, label) alone."""

import dataclasses
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import sample
from ddpm_jax.config import ParallelConfig, serialization
from ddpm_jax.errors import UserError
from ddpm_jax.generation import load_run
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.labels import choose_labels
from ddpm_jax.generation.output_folder import UNFINISHED
from ddpm_jax.models import build_network
from ddpm_jax.runs import checkpoints
from ddpm_jax.runtime import devices
from tests.slow import slow_but

# What rounding may do to a pixel of 255 when the batch size or the number of devices changes:
# XLA orders the sums of its convolutions by their shapes.
ROUNDING = 1


def draw_files(workdir: Path, out: Path, *options: str, monkeypatch) -> dict[str, np.ndarray]:
    arguments = ["sample.py", "--workdir", str(workdir), "--out", str(out), *options]
    monkeypatch.setattr(sys, "argv", arguments)
    sample.main()
    with np.load(out / "samples.npz") as archive:
        return dict(archive)


def test_the_files_are_those_of_the_contract(tiny_run, tmp_path, monkeypatch):
    files = draw_files(
        tiny_run,
        tmp_path,
        "--num",
        "5",
        "--labels",
        "3,7",
        "--frames",
        "4",
        monkeypatch=monkeypatch,
    )
    assert files["arr_0"].shape == (5, 8, 8, 1) and files["arr_0"].dtype == np.uint8
    np.testing.assert_array_equal(files["arr_1"], [3, 7, 3, 7, 3])
    for i, image in enumerate(files["arr_0"]):
        shown = np.asarray(Image.open(tmp_path / "images" / f"{i:06d}.png"))
        np.testing.assert_array_equal(shown, image[..., 0])
    assert len(list((tmp_path / "images").iterdir())) == 5
    assert min(Image.open(tmp_path / "grid.png").size) > 100
    assert Image.open(tmp_path / "chain.png").width > 300
    assert Image.open(tmp_path / "chain.gif").n_frames == 5


def test_ten_samples_are_the_first_of_thirty(tiny_run, tmp_path, monkeypatch):
    few = draw_files(tiny_run, tmp_path / "few", "--num", "10", monkeypatch=monkeypatch)
    many = draw_files(tiny_run, tmp_path / "many", "--num", "30", monkeypatch=monkeypatch)
    other = draw_files(
        tiny_run, tmp_path / "other", "--num", "10", "--seed", "1", monkeypatch=monkeypatch
    )
    np.testing.assert_array_equal(few["arr_0"], many["arr_0"][:10])
    np.testing.assert_array_equal(few["arr_1"], many["arr_1"][:10])
    assert (few["arr_0"] != other["arr_0"]).mean() > 0.3


@pytest.fixture(scope="module")
def draw(tiny_run):
    """The first 16 samples, uint8, by batch size and number of devices."""
    config = serialization.read_config(tiny_run / "config.json")
    network = build_network(config)

    @cache
    def draw(batch_size: int, count: int) -> np.ndarray:
        mesh = devices.make_mesh(ParallelConfig(data=count), batch_size)
        shardings = jax.tree.map(lambda _: devices.replicated(mesh), network.abstract)
        loaded = checkpoints.load_ema(
            tiny_run / "checkpoints", devices.abstract_on(network.abstract, shardings)
        )
        chosen = dataclasses.replace(config.sample, batch_size=batch_size)
        labels = choose_labels("all", 16, config.model.num_classes, seed=0)
        generator = Generator(dataclasses.replace(config, sample=chosen), network, mesh)
        return generator.generate(loaded.items["ema"], 0, labels).images

    return draw


@pytest.mark.parametrize(
    ("batch_size", "devices"),
    slow_but([(7, 1), (64, 8)], [(1, 1), (7, 1), (64, 1), (64, 2), (64, 8), (8, 8)]),
)
def test_batches_and_devices_change_a_sample_by_rounding_alone(draw, batch_size, devices):
    reference, ours = draw(16, 1).astype(int), draw(batch_size, devices).astype(int)
    assert reference.std() > 50
    difference = np.abs(ours - reference)
    assert difference.max() <= ROUNDING and (difference > 0).mean() < 0.01


def test_its_pictures_are_the_arrays_of_a_run_object(tiny_run, tmp_path, monkeypatch):
    options = ["--num", "5", "--labels", "0-1", "--seed", "3", "--checkpoint", "4"]
    files = draw_files(tiny_run, tmp_path, *options, monkeypatch=monkeypatch)
    batch = load_run(tiny_run, checkpoint=4).generate(5, labels=[0, 1], seed=3)
    np.testing.assert_array_equal(files["arr_0"], batch.images)
    np.testing.assert_array_equal(files["arr_1"], batch.labels)
    np.testing.assert_array_equal(Image.open(tmp_path / "grid.png"), batch.picture().squeeze())
    newest = load_run(tiny_run).generate(5, labels=[0, 1], seed=3)
    assert (newest.images != batch.images).any()


def test_labels_are_chosen_for_each_sample_alone():
    np.testing.assert_array_equal(choose_labels("all", 12, 10, 0), [*range(10), 0, 1])
    np.testing.assert_array_equal(choose_labels("", 3, 10, 0), [0, 1, 2])
    np.testing.assert_array_equal(choose_labels("", 3, 0, 0), [-1, -1, -1])
    random = choose_labels("random", 50, 10, 0)
    np.testing.assert_array_equal(random[:7], choose_labels("random", 7, 10, 0))
    assert len(set(random)) > 5 and (random != choose_labels("random", 50, 10, 1)).any()
    for spec, classes in [("10", 10), ("-1", 10), ("a", 10), ("1,", 10), ("3", 0)]:
        with pytest.raises(UserError, match=f"labels={spec}: "):
            choose_labels(spec, 4, classes, 0)


@pytest.mark.slow  # compiles a run of its own
def test_points_are_drawn_as_panels_and_gifs(tmp_path):
    run = tmp_path / "run"
    tiny = "--train.steps 5 --model.channels 8 --diffusion.timesteps 20 --sample.num 50".split()
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    for command in (
        ["train.py", "--config", "configs/s_curve.py", "--workdir", str(run), *tiny],
        ["sample.py", "--workdir", str(run), "--num", "70", "--frames", "6"],
    ):
        subprocess.run(
            [sys.executable, *command],
            check=True,
            cwd=Path(__file__).resolve().parents[2],
            env=environment,
        )
    assert Image.open(run / "samples" / "step_00000005.png").width > 300
    for name in ("forward", "reverse"):
        assert Image.open(run / "drawn" / f"{name}.png").width > 1000
        assert Image.open(run / "drawn" / f"{name}.gif").n_frames == 7
    with np.load(run / "drawn" / "samples.npz") as files:
        assert list(files) == ["arr_0"] and files["arr_0"].shape == (70, 2)
        assert files["arr_0"].dtype == np.float32


def test_a_killed_command_goes_on_at_its_next_batch(tiny_run, tmp_path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "sample.py", "--workdir", str(tiny_run), "--num", "400"]
    command += ["--labels", "3,7", "--frames", "3", "--steps", "20", "--batch-size", "8"]

    def files(out: Path) -> dict[str, bytes]:
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")}

    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, cwd=root, env=environment)
    assert not (whole / UNFINISHED).exists()

    process = subprocess.Popen([*command, "--out", str(killed)], cwd=root, env=environment)
    while len(list(killed.glob(f"{UNFINISHED}/*/*.npz"))) < 5:
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not (killed / "samples.npz").exists()
    parts = sorted(killed.glob(f"{UNFINISHED}/*/[0-9]*.npz"))
    assert 5 <= len(parts) < 50
    parts[1].write_bytes(parts[1].read_bytes()[:100])  # damaged: drawn again
    # A part that is there is not drawn again: the samples are those that were put into it.
    with np.load(parts[2]) as arrays:
        changed = dict(arrays) | {"x": 255 - arrays["x"]}
    np.savez(parts[2], **changed)
    subprocess.run([*command, "--out", str(killed)], check=True, cwd=root, env=environment)
    with np.load(whole / "samples.npz") as a, np.load(killed / "samples.npz") as b:
        expected = a["arr_0"].copy()
        expected[16:24] = 255 - expected[16:24]
        np.testing.assert_array_equal(b["arr_0"], expected)
        np.testing.assert_array_equal(b["arr_1"], a["arr_1"])
    ours, theirs = files(killed), files(whole)
    assert ours.keys() == theirs.keys()
    same = {name for name in ours if ours[name] == theirs[name]}
    assert len(ours.keys() - same) <= 8 + 4  # images, npz, grid, chain.png, chain.gif

    assert not (killed / UNFINISHED).exists()
