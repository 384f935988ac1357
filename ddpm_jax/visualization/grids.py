"""How images are laid out in a grid: a row for each class or scale where they are few, else square.

A layout says which image goes where; `draw_grid` draws it. Images are uint8 [N, H, W, C] with C 1
(grey) or 3 (RGB).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ddpm_jax.visualization.figures import INK

GAP = 2  # white pixels between the tiles of a grid
GRID_PIXELS = 600  # of the longer side of a grid of small images; large ones keep their size
MAX_SAMPLES = 400  # in a near square grid: nobody looks at more
MAX_COLUMNS = 20  # of a grid with a row for each class or scale
MAX_ROWS = 20  # more classes than this have no rows of their own
MAX_TITLE = 24  # characters of a class name
TITLE_SIZES = 10, 18  # smallest and largest height of the letters beside a row, in pixels


class GridLayout(NamedTuple):
    """Which images a grid shows, and where."""

    places: np.ndarray  # int [rows, columns]: indices of images; -1 leaves a place white
    titles: Sequence[str] = ()  # beside the rows
    note: str = ""  # what is left out, as "the first 20 of 100 samples of each class"


def layout_by_class(labels: np.ndarray, class_names: Sequence[str] = ()) -> GridLayout:
    """A row for each class of `labels` [N], with its name or number beside it.

    The layout is near square if there is one class, or many, or one image of each, or no classes
    (-1).
    """
    classes, counts = np.unique(labels, return_counts=True)
    least, most = int(counts.min()), int(counts.max())
    if not 1 < len(classes) <= MAX_ROWS or classes[0] < 0 or most == 1:
        return layout_square(len(labels))
    columns = min(most, MAX_COLUMNS)
    places = np.full((len(classes), columns), -1)
    for row, label in zip(places, classes, strict=True):
        members = np.flatnonzero(labels == label)[:columns]
        row[: len(members)] = members
    titles = [class_names[label] if class_names else str(label) for label in classes]
    up_to = "" if least == most else "up to "
    note = f"the first {columns} of {up_to}{most} samples of each class"
    return GridLayout(places, titles, note if most > columns else "")


def layout_by_scale(num: int, titles: Sequence[str]) -> GridLayout:
    """A row for each title: the first of its `num` images, which follow those of the row before."""
    columns = min(num, MAX_COLUMNS)
    places = np.arange(num * len(titles)).reshape(len(titles), num)[:, :columns]
    note = f"the first {columns} of {num} samples at each scale" if num > columns else ""
    return GridLayout(places, titles, note)


def layout_square(num: int) -> GridLayout:
    """The first images in rows, about as many rows as columns."""
    shown = min(num, MAX_SAMPLES)
    columns = math.ceil(math.sqrt(shown))
    places = np.full((math.ceil(shown / columns), columns), -1)
    places.flat[:shown] = np.arange(shown)
    note = f"the first {shown} of {num} samples" if num > shown else ""
    return GridLayout(places, (), note)


def draw_grid(images: np.ndarray, layout: GridLayout) -> np.ndarray:
    """The picture of a layout, uint8 [H', W', C]."""
    places = layout.places.ravel()
    tiles = images[places]
    tiles[places < 0] = 255
    rows, columns = layout.places.shape
    width, height = columns * images.shape[2], rows * images.shape[1]
    picture = grid(tiles, columns, min_pixels=GRID_PIXELS * width // max(width, height))
    return _with_titles(picture, layout.titles) if layout.titles else picture


def grid(images: np.ndarray, columns: int | None = None, min_pixels: int = 600) -> np.ndarray:
    """Images in rows, as one image [H', W', C]; near square by default.

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


def _with_titles(picture: np.ndarray, titles: Sequence[str]) -> np.ndarray:
    """The picture with a title on its left, in the middle of each of its rows."""
    from PIL import Image, ImageDraw, ImageFont

    row_height = (picture.shape[0] + GAP) / len(titles)
    size = int(np.clip(row_height / 2, *TITLE_SIZES))
    font = ImageFont.load_default(size)
    titles = [t if len(t) <= MAX_TITLE else f"{t[: MAX_TITLE - 3]}..." for t in titles]
    space = size // 2
    margin = math.ceil(max(map(font.getlength, titles))) + 2 * space
    canvas = np.pad(picture, ((0, 0), (margin, 0), (0, 0)), constant_values=255)
    image = Image.fromarray(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas)
    draw = ImageDraw.Draw(image)
    for row, title in enumerate(titles):
        middle = (row + 0.5) * row_height - GAP / 2
        draw.text((margin - space, middle), title, fill=INK, font=font, anchor="rm")
    return np.asarray(image).reshape(canvas.shape)
