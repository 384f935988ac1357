"""The files that samples become: PNG, GIF and npz, for images and for points."""

from pathlib import Path
from typing import TypeVar

import numpy as np

from ddpm_jax import visual
from ddpm_jax.data import Source
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.draw import Drawn

STRIP_SAMPLES = 4  # rows of the strip
STRIP_MOMENTS = 10  # columns of the strip, panels of a row of points
GIF_SAMPLES = 64

T = TypeVar("T")


def save_picture(
    x: np.ndarray, source: Source, path: Path, columns: int | None = None
) -> np.ndarray:
    """Writes samples [N, ...] in model range as a PNG; returns its pixels, uint8 [H, W, C].

    Images become a grid, points a scatter plot over those of the data.
    """
    from PIL import Image

    if x.ndim == 2:
        visual.save_points(x, path, source.records.x)
    else:
        visual.save_grid(visual.to_uint8(x), path, columns)
    pixels = np.asarray(Image.open(path))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def grid_columns(num: int, num_classes: int, turns: str) -> int | None:
    """Columns that put the samples of a class below each other, where classes come in turn."""
    in_turn = turns in ("", "all") and 1 < num_classes <= 20 and num >= num_classes
    return num_classes if in_turn else None


def make_folder(out: Path) -> None:
    """Makes the folder for samples; raises UserError if nothing can be written there."""
    probe = out / ".probe"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error


def save_samples(drawn: Drawn, source: Source, out: Path, columns: int | None) -> None:
    """Writes grid.png, samples.npz and, for images, images/000000.png ... into `out`.

    samples.npz: arr_0, uint8 images [N, H, W, C] or float32 points [N, D]; arr_1, int labels [N] if
    the model is given any. It is the layout that the published evaluators read.
    """
    make_folder(out)
    images = drawn.x.ndim > 2
    arrays = [visual.to_uint8(drawn.x) if images else drawn.x]
    if drawn.labels.min() >= 0:
        arrays.append(drawn.labels)
    temporary = out / ".samples.tmp.npz"
    np.savez(temporary, *arrays)
    temporary.replace(out / "samples.npz")
    save_picture(drawn.x, source, out / "grid.png", columns)
    if images:
        visual.save_images(arrays[0], out / "images")


def save_chain(drawn: Drawn, source: Source, schedule: NoiseSchedule, out: Path) -> None:
    """Writes pictures of the moments of the chain that `drawn` kept.

    Images: chain.png, a strip of x_t and the predicted x_0, and chain.gif. Points: the rows of
    panels forward.png and reverse.png, and a GIF of each. `schedule` is that of training.
    """
    if drawn.x.ndim > 2:
        few = _thin(list(range(len(drawn.timesteps))), STRIP_MOMENTS)
        visual.save_chain_strip(
            visual.to_uint8(drawn.kept_x[few][:, :STRIP_SAMPLES]),
            visual.to_uint8(drawn.kept_xstart[few][:, :STRIP_SAMPLES]),
            [drawn.timesteps[k] for k in few],
            out / "chain.png",
        )
        frames = [*drawn.kept_x[:, :GIF_SAMPLES], drawn.x[:GIF_SAMPLES]]
        grids = [visual.grid(visual.to_uint8(frame), min_pixels=300) for frame in frames]
        visual.save_gif(np.stack(grids), out / "chain.gif")
        return
    reverse = [*drawn.kept_x, drawn.x]
    titles = [*(f"t = {t}" for t in drawn.timesteps), "sample"]
    _save_points(reverse, titles, drawn.x[:, 1], out / "reverse")
    x_start = source.records.x[: len(drawn.x)]
    noise = np.random.default_rng(0).standard_normal(x_start.shape)
    rising = drawn.timesteps[::-1]
    forward = [
        schedule.sqrt_alphas_cumprod[t] * x_start
        + schedule.sqrt_one_minus_alphas_cumprod[t] * noise
        for t in rising
    ]
    titles = ["data", *(f"t = {t}" for t in rising)]
    _save_points([x_start, *forward], titles, x_start[:, 1], out / "forward")


def _save_points(frames: list, titles: list[str], values: np.ndarray, path: Path) -> None:
    few = _thin(list(range(len(frames))), STRIP_MOMENTS)
    panels, names = [frames[k] for k in few], [titles[k] for k in few]
    visual.save_points_row(panels, names, path.with_suffix(".png"), values)
    visual.save_points_gif(np.stack(frames), titles, path.with_suffix(".gif"), values)


def _thin(items: list[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread, the first and the last among them."""
    count = min(most, len(items))
    return [items[round(k)] for k in np.linspace(0, len(items) - 1, count)]
