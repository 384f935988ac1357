"""The files that samples become: PNG, GIF and npz, for images and for points."""

import shutil
from pathlib import Path

import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.errors import UserError
from ddpm_jax.generation.generator import UNGUIDED, SampleBatch
from ddpm_jax.runtime.files import expanded, replacing
from ddpm_jax.visualization.images import grid, save_gif, save_grid, save_images, thinned
from ddpm_jax.visualization.plots import (
    save_chain_strip,
    save_points,
    save_points_gif,
    save_points_row,
)

GRID_SAMPLES = 400  # more than this in one picture, nobody looks at
ROW_SAMPLES = 20  # columns of a grid with a row for each scale
STRIP_SAMPLES = 4  # rows of the strip
STRIP_MOMENTS = 10  # columns of the strip, panels of a row of points
UNFINISHED = ".unfinished"  # batches of samples that are not all there yet
PICTURES = [
    "grid.png",
    "low_res.png",
    *(f"{name}.{kind}" for name in ("chain", "forward", "reverse") for kind in ("png", "gif")),
]


def save_picture(
    x: np.ndarray, path: Path, reference: np.ndarray | None = None, columns: int | None = None
) -> np.ndarray:
    """Writes the first samples as a PNG; returns its pixels, uint8 [H, W, C].

    `x`: uint8 images [N, H, W, C] become a grid, points [N, 2] a scatter plot over `reference`.
    """
    from PIL import Image

    if x.ndim == 2:
        save_points(x, path, reference)
    else:
        save_grid(x[:GRID_SAMPLES], path, columns)
    pixels = np.asarray(Image.open(path))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def class_columns(labels: np.ndarray, num_classes: int) -> int | None:
    """Columns of a grid with a row a class, where few classes come in turn; else None."""
    in_turn = 1 < num_classes <= min(ROW_SAMPLES, len(labels))
    if not in_turn or (labels != np.arange(len(labels)) % num_classes).any():
        return None
    return min(-(-len(labels) // num_classes), ROW_SAMPLES)


def make_folder(out: Path, inputs: Path | None = None) -> None:
    """Makes the folder for samples; raises UserError if nothing can be written there.

    So too if samples in it would take the place of `inputs`, the images to enlarge; those in its
    folder `base` are safe.
    """
    if inputs is not None:
        inside, read = out.resolve(), expanded(inputs).resolve()
        if read in (inside, *inside.parents) or (
            inside in read.parents and inside / "base" not in (read, *read.parents)
        ):
            raise UserError(f"--out {out} overlaps with --low-res {inputs}: choose another folder")
    probe = out / ".probe"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error


def drop_unfinished(out: Path) -> None:
    """Forgets the batches that `out` keeps, now that the samples are there, or those of others."""
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)


def save_arrays(drawn: SampleBatch, folder: Path) -> None:
    """Writes samples.npz, in the layout that the published evaluators read.

    arr_0: uint8 images [N, H, W, C] or float32 points [N, D]; arr_1: int labels [N], if the model
    or a classifier is given any. Of several scales all the samples of one come before those of the
    next; `guidance_scale` and `cfg_scale`, float32 [N], tell them where there are any.
    """
    arrays = [drawn.x, drawn.labels] if drawn.labels.min() >= 0 else [drawn.x]
    scales = {}
    for name, unguided in UNGUIDED._asdict().items():
        values = np.array([getattr(each, name) for each in drawn.scales], np.float32)
        if (values != unguided).any():
            scales[f"{name}_scale"] = np.repeat(values, len(drawn.x) // len(values))
    with replacing(folder / "samples.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, *arrays, **scales)


def save_samples(
    drawn: SampleBatch,
    out: Path,
    reference: np.ndarray | None = None,
    num_classes: int = 0,
    low_res: np.ndarray | None = None,
) -> None:
    """Writes samples.npz, grid.png and, for images, images/000000.png ... into the folder `out`.

    `low_res`: the images that were enlarged, a grid of their own, low_res.png. Of several scales
    each has a row of the grids, of the first samples; of one, each of `num_classes` that come in
    turn. What an earlier call wrote there goes first, so that the folder holds samples of one kind.
    """
    if (out / "samples.npz").exists():  # else nothing here is ours
        for old in [*out.glob(f"images/{'[0-9]' * 6}.png"), *(out / name for name in PICTURES)]:
            old.unlink(missing_ok=True)
    save_arrays(drawn, out)
    if drawn.x.ndim > 2:
        save_images(drawn.x, out / "images")
    pictures = {"grid.png": drawn.x} | ({} if low_res is None else {"low_res.png": low_res})
    rows, columns = len(drawn.scales), None
    if rows > 1 and drawn.x.ndim > 2:
        num = len(drawn.x) // rows
        columns = min(num, ROW_SAMPLES, max(1, GRID_SAMPLES // rows))
        pictures = {name: _first(x, len(x) // num, columns) for name, x in pictures.items()}
    elif columns := class_columns(drawn.labels, num_classes):
        pictures = {name: _by_class(x, num_classes, columns) for name, x in pictures.items()}
    for name, x in pictures.items():
        save_picture(x, out / name, reference, columns)


def save_chain(
    drawn: SampleBatch, schedule: NoiseSchedule, out: Path, reference: np.ndarray | None = None
) -> None:
    """Writes pictures of the moments of the chain that `drawn` kept.

    Images: chain.png, a strip of x_t and the predicted x_0, and chain.gif. Points: the rows of
    panels forward.png, from `reference` to noise, and reverse.png, and a GIF of each. `schedule` is
    that of training.
    """
    if reference is None:
        rows, kept = len(drawn.scales), drawn.kept_x.shape[1]
        few = thinned(len(drawn.timesteps), STRIP_MOMENTS)
        strip = _first(np.arange(kept), rows, max(1, STRIP_SAMPLES // rows))[:STRIP_SAMPLES]
        save_chain_strip(
            drawn.kept_x[few][:, strip],
            drawn.kept_xstart[few][:, strip],
            [drawn.timesteps[k] for k in few],
            out / "chain.png",
        )
        frames = [*drawn.kept_x, _first(drawn.x, rows, kept // rows)]
        columns = min(kept // rows, ROW_SAMPLES) if rows > 1 else None
        grids = [grid(_first(frame, rows, columns), columns, 300) for frame in frames]
        save_gif(np.stack(grids), out / "chain.gif")
        return
    reverse = [*drawn.kept_x, drawn.x]
    titles = [*(f"t = {t}" for t in drawn.timesteps), "sample"]
    _save_points(reverse, titles, drawn.x[:, 1], out / "reverse")
    x_start = reference[: len(drawn.x)]
    noise = np.random.default_rng(0).standard_normal(x_start.shape)
    rising = drawn.timesteps[::-1]
    forward = [
        schedule.sqrt_alphas_cumprod[t] * x_start
        + schedule.sqrt_one_minus_alphas_cumprod[t] * noise
        for t in rising
    ]
    titles = ["data", *(f"t = {t}" for t in rising)]
    _save_points([x_start, *forward], titles, x_start[:, 1], out / "forward")


def _first(x: np.ndarray, rows: int, count: int | None) -> np.ndarray:
    """The first samples, all if `count` is None, of each of the rows that follow one another."""
    return x.reshape(rows, -1, *x.shape[1:])[:, :count].reshape(-1, *x.shape[1:])


def _by_class(x: np.ndarray, num_classes: int, columns: int) -> np.ndarray:
    """Images of classes in turn, class by class; white ones fill up the last column."""
    x = x[: columns * num_classes]
    blank = np.full((columns * num_classes - len(x), *x.shape[1:]), 255, x.dtype)
    turns = np.concatenate([x, blank]).reshape(columns, num_classes, *x.shape[1:])
    return turns.swapaxes(0, 1).reshape(-1, *x.shape[1:])


def _save_points(frames: list, titles: list[str], values: np.ndarray, path: Path) -> None:
    few = thinned(len(frames), STRIP_MOMENTS)
    panels, names = [frames[k] for k in few], [titles[k] for k in few]
    save_points_row(panels, names, path.with_suffix(".png"), values)
    save_points_gif(np.stack(frames), titles, path.with_suffix(".gif"), values)
