"""Examples on their way to the device: sources of records, and the pipeline that batches them."""

from ddpm_jax.data.held_out import hold_out, record_name, subset
from ddpm_jax.data.labels import check_num_classes
from ddpm_jax.data.pipeline import (
    Batches,
    CroppedRecords,
    batch_indices,
    first_images,
    ordered_batches,
    train_batches,
)
from ddpm_jax.data.sources import Source, load_source
from ddpm_jax.data.transforms import centre_crop, decode_image, flip, random_crop, shrink

__all__ = [
    "Batches",
    "CroppedRecords",
    "Source",
    "batch_indices",
    "centre_crop",
    "check_num_classes",
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
]
