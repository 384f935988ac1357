"""A convolution whose gradients are fast on CPU, inside loops and for large images.

XLA rewrites convolutions into the layout that its CPU library is fast at, but not inside a while
loop (jax#12868). There the forward convolution has that layout anyway, but its gradients have not:
in a scan the kernel's takes 47 times as long, the input's 20 times. Guided sampling and gradient
accumulation are such loops. The kernel's gradient also takes up to four times as long where dy is
larger than the cache: it is summed over bands of rows. Other platforms keep XLA's own gradients.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ddpm_jax.diffusion.shapes import Array, Float

LAYOUT = ("NHWC", "HWIO", "NHWC")
BAND_SIZE = 2**18  # numbers of dy that fit, beside the rest, in a core's cache of 1 to 2 MB
MAX_BANDS = 4  # each band is a convolution to compile, and a sum over the devices
Strides = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width in_channels out_channels"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **_: Any,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """`lax.conv_general_dilated` as `nnx.Conv` calls it, without dilations, groups or layouts."""
    return _conv(x, kernel, tuple(strides), tuple(map(tuple, padding)))


def _native(x: jax.Array, kernel: jax.Array, strides: Strides, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, strides: Strides, padding: Padding) -> jax.Array:
    return _native(x, kernel, strides, padding)


def _forward(x: jax.Array, kernel: jax.Array, strides: Strides, padding: Padding) -> Any:
    return _native(x, kernel, strides, padding), (x, kernel)


def _backward(strides: Strides, padding: Padding, saved: Any, dy: jax.Array) -> Any:
    def xla(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
        return jax.vjp(lambda x, kernel: _native(x, kernel, strides, padding), x, kernel)[1](dy)

    return lax.platform_dependent(
        *saved, dy, cpu=partial(_gradients, strides=strides, padding=padding), default=xla
    )


_conv.defvjp(_forward, _backward)


def _gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: Strides, padding: Padding
) -> tuple[jax.Array, jax.Array]:
    """Both gradients as convolutions in the fast layout.

    The gradient of x convolves dy, its pixels moved apart by the stride, with the kernel turned by
    180 degrees.
    """
    around = []
    sides = zip(x.shape[1:3], kernel.shape[:2], dy.shape[1:3], strides, padding, strict=True)
    for side, taps, out_side, stride, (before, _) in sides:
        reach = (out_side - 1) * stride + 1  # of dy with its gaps
        around.append((taps - 1 - before, side + before - reach))
    dx = lax.conv_general_dilated(
        dy,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        around,
        lhs_dilation=strides,
        dimension_numbers=LAYOUT,
    )
    return dx, _kernel_gradient(x, (kernel.shape[0], kernel.shape[1]), dy, strides, padding)


def _kernel_gradient(
    x: jax.Array, taps: tuple[int, int], dy: jax.Array, strides: Strides, padding: Padding
) -> jax.Array:
    """A convolution whose image is x, its batch as the channels, and whose kernel is dy with holes.

    Each entry of the gradient reads all of dy. So it is summed over bands of rows of dy, each small
    enough for the cache.
    """
    bands = 1
    while bands < MAX_BANDS and dy.shape[1] % (2 * bands) == 0 and dy.size > bands * BAND_SIZE:
        bands *= 2
    rows = dy.shape[1] // bands
    (above, _), (left, _) = padding
    height, width = (
        (side - 1) * stride + count  # rows and columns of x under the band
        for side, stride, count in zip((rows, dy.shape[2]), strides, taps, strict=True)
    )

    def of_band(band: int) -> jax.Array:
        first = strides[0] * rows * band - above
        top, bottom = max(first, 0), min(first + height, x.shape[1])
        return lax.conv_general_dilated(
            x[:, top:bottom].transpose(3, 1, 2, 0),
            dy[:, rows * band : rows * (band + 1)].transpose(1, 2, 0, 3),
            (1, 1),
            ((top - first, first + height - bottom), (left, width - left - x.shape[2])),
            rhs_dilation=strides,
            dimension_numbers=LAYOUT,
        )

    return sum(map(of_band, range(1, bands)), of_band(0)).transpose(1, 2, 0, 3)
