"""From uint8 pixels to the [-1, 1] of networks and back."""

from typing import TypeVar

import jax
import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.models.layers import downsample_mean

Array = TypeVar("Array", jax.Array, np.ndarray)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Maps [-1, 1] to 0..255: (x + 1) * 127.5, clipped and truncated as the ADM code does."""
    x = np.asarray(x, dtype=np.float32)
    return np.clip((x + 1) * np.float32(127.5), 0, 255).astype(np.uint8)


def to_model_range(x: Array) -> Array:
    """uint8 0..255 -> float32 [-1, 1]; points and labels stay as they are."""
    return x.astype(np.float32) / 127.5 - 1 if x.dtype == np.uint8 else x


def low_res_of(config: Config, x: jax.Array) -> dict[str, jax.Array]:
    """{"low_res": images x, averaged over squares of pixels} for super-resolution, else {}."""
    if not config.data.low_res_size:
        return {}
    return {"low_res": downsample_mean(x, config.data.image_size // config.data.low_res_size)}
