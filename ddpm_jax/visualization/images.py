"""Pictures of samples, chains and curves: PNG grids and strips, GIFs, scatter plots of points.

Images are uint8 [..., H, W, C] with C 1 (grey) or 3 (RGB). Every file appears whole or not at all,
and its folder is made. Pillow and matplotlib are imported where they are used.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpm_jax.runtime.files import replacing

if TYPE_CHECKING:
    pass

GAP = 2  # white pixels between the tiles of a grid


def thinned(count: int, most: int) -> np.ndarray:
    """At most `most` of 0..count-1, evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def grid(images: np.ndarray, columns: int | None = None, min_pixels: int = 600) -> np.ndarray:
    """Lays images [N, H, W, C] out in rows, as one image [H', W', C]; near square by default.

    Each pixel becomes the smallest square that makes the grid `min_pixels` wide, gaps not counted.
    """
    count, _, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, math.ceil(min_pixels / (columns * width)))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    padding = (0, rows * columns - count), (0, GAP), (0, GAP), (0, 0)
    tiles = np.pad(tiles, padding, constant_values=255)
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)
    return tiles.reshape(rows * tiles.shape[1], -1, channels)[:-GAP, :-GAP]


def save_grid(
    images: np.ndarray, path: str | Path, columns: int | None = None, min_pixels: int = 600
) -> None:
    """Writes `grid(images, columns, min_pixels)` as a PNG."""
    _save_png(grid(images, columns, min_pixels), path)


def save_images(images: np.ndarray, folder: str | Path) -> None:
    """Writes images [N, H, W, C] as folder/000000.png, folder/000001.png, ..."""
    for i, image in enumerate(images):
        _save_png(image, Path(folder) / f"{i:06d}.png", synced=False)


def save_gif(
    frames: np.ndarray, path: str | Path, seconds: float = 4.0, hold_seconds: float = 1.0
) -> None:
    """Writes frames [K, H, W, C] as a looping GIF of `seconds`, then the last for `hold_seconds`.

    More than 25 frames a second are thinned out. A GIF has 256 colours and counts in 1/100 s.
    """
    from PIL import Image

    frames = frames[_shown_frames(len(frames), seconds)]
    pages = [Image.fromarray(_flat(frame)) for frame in frames]
    durations = [max(20, round(100 * seconds / len(pages)) * 10)] * len(pages)
    durations[-1] += round(100 * hold_seconds) * 10
    with replacing(path) as temporary:
        options = {"save_all": True, "append_images": pages[1:], "duration": durations, "loop": 0}
        pages[0].save(temporary, format="gif", **options)


def _save_png(image: np.ndarray, path: str | Path, synced: bool = True) -> None:
    from PIL import Image

    with replacing(path, synced) as temporary:
        Image.fromarray(_flat(image)).save(temporary, format="png")


def _flat(image: np.ndarray) -> np.ndarray:
    """[H, W] for a grey image, as Pillow wants it."""
    return image[..., 0] if image.shape[-1] == 1 else image


def _shown_frames(count: int, seconds: float) -> np.ndarray:
    """Indices of at most 25 frames a second, the first and the last among them."""
    return thinned(count, max(2, int(25 * seconds)))
