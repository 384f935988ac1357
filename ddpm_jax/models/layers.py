"""The parts of the U-Net: norms, embeddings, residual blocks, resampling.

Parameters are float32. `dtype` is that of the computation; norms always run in float32.
Sources: DDPM's appendix B, ADM's section 3.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.random import threefry2x32_p
from jaxtyping import Real

from ddpm_jax.config import ModelConfig
from ddpm_jax.diffusion.shapes import Array, Float
from ddpm_jax.models.convolution import conv_general_dilated
from ddpm_jax.models.initializers import ZERO_INIT, Rngs, dense_init

FLOAT32 = jnp.dtype("float32")  # of the embedding and of the head, whatever the setting
Images = Float[Array, "batch height width channels"]


def timestep_embedding(
    t: Real[Array, " batch"],
    dim: int,
    max_period: float = 10_000,
    order: Literal["cos_sin", "sin_cos"] = "cos_sin",
) -> Float[Array, "batch {dim}"]:
    """[cos(t w_i), sin(t w_i)] with w_i = max_period^(-i / (dim // 2)), float32.

    An odd `dim` ends in a zero. The order "sin_cos" is DDPM's: sines come first, and i is divided
    by dim // 2 - 1, so that the last w_i is 1 / max_period.
    """
    half = dim // 2
    steps = half if order == "cos_sin" else max(half - 1, 1)
    freqs = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / steps)
    angles = t.astype(jnp.float32)[:, None] * freqs
    halves = [jnp.cos(angles), jnp.sin(angles)]
    embedding = jnp.concatenate(halves if order == "cos_sin" else halves[::-1], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def dropout(
    x: Float[Array, "batch *shape"], rate: float, key: jax.Array | None
) -> Float[Array, "batch *shape"]:
    """Zeroes entries with probability `rate` and scales up the rest. Without a key it returns x.

    An entry takes 16 random bits, so that the rate is exact to 2^-17. What is kept is stored in
    8 bits: behind the barrier it is not drawn once more in the gradient.
    """
    if key is None or rate == 0:
        return x
    with jax.named_scope("dropout"):
        dropped = round(rate * 2**16)
        quarters = [(n >= dropped).astype(jnp.int8) for n in _random_16_bits(key, x.shape)]
        quarters = jax.lax.optimization_barrier(quarters)
        kept = jnp.concatenate(quarters, axis=1)[:, : x.shape[1]]
        return jnp.where(kept != 0, x * (2**16 / (2**16 - dropped)), 0).astype(x.dtype)


def _random_16_bits(key: jax.Array, shape: tuple[int, ...]) -> list[jax.Array]:
    """Numbers in 0..2^16 - 1, for the four quarters of the second axis of an array.

    Each is a function of the key and its place in the array alone. Threefry gives 64 bits for a key
    and a counter of 64 bits; `jax.random.bits` makes 32 of them, here they are four numbers.
    """
    few = (shape[0], -(-shape[1] // 4), *shape[2:])
    place = [
        jax.lax.broadcasted_iota(jnp.uint32, few, axis) * np.uint32(math.prod(few[axis + 1 :]))
        for axis in range(1, len(few))
    ]
    example = jax.lax.broadcasted_iota(jnp.uint32, few, 0)
    keys = (jnp.broadcast_to(half, few) for half in jax.random.key_data(key)[:2])
    bits = threefry2x32_p.bind(*keys, example, sum(place[1:], place[0]))
    return [half >> shift & 0xFFFF for half in bits for shift in (0, 16)]


class GroupNorm(nnx.Module):
    """Group norm in float32, of `dtype` at the end: by default that of x.

    In float32 its variance is PyTorch's, of two passes. A mean sums pixels by channel, then
    channels by group: on CPU that is twice as fast, with its gradient, as one sum over both.

    In bfloat16 one pass gives both moments, in float32; the variance is E[x^2] - E[x]^2. A matrix
    product takes the mean over a group. That saves a TPU a fifth of a residual block. Digits are
    lost only where |mean| is over 300 times the deviation: there bfloat16 has none left.
    """

    def __init__(self, channels: int, groups: int = 32, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.groups, self.epsilon = groups, epsilon

    def __call__(
        self, x: Float[Array, "batch *pixels channels"], dtype: jnp.dtype | None = None
    ) -> Float[Array, "batch *pixels channels"]:
        with jax.named_scope("group_norm"):
            # Reshaped in x's own dtype: else XLA turns the layout of a TPU's images around.
            pixels = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
            moments = self._one_pass if x.dtype == jnp.bfloat16 else self._two_passes
            mean, variance = moments(pixels)
            factor = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
            normed = (pixels - mean[:, None]) * factor[:, None] + self.bias[...]
            return normed.astype(dtype or x.dtype).reshape(x.shape)

    def _two_passes(
        self, pixels: Float[Array, "batch pixels channels"]
    ) -> tuple[Float[Array, "batch channels"], Float[Array, "batch channels"]]:
        """The mean and variance of the group of each channel."""
        groups = pixels.shape[0], self.groups, -1

        def mean(of: jax.Array) -> jax.Array:
            by_group = of.mean(axis=1).reshape(groups).mean(axis=-1)
            return by_group.repeat(of.shape[-1] // self.groups, axis=-1)

        of_group = mean(pixels)
        return of_group, mean(jnp.square(pixels - of_group[:, None]))

    def _one_pass(
        self, pixels: Float[Array, "batch pixels channels"]
    ) -> tuple[Float[Array, "batch channels"], Float[Array, "batch channels"]]:
        """The same, from both moments of the pixels as they are."""
        channels = pixels.shape[-1]
        group = np.arange(channels) // (channels // self.groups)
        average = (group[:, None] == group) * np.float32(self.groups / channels)

        def mean(of: jax.Array) -> jax.Array:
            return jnp.dot(of.mean(axis=1), average, precision=jax.lax.Precision.HIGHEST)

        of_group = mean(pixels)
        variance = mean(jnp.square(pixels)) - jnp.square(of_group)
        return of_group, jnp.maximum(variance, 0)


class Conv(nnx.Conv):
    """A convolution in `dtype` whose bias is added in float32.

    So the bias's gradient, a sum over all pixels, is of float32 too.
    """

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        return super().__call__(inputs, out_sharding).astype(self.dtype)


class Linear(nnx.Linear):
    """A dense layer in `dtype` whose bias is added in float32."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        return super().__call__(inputs, out_sharding).astype(self.dtype)


def _but_bias(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Input and kernel in `dtype`, the bias as it is."""
    x, kernel, bias = arrays
    return x.astype(dtype), kernel.astype(dtype), bias


def conv(
    in_channels: int,
    out_channels: int,
    dtype: jnp.dtype,
    rngs: Rngs,
    stride: int = 1,
    padding: tuple[int, int] = (1, 1),
    zero: bool = False,
) -> Conv:
    """A 3x3 convolution; `padding` counts the pixels added before and after those of each axis.

    `zero` starts it at zero, as the last one of each residual branch.
    """
    return Conv(
        in_channels,
        out_channels,
        (3, 3),
        strides=stride,
        padding=(padding, padding),
        kernel_init=ZERO_INIT if zero else dense_init,
        dtype=dtype,
        promote_dtype=_but_bias,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def linear(
    in_features: int, out_features: int, dtype: jnp.dtype, rngs: Rngs, zero: bool = False
) -> Linear:
    """A dense layer over the last axis: on images a 1x1 convolution."""
    init = ZERO_INIT if zero else dense_init
    return Linear(
        in_features,
        out_features,
        kernel_init=init,
        dtype=dtype,
        promote_dtype=_but_bias,
        rngs=rngs,
    )


def upsample_nearest(x: Images) -> Float[Array, "batch 2*height 2*width channels"]:
    """Repeats each pixel along both axes; the gradient's sums are of float32."""
    batch, height, width, channels = x.shape
    squares = (batch, height, 2, width, 2, channels)
    doubled = jnp.broadcast_to(x.astype(jnp.float32)[:, :, None, :, None], squares)
    return doubled.astype(x.dtype).reshape(batch, 2 * height, 2 * width, channels)


def downsample_mean(
    x: Images, factor: int = 2
) -> Float[Array, "batch height//{factor} width//{factor} channels"]:
    """The mean of each square of `factor` x `factor` pixels.

    Pixels at the far edges that fill no square are cut off. For a side that is a multiple of
    `factor` this is the "area" interpolation of PyTorch.
    """
    batch, height, width, channels = x.shape
    height, width = height // factor, width // factor
    x = x[:, : height * factor, : width * factor]
    return x.reshape(batch, height, factor, width, factor, channels).mean(axis=(2, 4))


def resize_bilinear(
    x: Float[Array, "batch old_height old_width channels"], height: int, width: int
) -> Float[Array, "batch {height} {width} channels"]:
    """Interpolates between the centres of pixels, without antialiasing.

    The "bilinear" interpolation of PyTorch with its default, align_corners=False.
    """
    shape = (x.shape[0], height, width, x.shape[-1])
    return jax.image.resize(x, shape, "linear", antialias=False)


class Upsample(nnx.Module):
    """Nearest-neighbour doubling, then a convolution if `config.resample_with_conv`."""

    def __init__(self, channels: int, config: ModelConfig, rngs: Rngs):
        dtype = jnp.dtype(config.dtype)
        self.conv = conv(channels, channels, dtype, rngs) if config.resample_with_conv else None

    def __call__(self, x: Images) -> Float[Array, "batch 2*height 2*width channels"]:
        x = upsample_nearest(x)
        return x if self.conv is None else self.conv(x)


class Downsample(nnx.Module):
    """A convolution of stride 2 if `config.resample_with_conv`, else the mean of 2x2 squares.

    `config.downsample_padding` is "symmetric" for a pixel on each side, as in PyTorch, and "after"
    for one after the last pixel, as TensorFlow's SAME pads an even side.
    """

    def __init__(self, channels: int, config: ModelConfig, rngs: Rngs):
        padding = {"symmetric": (1, 1), "after": (0, 1)}[config.downsample_padding]
        dtype = jnp.dtype(config.dtype)
        self.conv = (
            conv(channels, channels, dtype, rngs, stride=2, padding=padding)
            if config.resample_with_conv
            else None
        )

    def __call__(self, x: Images) -> Float[Array, "batch half_height half_width channels"]:
        return downsample_mean(x) if self.conv is None else self.conv(x)


class ResBlock(nnx.Module):
    """norm-SiLU-conv twice, with the embedding between them, around a skip connection.

    `resample` doubles or halves the image after the first SiLU and on the skip connection, as
    BigGAN does. The embedding scales and shifts the second norm's output with `scale_shift_norm`,
    and is added to its input without. Where the width changes, the skip connection is a dense
    layer, or with `skip_conv` a 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: ModelConfig,
        rngs: Rngs,
        resample: Literal["up", "down"] | None = None,
        skip_conv: bool = False,
    ):
        dtype = jnp.dtype(config.dtype)
        widen = 2 if config.scale_shift_norm else 1
        self.norm1 = GroupNorm(in_channels, config.norm_groups, config.norm_epsilon)
        self.conv1 = conv(in_channels, out_channels, dtype, rngs)
        self.emb_proj = linear(4 * config.channels, widen * out_channels, dtype, rngs)
        self.norm2 = GroupNorm(out_channels, config.norm_groups, config.norm_epsilon)
        self.conv2 = conv(out_channels, out_channels, dtype, rngs, zero=True)
        project = conv if skip_conv else linear
        same = in_channels == out_channels
        self.skip = None if same else project(in_channels, out_channels, dtype, rngs)
        self.resample = {"up": upsample_nearest, "down": downsample_mean, None: _same}[resample]
        self.scale_shift_norm, self.dropout = config.scale_shift_norm, config.dropout
        self.residual_scale = math.sqrt(0.5) if config.rescale_residual else 1.0

    def __call__(
        self,
        x: Float[Array, "batch height width in_channels"],
        emb: Float[Array, "batch emb_channels"],
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "batch out_height out_width out_channels"]:
        h = self.conv1(self.resample(nnx.silu(self.norm1(x))))
        emb = self.emb_proj(nnx.silu(emb))[:, None, None, :]
        if self.scale_shift_norm:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + emb)
        h = self.conv2(dropout(nnx.silu(h), self.dropout, dropout_key))
        x = self.resample(x)
        skip = x if self.skip is None else self.skip(x)
        return (skip + h) * self.residual_scale


def _same(x: Images) -> Images:
    return x
