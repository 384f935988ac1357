"""A convolution that is fast on CPU where no gradient is asked for; elsewhere it is XLA's own.

XLA's CPU library has a slow path for convolutions without padding. Milliseconds an image on two
cores, by Inception's layers:

    73x73, 3x3, 80 to 192 channels   27, with a row of zeros below 18
    149x149, 3x3, 32 to 32           8.4, with a row of zeros below 5.3
    all 1x1                          49, as products of matrices 31
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ddpm_jax.diffusion.shapes import Array, Float


def inference_convolution(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width in_channels out_channels"],
    strides: Sequence[int],
    padding: str,
    **options: Any,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """`lax.conv_general_dilated` as `nnx.Conv` calls it, with a padding of "SAME" or "VALID"."""

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        pixels = x.reshape(-1, x.shape[-1])
        out = jnp.dot(pixels, kernel[0, 0], precision=options["precision"])
        return out.reshape(*x.shape[:-1], -1)

    def padded(x: jax.Array, kernel: jax.Array) -> jax.Array:
        below = ((0, 1), (0, 0))
        return lax.conv_general_dilated(x, kernel, strides, below, **options)[:, :-1]

    fast: Callable[[jax.Array, jax.Array], jax.Array]
    if max(strides) > 1:
        return plain(x, kernel)
    if kernel.shape[:2] == (1, 1):
        fast = product
    elif padding == "VALID":
        fast = padded
    else:
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=fast, default=plain)
