"""Moments of reverse chains, and pictures of them: a strip and a film."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.visualization.grids import MAX_COLUMNS, grid
from ddpm_jax.visualization.images import save_chain_strip, save_gif, thinned
from ddpm_jax.visualization.plots import save_points_gif, save_points_row

STRIP_SAMPLES = 4  # rows of the strip
STRIP_MOMENTS = 10  # columns of the strip, panels of a row of points
FILM_PIXELS = 300  # width of a film of small images
CHAIN_PICTURES = [
    f"{name}.{kind}" for name in ("chain", "forward", "reverse") for kind in ("png", "gif")
]


class Chain(NamedTuple):
    """The chains of M samples, equally many of each scale, at K timesteps."""

    timesteps: Sequence[int]  # K, of the chain of training, falling
    alphas_cumprod: np.ndarray  # [K]
    x_t: np.ndarray  # [K, M, ...]
    pred_xstart: np.ndarray  # [K, M, ...]


class Moment(NamedTuple):
    """Some samples while their chains run."""

    places: np.ndarray  # [M], which of all samples they are
    timestep: int  # of the chain of training
    x_t: np.ndarray  # uint8 [M, H, W, C]; points of the plane: float32 [M, 2]
    pred_xstart: np.ndarray  # as x_t


OnMoment = Callable[[Moment], None]


def save_chain(
    chain: Chain, samples: np.ndarray, rows: int, folder: Path, reference: np.ndarray | None
) -> None:
    """Writes pictures of the chains that ended in `samples`, which fill `rows` rows equally.

    Images: chain.png, a strip of x_t and the predicted x_0, and chain.gif. Points: panels from
    `reference` points to noise, forward.png, and back to samples, reverse.png, and a GIF of each.
    """
    if samples.ndim == 2:
        if reference is None:
            raise ValueError("chains of points need `reference` points, which the noise moves")
        _save_point_chains(chain, samples, reference, folder)
        return
    kept = chain.x_t.shape[1]
    moments = thinned(len(chain.timesteps), STRIP_MOMENTS)
    strip = _first_of_each_row(np.arange(kept), rows, max(1, STRIP_SAMPLES // rows))[:STRIP_SAMPLES]
    save_chain_strip(
        chain.x_t[moments][:, strip],
        chain.pred_xstart[moments][:, strip],
        [chain.timesteps[k] for k in moments],
        folder / "chain.png",
    )
    frames = [*chain.x_t, _first_of_each_row(samples, rows, kept // rows)]
    columns = min(kept // rows, MAX_COLUMNS) if rows > 1 else None
    pages = [
        grid(_first_of_each_row(frame, rows, columns), columns, FILM_PIXELS) for frame in frames
    ]
    save_gif(np.stack(pages), folder / "chain.gif")


def _first_of_each_row(x: np.ndarray, rows: int, count: int | None) -> np.ndarray:
    """The first `count` samples of each row, all if that is None."""
    return x.reshape(rows, -1, *x.shape[1:])[:, :count].reshape(-1, *x.shape[1:])


def _save_point_chains(
    chain: Chain, samples: np.ndarray, reference: np.ndarray, folder: Path
) -> None:
    """Writes the reverse chains, and a forward process of real points through the same times."""
    titles = [f"t = {t}" for t in chain.timesteps]
    _save_points([*chain.x_t, samples], [*titles, "sample"], samples[:, 1], folder / "reverse")
    x_start = reference[: len(samples)]
    noise = np.random.default_rng(0).standard_normal(x_start.shape)
    forward = [np.sqrt(a) * x_start + np.sqrt(1 - a) * noise for a in chain.alphas_cumprod[::-1]]
    names = ["data", *titles[::-1]]
    _save_points([x_start, *forward], names, x_start[:, 1], folder / "forward")


def _save_points(
    frames: Sequence[np.ndarray], titles: list[str], values: np.ndarray, path: Path
) -> None:
    few = thinned(len(frames), STRIP_MOMENTS)
    panels, names = [frames[k] for k in few], [titles[k] for k in few]
    save_points_row(panels, names, path.with_suffix(".png"), values)
    save_points_gif(np.stack(frames), titles, path.with_suffix(".gif"), values)
