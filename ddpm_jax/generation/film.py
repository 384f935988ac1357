"""A reverse chain on film: x_t beside the predicted x_0, as GIF and MP4."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np

from ddpm_jax.errors import how_to_install
from ddpm_jax.generation.chain import Chain
from ddpm_jax.runtime.files import replacing
from ddpm_jax.visualization.grids import grid
from ddpm_jax.visualization.images import save_gif

FRAMES_PER_SECOND = 25
PANEL_PIXELS = 300  # least width of each of the two panels
GAP = 8  # white pixels between them


def film_frames(chain: Chain, samples: np.ndarray) -> np.ndarray:
    """x_t on the left and the predicted x_0 on the right, and at last the samples on both sides.

    uint8 [K + 1, H, W, C]; `samples` [N, ...] are those whose chain it is.
    """
    pairs = [*zip(chain.x_t, chain.pred_xstart, strict=True), (samples, samples)]
    pages = []
    for pair in pairs:
        left, right = (grid(images, min_pixels=PANEL_PIXELS) for images in pair)
        between = np.full((len(left), GAP, left.shape[-1]), 255, np.uint8)
        pages.append(np.concatenate([left, between, right], axis=1))
    return np.stack(pages)


def save_film(frames: np.ndarray, folder: Path, seconds: float = 4.0) -> list[Path]:
    """Writes film.gif and, where the extra `film` is installed, film.mp4; returns their paths."""
    save_gif(frames, folder / "film.gif", seconds)
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        print(f"film.mp4 is left out: it needs {how_to_install('film')}")
        return [folder / "film.gif"]
    import imageio.v3 as imageio

    rgb = np.broadcast_to(frames, (*frames.shape[:-1], 3))
    even = rgb[:, : rgb.shape[1] // 2 * 2, : rgb.shape[2] // 2 * 2]  # as H.264 wants it
    times = np.linspace(0, len(even) - 1, round(FRAMES_PER_SECOND * seconds)).round().astype(int)
    shown = even[np.append(times, np.repeat(len(even) - 1, FRAMES_PER_SECOND))]
    with replacing(folder / "film.mp4") as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"os\.fork\(\)")  # to start ffmpeg is safe
        imageio.imwrite(
            temporary,
            shown,
            extension=".mp4",
            plugin="FFMPEG",
            fps=FRAMES_PER_SECOND,
            macro_block_size=2,
            output_params=["-f", "mp4"],  # the file's name does not say so before it is whole
        )
    return [folder / "film.gif", folder / "film.mp4"]
