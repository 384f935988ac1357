"""Data sets, their classes, and the pipeline that turns their records into batches."""

from ddpm_jax.data.classes import check_num_classes, class_line, with_classes
from ddpm_jax.data.held_out import hold_out, record_name, subset
from ddpm_jax.data.loading import SOURCES, load_source, warn_of_tiny_images
from ddpm_jax.data.pipeline import (
    Batches,
    CroppedRecords,
    batch_indices,
    first_images,
    ordered_batches,
    train_batches,
)
from ddpm_jax.data.sources import Source
from ddpm_jax.data.transforms import centre_crop, decode_image, flip, random_crop, shrink

__all__ = [
    "SOURCES",
    "Batches",
    "CroppedRecords",
    "Source",
    "batch_indices",
    "centre_crop",
    "check_num_classes",
    "class_line",
    "decode_image",
    "first_images",
    "flip",
    "hold_out",
    "load_source",
    "ordered_batches",
    "random_crop",
    "record_name",
    "shrink",
    "subset",
    "train_batches",
    "warn_of_tiny_images",
    "with_classes",
]
