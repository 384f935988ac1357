"""What all figures of matplotlib share: their resolution, their colours, how they are saved."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpm_jax.runtime.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
INK, PALE, BLUE, GREEN, ORANGE, RED = "#22303c #c3ccd5 #1f6f8b #3fa796 #e9a03b #d1495b".split()


def new_figure(width_inches: float, height_inches: float) -> "Figure":
    """A white figure without axes, which needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), dpi=DPI, facecolor="white")


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Writes a PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def figure_pixels(figure: "Figure") -> np.ndarray:
    """The figure as an image, uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
