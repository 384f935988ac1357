"""What a data set is, and the two that scikit-learn bundles: digits and s_curve."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.errors import UserError


class Records(Protocol):
    """Examples that any thread may read in any order.

    Item i is {"x": uint8 [H, W, C] of any size, or float32 [2], "label": int, -1 if it has none}.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Source:
    """A set of examples."""

    name: str  # as in DataConfig.name
    records: Records
    num_classes: int = 0  # labels are 0..num_classes-1; 0: the set has none
    class_names: tuple[str, ...] = ()  # of the labels, in order; () for plain integers
    in_memory: bool = False  # reading a record takes no decoding
    unlabelled_because: str = ""  # what the user can mend, and how; "": nothing

    def __len__(self) -> int:
        return len(self.records)

    @property
    def points(self) -> np.ndarray | None:
        """All examples [N, 2] if they are points, else None."""
        x = getattr(self.records, "x", None)
        return x if x is not None and x.ndim == 2 else None

    @property
    def broken(self) -> list[str]:
        """The files found broken so far, sorted; other images take their place."""
        return sorted(getattr(self.records, "broken", ()))


@dataclass(frozen=True)
class ArrayRecords:
    """Records held in memory: `x` [N, ...], `labels` int [N]."""

    x: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "label": int(self.labels[index])}


def check_channels(name: str, channels: int, data: DataConfig) -> None:
    """Raises UserError unless images with `channels` fit `data.channels`."""
    if channels != data.channels:
        plural = "" if channels == 1 else "s"
        raise UserError(
            f"data.channels is {data.channels} but {name} has {channels} channel{plural}; "
            f"set --data.channels {channels}"
        )


def first_line(error: Exception) -> str:
    """The first line of an exception's text, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_digits(data: DataConfig) -> Source:
    """scikit-learn's 1,797 handwritten digits: uint8 [8, 8, 1], ten classes."""
    from sklearn import datasets

    check_channels("digits", 1, data)
    digits = datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(i) for i in range(10))
    return Source("digits", ArrayRecords(images, digits.target), 10, names, in_memory=True)


def load_s_curve(data: DataConfig) -> Source:
    """10,000 points along an S in the plane, roughly in [-0.2, 0.2]: float32 [2], no labels."""
    from sklearn import datasets

    for option, does in (("flip", "mirrors"), ("random_crop", "cuts")):
        if getattr(data, option):
            raise UserError(
                f"data.{option} {does} images, and s_curve has points; set data.{option} to False"
            )
    points, _ = datasets.make_s_curve(10_000, noise=0.1, random_state=0)
    points = (points[:, [0, 2]] / 10).astype(np.float32)
    labels = np.full(len(points), -1)
    return Source("s_curve", ArrayRecords(points, labels), in_memory=True)
