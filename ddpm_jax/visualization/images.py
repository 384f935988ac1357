"""Images as files: PNGs, GIFs, and strips of reverse chains; `grids` lays out many of them.

Images are uint8 [..., H, W, C] with C 1 (grey) or 3 (RGB). Every file appears whole or not at all,
and its folder is made. Pillow and matplotlib are imported where they are used, to keep this light.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from ddpm_jax.runtime.files import replacing
from ddpm_jax.visualization.figures import DPI, INK, new_figure, save_figure
from ddpm_jax.visualization.grids import grid


def thinned(count: int, most: int) -> np.ndarray:
    """At most `most` of the indices 0..count-1, evenly spread from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def png_bytes(image: np.ndarray) -> bytes:
    """An image [H, W, C] as the bytes of a PNG file."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(_flat(image)).save(buffer, format="png")
    return buffer.getvalue()


def save_png(image: np.ndarray, path: str | Path, synced: bool = True) -> None:
    """Writes an image [H, W, C]; on disk at once if `synced`."""
    from PIL import Image

    with replacing(path, synced) as temporary:
        Image.fromarray(_flat(image)).save(temporary, format="png")


def save_images(images: np.ndarray, folder: str | Path) -> None:
    """Writes images [N, H, W, C] as folder/000000.png, folder/000001.png, ..."""
    for i, image in enumerate(images):
        save_png(image, Path(folder) / f"{i:06d}.png", synced=False)


def save_gif(
    frames: np.ndarray, path: str | Path, seconds: float = 4.0, hold_seconds: float = 1.0
) -> None:
    """Writes frames [K, H, W, C] as a looping GIF of `seconds`, then the last for `hold_seconds`.

    More than 25 frames a second are thinned out. A GIF has 256 colours and counts in 1/100 s.
    """
    from PIL import Image

    frames = frames[shown_frames(len(frames), seconds)]
    pages = [Image.fromarray(_flat(frame)) for frame in frames]
    durations = [max(20, round(100 * seconds / len(pages)) * 10)] * len(pages)
    durations[-1] += round(100 * hold_seconds) * 10
    with replacing(path) as temporary:
        options = {"save_all": True, "append_images": pages[1:], "duration": durations, "loop": 0}
        pages[0].save(temporary, format="gif", **options)


def save_chain_strip(
    x_t: np.ndarray, pred_xstart: np.ndarray, timesteps: Sequence[int], path: str | Path
) -> None:
    """Writes the reverse chain of a few samples: for each a row of x_t over one of predicted x_0.

    `x_t` and `pred_xstart` are [K, N, H, W, C], N samples at the K `timesteps`.
    """
    moments, samples = x_t.shape[:2]
    pixels = max(800, 60 * moments)  # a label such as t = 999 is nearly 60 wide
    rows = np.concatenate([x_t, pred_xstart])
    pairs = [grid(rows[:, n], moments, pixels) for n in range(samples)]
    height, width, _ = pairs[0].shape
    left, top, space = 44, 30, 12
    total_width, total_height = left + width + space, top + samples * (height + space)
    figure = new_figure(total_width / DPI, total_height / DPI)

    def write(x: float, y: float, text: str, size: int) -> None:
        position = x / total_width, 1 - y / total_height
        figure.text(*position, text, ha="center", va="center", fontsize=size, color=INK)

    for k, t in enumerate(timesteps):
        write(left + (k + 0.5) * width / moments, top / 2 + 2, f"t = {t}", 9)
    for n, pair in enumerate(pairs):
        y = top + n * (height + space)
        rgb = np.broadcast_to(pair, (height, width, 3))  # a colour map would round greys
        figure.figimage(rgb, left, total_height - y - height, origin="upper")
        write(left / 2, y + 0.25 * height, "$x_t$", 13)
        write(left / 2, y + 0.75 * height, r"$\hat{x}_0$", 13)
    save_figure(figure, path)


def shown_frames(count: int, seconds: float) -> np.ndarray:
    """Indices of at most 25 frames a second, evenly spread from the first to the last."""
    return thinned(count, max(2, int(25 * seconds)))


def _flat(image: np.ndarray) -> np.ndarray:
    """Drops the channel axis of a grey image, as Pillow wants it."""
    return image[..., 0] if image.shape[-1] == 1 else image
