"""A convolution whose gradients are fast on CPU: inside a loop, and of large images.

XLA rewrites convolutions into the layout that its CPU library is fast at, but not inside a while
loop (jax#12868). There the forward one is in that layout anyway, and the two gradients are not: in
a scan, that of the kernel takes 47 times as long, that of the input 20 times. Guided sampling
and the accumulation of gradients are such loops. Outside of loops too, the gradient of the kernel
takes up to four times as long where dy is larger than the cache, and is taken in parts. On other
platforms XLA's own gradients stay.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
BAND_SIZE = 2**18  # numbers of dy that the cache of a core, of 1 to 2 MB, holds beside others
MAX_BANDS = 4  # each is a convolution to compile, and is summed over the devices by itself
Strides = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
    x: jax.Array, kernel: jax.Array, strides: Strides, padding: Padding, **_: Any
) -> jax.Array:
    """`lax.conv_general_dilated` of x [B, H, W, I] and kernel [h, w, I, O], as `nnx.Conv` calls it.

    Dilations, groups and other layouts are not supported, and not asked for by our layers.
    """
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

    That of x: dy, its pixels moved apart by the stride, with the kernel turned by 180 degrees.
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
    return dx, _kernel_gradient(x, kernel.shape[:2], dy, strides, padding)


def _kernel_gradient(
    x: jax.Array, taps: tuple[int, int], dy: jax.Array, strides: Strides, padding: Padding
) -> jax.Array:
    """A convolution of x as the image, its batch as the channels, with dy as a kernel with holes.

    All of dy is read for each of its entries: it is summed over bands of rows of dy, so many that
    each stays in the cache.
    """
    bands = 1
    while bands < MAX_BANDS and dy.shape[1] % (2 * bands) == 0 and dy.size > bands * BAND_SIZE:
        bands *= 2
    rows = dy.shape[1] // bands
    (above, _), (left, _) = padding
    height, width = (
        (side - 1) * stride + count  # of x, that the band has seen
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
