"""From `data.name` to a data set: the table of all kinds."""

import logging
from collections.abc import Callable

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data.folder import FolderRecords, load_folder
from ddpm_jax.data.sources import Source, load_digits, load_s_curve
from ddpm_jax.data.tfds_source import load_tfds
from ddpm_jax.data.transforms import decode_image
from ddpm_jax.errors import UserError, closest
from ddpm_jax.runtime import processes

# What stands before the colon of `data.name`. ARGUMENTS has those that something must follow.
SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "digits": load_digits,
    "s_curve": load_s_curve,
    "tfds": load_tfds,
    "folder": load_folder,
}
ARGUMENTS = {"tfds": "NAME", "folder": "PATH"}
TINY_SIZE = 16
GREY_SPREAD = 16  # JPEG stores grey pictures with channels that differ by less
logger = logging.getLogger("ddpm_jax")


def load_source(data: DataConfig) -> Source:
    """Opens the data set that `data.name` names.

    Raises:
      UserError: there is no such set, it can't be read, or it doesn't fit the other settings.
    """
    kind, _, argument = data.name.partition(":")
    if kind not in SOURCES or bool(argument) != (kind in ARGUMENTS):
        raise UserError(_unknown(kind, argument, data.name))
    if data.labels != "folders" and kind != "folder":
        raise UserError(
            f"data.labels is {data.labels!r}, but {data.name} has its own labels or none; "
            "only folder:PATH takes other ones: leave it at folders"
        )
    if data.channels not in (1, 3):
        raise UserError(f"data.channels is {data.channels}; it must be 1 (grey) or 3 (RGB)")
    if data.image_size < 1:
        raise UserError(f"data.image_size is {data.image_size}; it must be 1 or more")
    return SOURCES[kind](data)


def _unknown(kind: str, argument: str, name: str) -> str:
    forms = {each: f"{each}:{ARGUMENTS[each]}" if each in ARGUMENTS else each for each in SOURCES}
    *others, last = forms.values()
    hint = ""
    if close := closest(kind, SOURCES):
        meant = f"{close}:{argument}" if argument and close in ARGUMENTS else forms[close]
        hint = f"; did you mean {meant}?"
    return f"data.name is {name!r}; it must be {', '.join(others)} or {last}{hint}"


def warn_of_tiny_images(source: Source, data: DataConfig) -> None:
    """Warns if images are shrunk to very few pixels, as the default config does to a folder's.

    Very few means at most TINY_SIZE a side, and less than a third of the shorter sides of the first
    images.
    """
    if source.in_memory or data.image_size > TINY_SIZE or not processes.is_main_process():
        return
    images = [source.records[i]["x"] for i in range(min(4, len(source)))]
    if 3 * data.image_size >= min(min(image.shape[:2]) for image in images):
        return
    height, width, _ = images[0].shape
    to_grey = data.channels == 1 and _in_colour(source)
    logger.warning(
        "images of %dx%d become %dx%d%s: "
        "give --data.image-size 64%s, or start from --config configs/folder.py",
        *(width, height, data.image_size, data.image_size),
        " and grey" if to_grey else "",
        " --data.channels 3" if to_grey else "",
    )


def _in_colour(source: Source) -> bool:
    """True if the first image of a folder that can be read is in colour."""
    records = source.records
    if not isinstance(records, FolderRecords):
        return False
    first = next(path for path in records.paths if path not in records.broken)
    image = decode_image(records.root / first, channels=3)
    return bool(np.ptp(image, axis=2).max() > GREY_SPREAD)
