"""What an edit of images returns: rows of images, a picture that a notebook shows, files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.runtime.files import replacing
from ddpm_jax.visualization import grids, images


@dataclass(frozen=True, eq=False, repr=False)
class EditedBatch:
    """R rows of N images that belong together column by column, such as an image and its copies."""

    images: np.ndarray  # uint8 [R, N, H, W, C]
    titles: Sequence[str]  # of the rows
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)  # saved as they are

    def __repr__(self) -> str:
        return f"EditedBatch({list(self.images.shape)}, rows {', '.join(self.titles)})"

    def _repr_png_(self) -> bytes:
        return images.png_bytes(self.picture())

    def row(self, title: str) -> np.ndarray:
        """The images of a row, uint8 [N, H, W, C]."""
        return self.images[list(self.titles).index(title)]

    def picture(self) -> np.ndarray:
        """A row each for the first images, uint8 [H', W', C]."""
        layout = grids.layout_by_scale(self.images.shape[1], self.titles)
        return grids.draw_grid(self.images.reshape(-1, *self.images.shape[2:]), layout)

    def save(self, folder: str | Path) -> None:
        """Writes grid.png, edited.npz, and the images of each row as images/<title>/000000.png."""
        folder = Path(folder)
        images.save_png(self.picture(), folder / "grid.png")
        for title, row in zip(self.titles, self.images, strict=True):
            images.save_images(row, folder / "images" / title.replace(" ", "_"))
        names = [title.replace(" ", "_") for title in self.titles]
        arrays: dict[str, Any] = dict(zip(names, self.images, strict=True)) | dict(self.arrays)
        with replacing(folder / "edited.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
