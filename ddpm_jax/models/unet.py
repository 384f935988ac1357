"""The U-Net: from DDPM's CIFAR-10 net to the ADM family, by settings alone.

The order of blocks is ADM's, which with DDPM's settings is DDPM's: a first convolution; at each
level `num_res_blocks` residual blocks, then a halving; a middle of residual, attention, residual;
and back up with one residual block more a level, each fed the skip connection that matches it.
"""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from ddpm_jax.config import ModelConfig
from ddpm_jax.models.layers import (
    Attention,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    conv,
    linear,
    timestep_embedding,
)


class UNet(nnx.Module):
    """Maps x_t [B, H, W, in_channels] to [B, H, W, out_channels], given t and, if any, labels."""

    def __init__(
        self,
        config: ModelConfig,
        image_size: int,
        in_channels: int,
        out_channels: int,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.dtype(config.dtype)
        emb_channels = 4 * config.channels
        self.config, self.dtype = config, dtype
        self.time_embed = nnx.List(
            [
                linear(config.channels, emb_channels, dtype, rngs),
                linear(emb_channels, emb_channels, dtype, rngs),
            ]
        )
        self.label_emb = (
            nnx.Embed(config.num_classes, emb_channels, dtype=dtype, rngs=rngs)
            if config.num_classes
            else None
        )

        widths = [int(mult * config.channels) for mult in config.channel_mult]
        side, channels = image_size, widths[0]
        skips = [channels]
        self.input_blocks = nnx.List([nnx.List([conv(in_channels, channels, dtype, rngs)])])
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(self._block(channels, width, side, rngs))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(nnx.List([self._resample(channels, "down", rngs)]))
                side //= 2
                skips.append(channels)

        self.middle_block = nnx.List(
            [
                ResBlock(channels, channels, config, rngs),
                Attention(channels, config, rngs),
                ResBlock(channels, channels, config, rngs),
            ]
        )

        self.output_blocks = nnx.List([])
        for level, width in reversed(list(enumerate(widths))):
            for i in range(config.num_res_blocks + 1):
                block = self._block(channels + skips.pop(), width, side, rngs)
                channels = width
                if level > 0 and i == config.num_res_blocks:
                    block.append(self._resample(channels, "up", rngs))
                    side *= 2
                self.output_blocks.append(block)

        self.out_norm = GroupNorm(channels, config.norm_groups)
        self.out_conv = conv(channels, out_channels, jnp.dtype("float32"), rngs, zero=True)

    def _block(self, channels: int, width: int, side: int, rngs: nnx.Rngs) -> nnx.List:
        """A residual block, then attention where this resolution has it."""
        block = nnx.List([ResBlock(channels, width, self.config, rngs)])
        if side in self.config.attention_resolutions:
            block.append(Attention(width, self.config, rngs))
        return block

    def _resample(self, channels: int, direction: str, rngs: nnx.Rngs) -> nnx.Module:
        config = self.config
        if config.resblock_updown:
            return ResBlock(channels, channels, config, rngs, resample=direction)
        resample = Downsample if direction == "down" else Upsample
        return resample(channels, config.resample_with_conv, self.dtype, rngs)

    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        labels: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """x: [B, H, W, C]; t: [B], as embedded; labels: int32 [B], -1 for none; -> float32."""
        emb = timestep_embedding(t, self.config.channels).astype(self.dtype)
        emb = self.time_embed[1](nnx.silu(self.time_embed[0](emb)))
        if self.label_emb is not None and labels is not None:
            emb = emb + jnp.where(labels[:, None] >= 0, self.label_emb(jnp.maximum(labels, 0)), 0)

        keys = _keys(dropout_key)
        h, skips = x.astype(self.dtype), []
        for block in self.input_blocks:
            h = _run(block, h, emb, keys)
            skips.append(h)
        h = _run(self.middle_block, h, emb, keys)
        for block in self.output_blocks:
            h = _run(block, jnp.concatenate([h, skips.pop()], axis=-1), emb, keys)
        return self.out_conv(nnx.silu(self.out_norm(h)).astype(jnp.float32))


def _run(
    layers: nnx.List, h: jax.Array, emb: jax.Array, keys: Iterator[jax.Array | None]
) -> jax.Array:
    for layer in layers:
        h = layer(h, emb, next(keys)) if isinstance(layer, ResBlock) else layer(h)
    return h


def _keys(key: jax.Array | None) -> Iterator[jax.Array | None]:
    """A dropout key for each residual block in turn, or None for all of them."""
    if key is None:
        return itertools.repeat(None)
    return (jax.random.fold_in(key, i) for i in itertools.count())
