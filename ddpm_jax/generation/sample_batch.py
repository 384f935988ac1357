"""A batch of samples: arrays, a picture that a notebook shows, files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.generation.chain import CHAIN_PICTURES, Chain, save_chain
from ddpm_jax.runtime.files import replacing
from ddpm_jax.visualization import grids, images, plots


class Scales(NamedTuple):
    """How strongly a row of samples is guided: by default not at all."""

    guidance: float = 0.0  # of the classifier's gradient
    cfg: float = 1.0  # of classifier-free guidance; 1: the network as it is

    @property
    def title(self) -> str:
        """The scales that guide, as "guidance 4" or "cfg 3"; "unguided" if none does."""
        names = [f"{n} {v:g}" for n, v in self._asdict().items() if v != getattr(UNGUIDED, n)]
        return " ".join(names) or "unguided"


UNGUIDED = Scales()


@dataclass(frozen=True, eq=False, repr=False)
class SampleBatch:
    """N samples at each of S scales, one scale after the other.

    Samples i, N + i, 2 N + i, ... began with the same noise.
    """

    images: np.ndarray  # uint8 [S * N, H, W, C]; points of the plane: float32 [S * N, 2]
    labels: np.ndarray  # int32 [S * N], -1 for none
    scales: Sequence[Scales] = (UNGUIDED,)  # S
    class_names: Sequence[str] = ()  # of the labels, in order; () where they have none
    chain: Chain | None = None  # moments of the reverse chains of the first samples
    low_res: np.ndarray | None = None  # what was enlarged, an image for each sample
    base: "SampleBatch | None" = None  # the samples of another run that were enlarged
    reference: np.ndarray | None = None  # points [M, 2] of the data set

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        kind = f"{self.images.dtype} {list(self.images.shape)}"
        classes = "".join(f", labels {self.labels}" if self.labels.min() >= 0 else "")
        return f"SampleBatch({kind}{classes})"

    def _repr_png_(self) -> bytes:
        return images.png_bytes(self.picture())

    @property
    def layout(self) -> grids.GridLayout:
        """The layout of the grid: a row for each scale, or for each class if there are few."""
        rows = len(self.scales)
        if rows > 1:
            titles = [scales.title for scales in self.scales]
            return grids.layout_by_scale(len(self) // rows, titles)
        return grids.layout_by_class(self.labels, self.class_names)

    def picture(self) -> np.ndarray:
        """A grid of images or a plot of points, uint8 [H, W, C]."""
        if self.images.ndim == 2:
            return plots.draw_points(self.images, self.reference)
        return grids.draw_grid(self.images, self.layout)

    def save_grid(self, path: str | Path) -> np.ndarray:
        """Writes the picture as a PNG, and returns it."""
        picture = self.picture()
        images.save_png(picture, path)
        return picture

    def save(self, folder: str | Path) -> None:
        """Writes samples.npz, grid.png and, for images, images/000000.png ... into the folder.

        Also low_res.png, base/samples.npz and pictures of the chain, where the batch has them.
        Pictures that an earlier batch left there go first.
        """
        folder = Path(folder)
        if (folder / "samples.npz").exists():  # otherwise the files are not ours
            names = "grid.png", "low_res.png", *CHAIN_PICTURES
            for old in [*folder.glob(f"images/{'[0-9]' * 6}.png"), *(folder / n for n in names)]:
                old.unlink(missing_ok=True)
        save_arrays(self, folder)
        self.save_grid(folder / "grid.png")
        if self.images.ndim > 2:
            images.save_images(self.images, folder / "images")
        if self.low_res is not None:
            images.save_png(grids.draw_grid(self.low_res, self.layout), folder / "low_res.png")
        if self.base is not None:
            save_arrays(self.base, folder / "base")
        if self.chain is not None:
            save_chain(self.chain, self.images, len(self.scales), folder, self.reference)


def save_arrays(batch: SampleBatch, folder: Path) -> None:
    """Writes samples.npz, in the layout that the published evaluators read.

    arr_0: uint8 images [N, H, W, C] or float32 points [N, D]; arr_1: int labels [N], if there are
    any. Guided samples have float32 [N] `guidance_scale` and `cfg_scale`, each if it guides.
    """
    arrays = [batch.images, batch.labels] if batch.labels.min() >= 0 else [batch.images]
    scales: dict[str, Any] = {}
    for name, unguided in UNGUIDED._asdict().items():
        values = np.array([getattr(each, name) for each in batch.scales], np.float32)
        if (values != unguided).any():
            scales[f"{name}_scale"] = np.repeat(values, len(batch) // len(values))
    with replacing(folder / "samples.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, *arrays, **scales)
