"""Pictures: what is drawn is what was given, and files are whole or absent."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.model_range import to_uint8
from ddpm_jax.runs.metrics_log import read_records
from ddpm_jax.visualization.grids import GAP, grid
from ddpm_jax.visualization.images import (
    png_bytes,
    save_chain_strip,
    save_gif,
    save_images,
    save_png,
)
from ddpm_jax.visualization.plots import (
    _limit,
    draw_points,
    save_curves,
    save_points_gif,
    save_points_row,
)

RNG = np.random.default_rng(0)


def random_images(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_import_is_light():
    code = (
        "import sys, ddpm_jax.visualization.images;"
        "assert not {'PIL', 'matplotlib', 'tqdm', 'jax'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_to_uint8_inverts_the_scaling_of_the_data():
    levels = np.arange(256, dtype=np.uint8)
    back = to_uint8(levels.astype(np.float32) / 127.5 - 1)
    assert np.abs(back.astype(int) - levels).max() <= 1
    assert back[0] == 0 and back[255] == 255


def test_to_uint8_clips_and_truncates():
    x = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 127, 255, 255])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns"), [(1, None), (7, None), (9, None), (7, 2), (3, 5)])
def test_tiles_of_a_grid_are_the_images(count, columns, channels):
    images = random_images(count, 4, 6, channels)
    scale, gap = 3, GAP
    columns_drawn = columns or int(np.ceil(np.sqrt(count)))
    canvas = grid(images, columns, min_pixels=scale * columns_drawn * 6)
    assert canvas.dtype == np.uint8
    painted = np.zeros(canvas.shape[:2], bool)
    for i, image in enumerate(images):
        y, x = (4 * scale + gap) * (i // columns_drawn), (6 * scale + gap) * (i % columns_drawn)
        place = slice(y, y + 4 * scale), slice(x, x + 6 * scale)
        np.testing.assert_array_equal(canvas[place], np.kron(image, np.ones((scale, scale, 1))))
        painted[place] = True
    assert (canvas[~painted] == 255).all()


@pytest.mark.parametrize("side", [8, 32, 64, 256])
def test_grids_are_of_a_pleasant_width(side):
    assert 600 <= grid(np.zeros((16, side, side, 1), np.uint8)).shape[1] < 1100


@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_image_reads_back(tmp_path, channels):
    image = random_images(8, 6, channels)
    path = tmp_path / "deep" / "er" / "image.png"
    save_png(image, path)
    np.testing.assert_array_equal(read(path).reshape(image.shape), image)
    assert [p.name for p in path.parent.iterdir()] == ["image.png"]
    assert png_bytes(image) == path.read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_numbered_files(tmp_path, channels):
    images = random_images(3, 8, 6, channels)
    save_images(images, tmp_path / "images")
    names = ["000000.png", "000001.png", "000002.png"]
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == names
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(read(tmp_path / "images" / name).reshape(image.shape), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_chain_strip_shows_every_pixel(tmp_path, channels):
    x_t, pred_xstart = random_images(2, 5, 2, 8, 8, channels)
    save_chain_strip(x_t, pred_xstart, [999, 750, 500, 250, 0], tmp_path / "strip.png")
    strip = read(tmp_path / "strip.png")[..., :3]
    for n in range(2):
        pair = grid(np.concatenate([x_t[:, n], pred_xstart[:, n]]), 5, min_pixels=800)
        y, x = 30 + n * (pair.shape[0] + 12), 44
        drawn = strip[y : y + pair.shape[0], x : x + pair.shape[1]]
        np.testing.assert_array_equal(drawn, np.broadcast_to(pair, drawn.shape))
    assert (strip[:30] < 128).any(), "labels above the columns"
    assert (strip[30:, :44] < 128).any(), "labels beside the rows"


def gif_frames(path):
    with Image.open(path) as gif:
        frames, durations = [], []
        for k in range(gif.n_frames):
            gif.seek(k)
            frames.append(np.asarray(gif.convert("RGB")))
            durations.append(gif.info["duration"])
        return np.stack(frames), durations, gif.info.get("loop")


def test_gif_has_its_frames_and_durations(tmp_path):
    frames = random_images(8, 16, 16, 1)
    save_gif(frames, tmp_path / "a.gif", seconds=2.0, hold_seconds=1.5)
    shown, durations, loop = gif_frames(tmp_path / "a.gif")
    np.testing.assert_array_equal(shown, np.broadcast_to(frames, shown.shape))
    assert durations == [250] * 7 + [1750]
    assert loop == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_gif_of_a_long_chain_is_thinned_and_keeps_both_ends(tmp_path):
    frames = np.arange(200, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    save_gif(frames, tmp_path / "a.gif", seconds=1.0)
    shown, durations, _ = gif_frames(tmp_path / "a.gif")
    assert len(shown) == 25 and sum(durations) == 2000
    assert shown[0, 0, 0, 0] == 0 and shown[-1, 0, 0, 0] == 199


def test_points_pictures(tmp_path):
    points = RNG.normal(size=(3, 50, 2))
    titles = ["t = 2", "t = 1", "t = 0"]
    plot = draw_points(points[0], reference=points[1])
    assert plot.shape == (500, 500, 3) and plot.std() > 5
    assert (plot != draw_points(points[0])).any()
    save_points_row(points, titles, tmp_path / "b.png")
    save_points_row(points, titles, tmp_path / "c.png", values=np.arange(50))
    save_points_gif(points, titles, tmp_path / "d.gif", seconds=0.3, hold_seconds=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.png", "c.png", "d.gif"]
    row = read(tmp_path / "b.png")
    assert row.shape[1] == pytest.approx(3 * 220, abs=1)
    assert (row != read(tmp_path / "c.png")).any(), "values give colours"
    assert gif_frames(tmp_path / "d.gif")[1] == [100] * 3


def test_points_that_diverged_do_not_spoil_the_limits():
    points = np.array([[0.0, 1.0], [-2.0, 0.0], [np.nan, 0.0], [np.inf, 0.0]])
    assert 2 < _limit([points]) < 2.5


def write_metrics(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "lo')


def test_curves_ignore_other_lines(tmp_path):
    rows = [{"step": s, "loss": 1 / s, "loss_q0": 2 / s} for s in range(1, 200)]
    write_metrics(tmp_path / "a.jsonl", rows)
    others = [{"event": "start"}, {"step": 3, "fid": 2.0}, {"step": 4, "loss": None}]
    write_metrics(tmp_path / "b.jsonl", [*others, *rows, {"event": "finished", "step": 200}])
    for name in "ab":
        save_curves(read_records(tmp_path / f"{name}.jsonl"), tmp_path / f"{name}.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))


def test_no_loss_gives_no_curves(tmp_path):
    save_curves([{"event": "start"}, {"step": 1, "loss": None}], tmp_path / "m.png")
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    save_png(random_images(8, 8, 1), path)
    before = path.read_bytes()

    def fail(self, file, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_png(random_images(8, 8, 1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]
