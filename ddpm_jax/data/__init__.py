"""Examples on their way to the device: sources of records, and the pipeline that batches them."""

from ddpm_jax.data.pipeline import Batches, train_batches
from ddpm_jax.data.sources import Source, load_source
from ddpm_jax.data.transforms import centre_crop, decode_image, flip

__all__ = [
    "Batches",
    "Source",
    "centre_crop",
    "decode_image",
    "flip",
    "load_source",
    "train_batches",
]
