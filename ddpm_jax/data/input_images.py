"""Images that a user wants changed: files, folders, a samples.npz, or the run's own data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data.folder import find_images
from ddpm_jax.data.loading import load_source
from ddpm_jax.data.pipeline import first_images
from ddpm_jax.data.sources import first_line
from ddpm_jax.data.transforms import centre_crop, decode_image
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import expanded

OWN_DATA = "data"  # in place of a path: the first images of the run's data set


def read_input_images(
    paths: Sequence[str | Path], data: DataConfig, num: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The first `num` images of all paths together, cropped and resized as in training.

    Args:
      paths: image files, folders of them, npz files with `arr_0` and perhaps `arr_1`, or "data".
      data: that of the model.
      num: how many; None: all.

    Returns:
      uint8 [N, H, W, C], and int32 [N] if every path has labels, else None.

    Raises:
      UserError: a path is not there or can't be read, or there are fewer than `num`.
    """
    found = [_read(path, data, num) for path in paths]
    images = np.concatenate([each for each, _ in found])
    labels = [each for _, each in found if each is not None]
    if num is not None and num > len(images):
        raise UserError(f"num={num}: images={' '.join(map(str, paths))} are {len(images)}")
    together = np.concatenate(labels)[:num] if len(labels) == len(found) else None
    return images[:num], together


def _read(
    path: str | Path, data: DataConfig, num: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    if str(path) == OWN_DATA:
        source = load_source(data)
        images, labels = first_images(source, data, min(num or 64, len(source)))
        return images, np.asarray(labels, np.int32)
    file = expanded(path)
    if file.is_dir() and (file / "samples.npz").is_file():
        file /= "samples.npz"
    if file.suffix == ".npz" and file.is_file():
        return _read_npz(file, data)
    if file.is_dir():
        names, _ = find_images(file)
        if not names:
            raise UserError(f"images={path} has no PNG, JPEG or WebP images, and no samples.npz")
        files = [file / name for name in names[:num]]
    elif file.is_file():
        files = [file]
    else:
        raise UserError(f"images={path}: no such file or folder")
    return np.stack([_decoded(each, data) for each in files]), None


def _decoded(file: Path, data: DataConfig) -> np.ndarray:
    try:
        image = decode_image(file, data.channels)
    except Exception as error:  # PIL: OSError, SyntaxError, ValueError, struct.error, ...
        raise UserError(f"images={file} cannot be read: {first_line(error)}") from error
    return centre_crop(image, data.image_size)


def _read_npz(file: Path, data: DataConfig) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            images, labels = archive["arr_0"], archive.get("arr_1")
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise UserError(f"images={file} is no samples.npz: {first_line(error)}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != data.channels:
        raise UserError(
            f"images={file}: arr_0 is {images.dtype} {list(images.shape)}, not uint8 "
            f"[N, H, W, {data.channels}]"
        )
    images = np.stack([centre_crop(image, data.image_size) for image in images])
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise UserError(f"images={file}: arr_1 must be a label, an integer, for each image")
    return images, None if labels is None else labels.astype(np.int32)


def read_mask(path: str | Path, side: int) -> np.ndarray:
    """bool [side, side]: true where the mask's picture is lighter than grey. Raises UserError."""
    file = expanded(path)
    if not file.is_file():
        raise UserError(f"mask={path}: no such file")
    try:
        mask = decode_image(file, 1)[..., 0]
    except Exception as error:
        raise UserError(f"mask={path} cannot be read: {first_line(error)}") from error
    if mask.shape != (side, side):
        height, width = mask.shape
        raise UserError(
            f"mask={path} is {width}x{height}; the model's images are {side}x{side}: resize it"
        )
    return mask > 127
