"""Images edited by a run: what is kept, on any devices, stopped, guided; edit.py's answers."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_jax.commands import edit
from ddpm_jax.errors import UserError
from ddpm_jax.generation import GenerationOptions, Run, load_run
from ddpm_jax.generation.editing import Editor
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.reconstruction import psnr, ssim
from ddpm_jax.sampling.resampling import Resampling
from tests import lpips_by_torch
from tests.run_folders import make_run, tiny
from tests.test_bad_input import call, check_one_line

OPTIONS = GenerationOptions(steps=6, labels=[1, 2, 0, 2], batch_size=4)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1)).astype(np.uint8)
RIGHT = np.arange(4) >= 2
MASK = np.broadcast_to(RIGHT, (4, 4))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs by hand, in grey and RGB, with a classifier; images and masks to give them."""
    place = tmp_path_factory.mktemp("place")
    make_run(place / "run", tiny(label_dropout=0.1, prediction="eps"))
    make_run(place / "sure", tiny(prediction="eps"))
    learned = {"variance": "learned_range", "prediction": "eps"}  # as the published models have it
    make_run(place / "colour", tiny(channels=3, num_classes=0, **learned))
    make_run(place / "classifier", tiny(kind="classifier", pool="adaptive"), seed=1, spread=1.0)
    (place / "folder").mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image[..., 0].repeat(3, axis=0).repeat(3, axis=1)).save(
            place / "folder" / f"{i}.png"
        )
    Image.fromarray(np.uint8(255) * MASK).save(place / "mask.png")
    Image.fromarray(np.full((5, 7), 255, np.uint8)).save(place / "large.png")
    np.savez(place / "samples.npz", IMAGES, np.array([1, 2, 0, 2]))
    (place / "text.png").write_text("no image")
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    return load_run(place / "run")


def editor(run: Run) -> Editor:
    return run.editor(IMAGES, GenerationOptions(**vars(OPTIONS) | {"sampler": "ddim"}))[0]


def guided(place: Path, batch_size: int = 4) -> GenerationOptions:
    scales = {"classifier": place / "classifier", "guidance_scale": 0.5, "cfg_scale": 1.5}
    return GenerationOptions(steps=6, labels=[1, 2, 0, 2], batch_size=batch_size, **scales)


def test_an_inversion_has_the_noise_the_image_again_and_how_near_it_is(run):
    edited = run.invert(IMAGES, OPTIONS)
    np.testing.assert_array_equal(edited.row("original"), IMAGES)
    np.testing.assert_array_equal(edited.arrays["labels"], [1, 2, 0, 2])
    assert edited.arrays["x_T"].shape == IMAGES.shape
    drawn = edited.row("reconstruction")
    # Of the reconstruction before it is rounded, which hardly matters for one as poor as this.
    np.testing.assert_allclose(edited.arrays["psnr"], psnr(IMAGES, drawn), atol=0.2)
    np.testing.assert_allclose(edited.arrays["ssim"], ssim(IMAGES, drawn), atol=0.02)
    np.testing.assert_array_equal(editor(run).from_noise(edited.arrays["x_T"]), drawn)
    assert edited._repr_png_().startswith(b"\x89PNG")


def test_both_ends_of_an_interpolation_are_the_reconstructions(run):
    rows = editor(run).with_labels(np.array([1, 2], np.int32))
    between = rows.interpolate(IMAGES[:2], count=5).images
    assert between.shape == (1, 5, 4, 4, 1)
    want = rows.invert(IMAGES[:2]).row("reconstruction")
    np.testing.assert_array_equal(between[0, [0, -1]], want)
    assert len({image.tobytes() for image in between[0]}) == 5


def test_blends_at_a_noise_level_end_in_variations_of_the_images(run):
    rows = editor(run).with_labels(np.array([1, 2], np.int32))
    between = rows.interpolate(IMAGES[:2], 5, "noised", 0.5).images[0]
    first = rows.with_labels(rows.labels[:1]).vary(IMAGES[:1], [0.5]).images[1]
    np.testing.assert_array_equal(between[:1], first)
    pixels = rows.interpolate(IMAGES[:2], 5, "pixels").images[0]
    np.testing.assert_allclose(pixels[[0, -1]], IMAGES[:2], atol=1)


@pytest.mark.parametrize("resampling", [None, Resampling(2, 2)])
def test_known_pixels_stay_to_the_bit_and_the_others_change_with_the_seed(run, place, resampling):
    filled = [
        run.inpaint(
            IMAGES, MASK, GenerationOptions(**vars(guided(place)) | {"seed": seed}), resampling
        )
        for seed in (0, 1)
    ]
    for edited in filled:
        assert (edited.row("filled")[:, :, ~RIGHT] == IMAGES[:, :, ~RIGHT]).all()
    first, second = (edited.row("filled")[:, :, RIGHT] for edited in filled)
    assert (first != second).mean() > 0.3


def test_a_higher_strength_is_further_from_the_image(run):
    edited = run.vary(IMAGES, [0.2, 1.0], OPTIONS)
    near, far = (np.abs(edited.images[k].astype(int) - IMAGES).mean() for k in (1, 2))
    assert near < far
    # At 1 the image does not matter but for what is left of it at T.
    other = run.vary(255 - IMAGES, 1.0, OPTIONS).row("strength 1")
    assert np.abs(other.astype(int) - edited.row("strength 1")).mean() < far / 2


# A batch of 8, on eight devices, has four images to fill it up; batches of 1 and 2 have none.
@pytest.mark.slow  # a program of RePaint's chain, and two of inversions, for each number
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_number_of_devices_edits_the_same(run, place, batch_size):
    options, alone = guided(place, batch_size), guided(place)
    for edit_images in (
        lambda options: run.invert(IMAGES, options).arrays["x_T"],
        lambda options: run.inpaint(IMAGES, MASK, options, Resampling(2, 2)).images,
    ):
        np.testing.assert_allclose(edit_images(options), edit_images(alone), atol=1e-3)


@pytest.mark.slow  # compiles four guided chains
def test_an_inversion_under_guidance_is_undone_under_the_same(run, place):
    edited = run.invert(IMAGES, GenerationOptions(**vars(guided(place)) | {"steps": 12}))
    unguided = run.invert(IMAGES, GenerationOptions(steps=12, labels=[1, 2, 0, 2], batch_size=4))
    assert np.abs(edited.arrays["x_T"] - unguided.arrays["x_T"]).max() > 1e-3


def test_a_stopped_edit_goes_on_at_its_next_batch(run, tmp_path, monkeypatch):
    options = GenerationOptions(steps=6, labels=[1, 2, 0, 2], batch_size=1, sampler="ddim")
    want = run.editor(IMAGES, options)[0].invert(IMAGES)
    calls, batch = [], Generator._batch

    def stops_at(limit):
        def counted(self, request, places):
            calls.append(places)
            if len(calls) > limit:
                raise KeyboardInterrupt
            return batch(self, request, places)

        return counted

    monkeypatch.setattr(Generator, "_batch", stops_at(2))
    with pytest.raises(KeyboardInterrupt):
        run.editor(IMAGES, options, tmp_path)[0].invert(IMAGES)
    calls.clear()
    monkeypatch.setattr(Generator, "_batch", stops_at(99))
    got = run.editor(IMAGES, options, tmp_path)[0].invert(IMAGES)
    assert len(calls) == 2 + 4  # two images to invert, and four to draw
    np.testing.assert_array_equal(got.images, want.images)


def test_an_image_without_a_label_is_edited_without_one_where_the_model_can(run, place):
    assert run.editor(IMAGES)[0].labels.tolist() == [-1] * 4
    assert run.editor(place / "samples.npz")[0].labels.tolist() == [1, 2, 0, 2]
    with pytest.raises(UserError, match="labels=: the images have none; give their classes"):
        load_run(place / "sure").editor(IMAGES)


def test_colours_are_edited_and_paths_are_cropped_as_in_training(place):
    rgb = load_run(place / "colour")
    edited = rgb.vary([place / "folder", place / "mask.png"], 0.5)
    filled = rgb.inpaint(place / "folder", MASK, GenerationOptions(steps=6), Resampling(2, 2))
    np.testing.assert_array_equal(
        filled.row("filled")[:, :, ~RIGHT], filled.images[0][:, :, ~RIGHT]
    )
    assert edited.images.shape == (2, 5, 4, 4, 3)
    # Enlarged by repeating pixels, and made smaller again.
    assert np.abs(edited.images[0, :4, ..., :1].astype(int) - IMAGES).mean() < 30


def test_psnr_and_ssim_are_those_of_their_definitions():
    flat = np.full((1, 16, 16, 1), 100, np.uint8)
    other = flat + np.uint8(20)
    np.testing.assert_allclose(psnr(flat, other), 20 * np.log10(255 / 20))
    assert psnr(flat, flat) == np.inf and ssim(IMAGES, IMAGES).tolist() == [1, 1, 1, 1]
    c1 = (0.01 * 255) ** 2
    want = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    np.testing.assert_allclose(ssim(flat, other), want)
    noise = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 1)).astype(np.uint8)
    assert ssim(noise, 255 - noise) < 0


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of LPIPS, by the variables that name them."""
    folder = tmp_path_factory.mktemp("lpips")
    names = {"DDPM_JAX_ALEXNET": folder / "alexnet.pth", "DDPM_JAX_LPIPS": folder / "alex.pth"}
    for path, weights in zip(names.values(), lpips_by_torch.random_weights(), strict=True):
        torch.save(weights, path)
    return names


def test_an_inversion_reports_lpips_where_its_weights_are_at_hand(
    lpips_files, tmp_path, monkeypatch, capsys
):
    make_run(tmp_path / "run", tiny(image_size=32, channels=3, num_classes=0), spread=0.1)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "samples.npz", images)
    options = "--workdir run --images samples.npz --steps 6 --batch-size 2 --out"
    monkeypatch.chdir(tmp_path)
    for name, path in lpips_files.items():
        monkeypatch.setenv(name, str(path))
    monkeypatch.setattr("sys.argv", ["edit.py", "invert", *options.split(), "out"])
    edit.main()
    titles, row, picture = capsys.readouterr().out.splitlines()
    assert titles.split() == ["steps", "PSNR", "dB", "least", "SSIM", "LPIPS"]
    with np.load(Path(picture).parent / "edited.npz") as file:
        drawn, found = file["reconstruction"], file["lpips"]
    pair = [torch.tensor(each / 127.5 - 1).movedim(-1, 1) for each in (images, drawn)]
    want = lpips_by_torch.distance(*lpips_by_torch.random_weights(), *pair).numpy()
    np.testing.assert_allclose(found, want, rtol=0.02)  # of the drawn one before rounding
    metrics = json.loads(Path("out/metrics.json").read_text())
    np.testing.assert_allclose(metrics["6"]["lpips"], found, rtol=1e-6)
    assert float(row.split()[-1]) == pytest.approx(found.mean(), abs=1e-6)

    Path("page.pth").write_text("<html>Not Found</html>")
    monkeypatch.setenv("DDPM_JAX_ALEXNET", "page.pth")
    answer = call(edit.main, f"invert {options} other", monkeypatch, capsys)
    check_one_line(*answer, "page.pth is damaged, or no file of PyTorch weights")
    assert not Path("other").exists()


def test_an_inversion_of_small_images_says_why_lpips_is_left_out(
    lpips_files, place, tmp_path, monkeypatch, caplog
):
    for name, path in lpips_files.items():
        monkeypatch.setenv(name, str(path))
    assert list(edit.measures_of(load_run(place / "run"))) == ["psnr", "ssim"]
    assert caplog.messages == ["LPIPS is left out: AlexNet needs images of 31 pixels a side, not 4"]


COMMANDS = {
    "invert": ("--images folder --steps 4,6 --labels 1", {"original": 4, "noise": 4}),
    "interpolate": ("--images folder --steps 6 --labels 1 --count 3", {"0_to_1": 3, "2_to_3": 3}),
    "inpaint": ("--images samples.npz --mask mask.png --steps 6 --resample 2", {"filled": 4}),
    "vary": ("--images folder --num 2 --strength 0.2,0.9 --steps 6", {"strength_0.9": 2}),
    "film": ("--num 3 --steps 6 --labels 1", None),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_writes_its_pictures(command, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words, rows = COMMANDS[command]
    line = f"{command} --workdir run --batch-size 4 {words} --out {tmp_path}"
    assert call(edit.main, line, monkeypatch, capsys)[0] == 0
    if rows is None:
        film = Image.open(tmp_path / "film.gif")
        assert film.n_frames > 4 and (tmp_path / "film.mp4").stat().st_size > 1000
        return
    folder = tmp_path / "steps_6" if command == "invert" else tmp_path
    assert Image.open(folder / "grid.png").width > 100
    for row, count in rows.items():
        assert len(list((folder / "images" / row).glob("*.png"))) == count
    assert not (tmp_path / ".unfinished").exists()


def test_saved_noise_is_drawn_from_again(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    options = f"--workdir run --batch-size 4 --out {tmp_path}"
    first = f"invert {options}/a --images samples.npz --steps 6"
    assert call(edit.main, first, monkeypatch, capsys)[0] == 0
    again = f"invert {options}/b --from {tmp_path}/a/steps_6/edited.npz"
    assert call(edit.main, again, monkeypatch, capsys)[0] == 0
    with np.load(tmp_path / "a/steps_6/edited.npz") as a, np.load(tmp_path / "b/edited.npz") as b:
        np.testing.assert_array_equal(a["reconstruction"], b["drawn"])


BAD = [
    ("paint", "paint: the commands are invert, interpolate, inpaint, vary, film"),
    ("invert", "--images : give files, a folder, a samples.npz, or data"),
    ("vary --images nowhere.png", "--images nowhere.png: no such file or folder"),
    ("vary --images text.png", "--images text.png cannot be read"),
    ("vary --images folder --strength 0", "--strength 0: must be above 0 and at most 1"),
    ("vary --images folder --strength 0.3,1.5", "--strength 1.5: must be above 0"),
    ("vary --images folder --strength much", "--strength much: must be numbers"),
    ("vary --images folder --num 9", "--num 9: --images folder are 4"),
    ("vary --images folder --sampler dpmm_2m", r"did you mean dpmpp_2m\?"),
    ("invert --images folder --sampler unipc", "--sampler unipc .*must be ddim at eta 0"),
    ("invert --images folder --steps 99", 'steps "99": cannot divide'),
    ("invert --from samples.npz", "--from samples.npz: must be the edited.npz of an inversion"),
    ("interpolate --images folder/0.png", "--images : give two or more"),
    ("interpolate --images folder --method blend", "--method blend: there are slerp"),
    ("inpaint --images folder", "--mask , --box  or --half : give one of them"),
    ("inpaint --images folder --mask large.png", "large.png is 7x5; the model's images are 4x4"),
    ("inpaint --images folder --mask gone.png", "--mask gone.png: no such file"),
    ("inpaint --images folder --box 1,2,9,1", "--box .*: must be x,y,w,h in pixels"),
    ("inpaint --images folder --half middle", "--half middle: must be left, right, top, bottom"),
    ("inpaint --images folder --box 0,0,4,4", "the mask fills all pixels or none"),
    ("vary --images folder --cfg-scale 1,2 --labels 1", "one model at one scale of guidance"),
]


@pytest.mark.parametrize(("command", "pattern"), BAD, ids=lambda value: str(value)[:40])
def test_an_edit_is_refused_in_one_line(command, pattern, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    name, *words = shlex.split(command)
    line = [name, "--workdir", "run", "--out", str(tmp_path / "out"), *words]
    check_one_line(*call(edit.main, line, monkeypatch, capsys), pattern)
    assert not (tmp_path / "out").exists()  # so that the right command may use it


def test_a_run_of_points_and_one_that_enlarges_are_refused(tmp_path):
    make_run(tmp_path / "points", tiny(kind="mlp", name="s_curve", num_classes=0))
    with pytest.raises(UserError, match="points draws points, and only images are edited"):
        load_run(tmp_path / "points").editor("data")
    make_run(tmp_path / "up", tiny(image_size=8, low_res_size=4))
    with pytest.raises(UserError, match="low_res"):
        load_run(tmp_path / "up").editor(np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match=re.escape("uint8 [1, 8, 8, 3], not [N, 8, 8, 1]")):
        load_run(tmp_path / "up").editor(np.zeros((1, 8, 8, 3), np.uint8))
