"""LPIPS, version 0.1 with AlexNet: how far apart two images look (Zhang et al. 2018, eq. 1).

AlexNet is that of Krizhevsky (2014), with torchvision's names of layers.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddpm_jax.diffusion.shapes import Array, Float
from ddpm_jax.models.network import Params

Images = Float[Array, "batch height width 3"]

MIN_SIZE = 31  # pixels a side; the second pool has no 3x3 pixels left of smaller images
HIGHEST = lax.Precision.HIGHEST  # the default of accelerators has three digits
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)  # from [-1, 1] to ImageNet's mean
SCALE = np.array([0.458, 0.448, 0.450], np.float32)  # and deviation of each channel
EPSILON = 1e-10


class Conv(NamedTuple):
    """A convolution of `size` x `size` pixels and a ReLU; if `pooled`, of a pool's output."""

    channels: int
    size: int
    padding: int
    stride: int = 1
    pooled: bool = False


LAYERS = {
    "features.0": Conv(64, 11, padding=2, stride=4),
    "features.3": Conv(192, 5, padding=2, pooled=True),
    "features.6": Conv(384, 3, padding=1, pooled=True),
    "features.8": Conv(256, 3, padding=1),
    "features.10": Conv(256, 3, padding=1),
}


def param_shapes() -> dict[str, tuple[int, ...]]:
    """Of each layer, as in `features.0.kernel` and `features.0.bias`, and of its `lin0.kernel`."""
    shapes: dict[str, tuple[int, ...]] = {}
    in_channels = 3
    for i, (name, conv) in enumerate(LAYERS.items()):
        shapes[f"{name}.kernel"] = (conv.size, conv.size, in_channels, conv.channels)
        shapes[f"{name}.bias"] = (conv.channels,)
        shapes[f"lin{i}.kernel"] = (1, 1, conv.channels, 1)
        in_channels = conv.channels
    return shapes


def lpips_distance(params: Params, x: Images, y: Images) -> Float[Array, " batch"]:
    """The distance of each pair of images in [-1, 1], 0 for equal ones; use it inside `jit`.

    At each layer the features of a pixel are divided by their norm; the squares of the differences
    are weighted by channel, and averaged over the pixels. The distance is the sum over the layers.

    Raises ValueError for images below MIN_SIZE.
    """
    if min(x.shape[1:3]) < MIN_SIZE:
        raise ValueError(f"LPIPS needs images of {MIN_SIZE} pixels a side, not {x.shape[1:3]}")
    distance = jnp.zeros(len(x))
    # One program for both images, so that equal ones have equal features, to the bit.
    for i, (of_x, of_y) in enumerate(lax.map(partial(_features, params), jnp.stack([x, y]))):
        weighted = jnp.matmul((of_x - of_y) ** 2, params[f"lin{i}.kernel"][0, 0], precision=HIGHEST)
        distance += weighted.mean(axis=(1, 2, 3))
    return distance


def _features(params: Params, x: jax.Array) -> list[jax.Array]:
    """The output of each layer, divided by the norm at each pixel."""
    h, normalized = (x - SHIFT) / SCALE, []
    for name, conv in LAYERS.items():
        if conv.pooled:  # the maximum of 3x3 pixels at every second one
            h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        h = lax.conv_general_dilated(
            h,
            params[f"{name}.kernel"],
            (conv.stride, conv.stride),
            [(conv.padding, conv.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=HIGHEST,
        )
        h = jax.nn.relu(h + params[f"{name}.bias"])
        normalized.append(h / (jnp.sqrt((h**2).sum(axis=-1, keepdims=True)) + EPSILON))
    return normalized
