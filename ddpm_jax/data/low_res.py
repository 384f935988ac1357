"""The small images that `sample.py --low-res` has a super-resolution model enlarge."""

from pathlib import Path

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data.folder import find_images, warn_of_ignored
from ddpm_jax.data.folder_labels import label_images
from ddpm_jax.data.sources import first_line
from ddpm_jax.data.transforms import centre_crop, decode_image, shrink
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import expanded

Images = tuple[np.ndarray, np.ndarray | None]


def read_low_res(path: Path, data: DataConfig, num: int | None, num_classes: int) -> Images:
    """The first `num` images of a folder or of a file of samples.

    Images of a folder that are larger than `data.low_res_size` are cropped and made smaller. Those
    of `data.image_size` or more are treated as in training.

    Args:
      path: a folder of images; or a samples.npz with `arr_0` and perhaps `arr_1`; or its folder.
      data: the model's.
      num: how many; None: all.
      num_classes: the model's; 0: labels are not read.

    Returns:
      uint8 [N, low_res_size, low_res_size, C] and int32 [N], None without labels.

    Raises:
      UserError: the images can't be read, don't fit the model, or are fewer than `num`.
    """
    path = expanded(path)
    file = path / "samples.npz" if path.is_dir() else path
    if file.is_file():
        images, labels = _read_npz(file)
    elif not path.is_dir():
        raise UserError(f"low_res={path}: no such file or folder")
    elif (path / "config.json").is_file():
        raise UserError(
            f"low_res={path} is a run folder; name the folder of its samples, {path / 'drawn'}, "
            f"or draw and enlarge in one go: workdir={path} upsampler=DIR"
        )
    else:
        return _read_folder(path, data, num, num_classes)
    _check_images(file, images, data)
    _check_number(path, num, len(images))
    if not num_classes:
        labels = None
    elif labels is not None:
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise UserError(f"low_res={file}: arr_1 must be a label, an integer, for each image")
        _check_labels(file, labels, num_classes)
        labels = labels[:num].astype(np.int32)
    return images[:num], labels


def _read_npz(file: Path) -> Images:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return archive["arr_0"], archive.get("arr_1")
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise UserError(
            f"low_res={file} is neither a folder of images nor a samples.npz: {first_line(error)}"
        ) from error


def _check_images(file: Path, images: np.ndarray, data: DataConfig) -> None:
    side, channels = data.low_res_size, data.channels
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UserError(
            f"low_res={file}: arr_0 is {images.dtype} {list(images.shape)}, not uint8 [N, H, W, C]"
        )
    if images.shape[1:] != (side, side, channels):
        raise UserError(
            f"low_res={file}: its images are {_size(images)}, but the model enlarges "
            f"{side}x{side}x{channels}"
        )


def _read_folder(path: Path, data: DataConfig, num: int | None, num_classes: int) -> Images:
    paths, others = find_images(path)
    if not paths:
        raise UserError(f"low_res={path} has no PNG, JPEG or WebP images, and no samples.npz")
    warn_of_ignored(path, others)
    _check_number(path, num, len(paths))
    labels = None
    if num_classes:
        labels = _folder_labels(path, paths, data.labels, num_classes)
        labels = None if labels is None else labels[:num]

    side, images = data.low_res_size, []
    for name in paths[:num]:
        try:
            image = decode_image(path / name, data.channels)
        except Exception as error:  # PIL: OSError, SyntaxError, ValueError, struct.error, ...
            raise UserError(
                f"low_res={path}: {name} cannot be read: {first_line(error)}; take it away"
            ) from error
        if min(image.shape[:2]) < side:
            raise UserError(
                f"low_res={path}: {name} is {_size(image[None, :, :, :0])}, smaller than the "
                f"{side}x{side} that the model enlarges; take it away, or enlarge it first"
            )
        if min(image.shape[:2]) >= data.image_size:  # just as in training
            images.append(shrink(centre_crop(image, data.image_size)[None], side)[0])
        else:
            images.append(centre_crop(image, side))
    return np.stack(images), labels


def _folder_labels(path: Path, paths: list[str], how: str, num_classes: int) -> np.ndarray | None:
    try:
        labels, found, names = label_images(paths, how)
    except UserError as error:
        raise UserError(f"low_res={path}: {error}; or give labels=3,7 (in turn)") from error
    if not found:
        return None
    # Names are numbered in sorted order: with some classes missing, the others would shift.
    if names and found != num_classes:
        raise UserError(
            f"low_res={path}: its images are of {found} classes, those of the model {num_classes}"
            "; give labels=3,7 (in turn)"
        )
    _check_labels(path, np.array(labels), num_classes)
    return np.array(labels, np.int32)


def _check_labels(path: Path, labels: np.ndarray, num_classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UserError(
            f"low_res={path}: label {wrong[0]} is not among 0..{num_classes - 1}; "
            "give labels=3,7 (in turn)"
        )


def _check_number(path: Path, num: int | None, there: int) -> None:
    if num is not None and num > there:
        raise UserError(f"num={num}: low_res={path} has {there} images")


def _size(images: np.ndarray) -> str:
    """ "8x8x3" of images [N, H, W, C], "8x8" if C is 0."""
    return "x".join(str(n) for n in images.shape[1:] if n)
