"""Sets of images to measure: arrays in a file, folders of pictures, and data sets."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax import data
from ddpm_jax.config import DataConfig
from ddpm_jax.data.folder import find_images
from ddpm_jax.errors import UserError
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runtime.files import expanded

# A data set, perhaps with its version, and perhaps a split: tfds:cifar10:3.0.2:train[:10%]
TFDS = re.compile(r"(tfds:[\w/]+(?::\d+\.[\d.*]+)?)(?::(\D.*))?")


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, in an order."""

    name: str
    shape: tuple[int, int, int]  # height, width, channels
    num: int
    batches: Callable[[int], Iterator[np.ndarray]]  # size -> uint8 [<= size, H, W, C], in order

    def digest(self) -> str:
        """Of all their pixels."""
        return sha256([sha256(batch) for batch in self.batches(512)])[:16]


def of_array(name: str, images: np.ndarray) -> ImageSet:
    """Images in memory, uint8 [N, H, W, C]; raises UserError for any other array."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(
            f"{name} holds {images.dtype} {list(images.shape)}, not images: uint8 [N, H, W, 3] or "
            "[N, H, W, 1]"
        )
    height, width, channels = images.shape[1:]
    return ImageSet(
        name,
        (height, width, channels),
        len(images),
        lambda size: (images[i : i + size] for i in range(0, len(images), size)),
    )


def of_folder(folder: Path) -> ImageSet:
    """The pictures of a folder as they are; raises UserError unless all have one size."""
    paths, _ = find_images(folder)
    if not paths:
        raise UserError(f"{folder} has no PNG, JPEG or WebP images")
    channels = 1 if _is_grey(folder / paths[0]) else 3

    def read(name: str) -> np.ndarray:
        try:
            return data.decode_image(folder / name, channels)
        except Exception as error:  # PIL: OSError, SyntaxError, ValueError, struct.error, ...
            raise UserError(f"{folder / name} cannot be read: {error}") from error

    first = read(paths[0])

    def batches(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(paths), size):
            images = [read(name) for name in paths[start : start + size]]
            for name, image in zip(paths[start:], images, strict=False):
                if image.shape != first.shape:
                    raise UserError(
                        f"{folder / name} has {_size(image)} pixels, {paths[0]} {_size(first)}: "
                        "all must have one size; resize them with one library, before saving"
                    )
            yield np.stack(images)

    height, width, _ = first.shape
    return ImageSet(str(folder), (height, width, channels), len(paths), batches)


def _is_grey(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return picture.mode in ("1", "L", "I;16")
    except OSError:  # reported once it is read
        return False


def of_data(settings: DataConfig) -> ImageSet:
    """A data set without the examples held out from training. Raises UserError for points."""
    source, _ = data.hold_out(data.load_source(settings), settings)
    return of_source(source, settings)


def of_source(source: data.Source, settings: DataConfig) -> ImageSet:
    """The images of a source, cropped and resized as for training. Raises UserError for points."""
    if source.points is not None:
        raise UserError(f"{settings.name} has points, not images")
    side, name = settings.image_size, settings.name
    return ImageSet(
        f"{name} {settings.split}" if name.startswith("tfds:") else name,
        (side, side, settings.channels),
        len(source),
        lambda size: (batch["x"] for batch in data.ordered_batches(source, settings, size)),
    )


def read_images(text: str | Path) -> tuple[ImageSet, np.ndarray]:
    """The images of a samples.npz, of the folder of one, or of a folder of pictures.

    Also their labels, int [N], or an empty array. Raises UserError.
    """
    path = expanded(text)
    file = path / "samples.npz" if (path / "samples.npz").is_file() else path
    if file.is_dir():
        return of_folder(file), np.empty(0, int)
    if not file.is_file():
        raise UserError(f"samples={text}: no such file or folder")
    images = of_array(str(file), read_arrays(file, ("arr_0",))["arr_0"])
    labels = read_arrays(file, ("arr_1",), all_of_them=False).get("arr_1", np.empty(0, int))
    return images, labels if labels.shape == (images.num,) else np.empty(0, int)


def read_arrays(
    file: Path, names: tuple[str, ...], all_of_them: bool = True
) -> dict[str, np.ndarray]:
    """Arrays of an npz file; raises UserError if it cannot be read, or lacks one."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if all_of_them or name in arrays}
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def named_data(text: str, like: DataConfig, shape: tuple[int, int, int]) -> DataConfig | None:
    """The settings of `tfds:NAME[:VERSION][:SPLIT]`, `folder:PATH` or `digits`, for a shape.

    None if the text is the name of a file or folder. Raises UserError.
    """
    height, width, channels = shape
    if not (text.startswith(("tfds:", "folder:")) or text in data.SOURCES):
        return None
    if height != width:
        raise UserError(f"reference={text}: for images of {height}x{width}; only squares are cut")
    split = "train"
    if found := TFDS.fullmatch(text):
        text, split = found[1], found[2] or split
    return replace(
        like,
        name=text,
        split=split,
        image_size=height,
        channels=channels,
        held_out="",
        labels="folders",
        low_res_size=0,
    )


def shape_text(shape: tuple[int, ...]) -> str:
    """ "32x32x3" for [32, 32, 3]."""
    return "x".join(map(str, shape))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
