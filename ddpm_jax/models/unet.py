"""The U-Net: from DDPM's CIFAR-10 net to the ADM family, by settings alone.

The order of blocks is ADM's, which with DDPM's settings is DDPM's: a first convolution; at each
level `num_res_blocks` residual blocks, then a halving; a middle of residual, attention, residual;
and back up with one residual block more a level, each fed the skip connection that matches it.
The way down and the middle are a class of their own: the classifier of noisy images has them too.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ddpm_jax.config import ModelConfig
from ddpm_jax.models.initializers import normal_init
from ddpm_jax.models.layers import (
    FLOAT32,
    Attention,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    conv,
    linear,
    resize_bilinear,
    timestep_embedding,
)


class Encoder(nnx.Module):
    """Embeds t, and takes images [B, image_size, image_size, in_channels] down to the middle."""

    def __init__(self, config: ModelConfig, image_size: int, in_channels: int, rngs: nnx.Rngs):
        emb_channels = 4 * config.channels
        self.config, self.dtype = config, jnp.dtype(config.dtype)
        self.time_embed = nnx.List(
            [
                linear(config.channels, emb_channels, FLOAT32, rngs),
                linear(emb_channels, emb_channels, FLOAT32, rngs),
            ]
        )

        self.widths = tuple(int(mult * config.channels) for mult in config.channel_mult)
        channels = self.widths[0]
        self.input_blocks = nnx.List([nnx.List([conv(in_channels, channels, self.dtype, rngs)])])
        outputs = [channels]
        for level, width in enumerate(self.widths):
            for _ in range(config.num_res_blocks):
                block = residual_block(channels, width, image_size >> level, config, rngs)
                self.input_blocks.append(block)
                channels = width
                outputs.append(channels)
            if level < len(self.widths) - 1:
                self.input_blocks.append(nnx.List([resampling(channels, "down", config, rngs)]))
                outputs.append(channels)

        self.middle_block = nnx.List(
            [
                ResBlock(channels, channels, config, rngs),
                Attention(channels, config, rngs),
                ResBlock(channels, channels, config, rngs),
            ]
        )
        self.output_channels = (*outputs, channels)  # of all that `encode` returns

    def embed_time(self, t: jax.Array) -> jax.Array:
        """[B] -> float32 [B, 4 * channels]."""
        emb = timestep_embedding(t, self.config.channels, order=self.config.timestep_embedding)
        return self.time_embed[1](nnx.silu(self.time_embed[0](emb)))

    def encode(
        self, x: jax.Array, emb: jax.Array, keys: Iterator[jax.Array | None]
    ) -> list[jax.Array]:
        """What each input block returns, and at last what the middle does."""
        outputs = [x.astype(self.dtype)]
        for block in [*self.input_blocks, self.middle_block]:
            outputs.append(run_block(block, outputs[-1], emb, keys, self.config.remat))
        return outputs[1:]


class UNet(Encoder):
    """Maps x_t [B, H, W, in_channels] to [B, H, W, out_channels], given t and, if any, labels.

    With a low_res image to enlarge, `in_channels` counts its channels too.
    """

    def __init__(
        self,
        config: ModelConfig,
        image_size: int,
        in_channels: int,
        out_channels: int,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, image_size, in_channels, rngs)
        self.label_emb = (
            nnx.Embed(
                config.num_classes, 4 * config.channels, embedding_init=normal_init, rngs=rngs
            )
            if config.num_classes
            else None
        )

        up = replace(config, num_heads=config.num_heads_upsample or config.num_heads)
        *skips, channels = self.output_channels
        self.output_blocks = nnx.List([])
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(config.num_res_blocks + 1):
                block = residual_block(channels + skips.pop(), width, image_size >> level, up, rngs)
                channels = width
                if level > 0 and i == config.num_res_blocks:
                    block.append(resampling(channels, "up", up, rngs))
                self.output_blocks.append(block)

        self.out_norm = GroupNorm(channels, config.norm_groups, config.norm_epsilon)
        self.out_conv = conv(channels, out_channels, FLOAT32, rngs, zero=True)

    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        labels: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        low_res: jax.Array | None = None,
    ) -> jax.Array:
        """x: [B, H, W, C]; t: [B], as embedded; labels: int32 [B], -1 for none; -> float32.

        low_res: [B, h, w, C], the image to enlarge, for a super-resolution model.
        """
        if low_res is not None:
            x = jnp.concatenate([x, resize_bilinear(low_res, *x.shape[1:3])], axis=-1)
        emb = self.embed_time(t)
        if self.label_emb is not None and labels is not None:
            emb = emb + jnp.where(labels[:, None] >= 0, self.label_emb(jnp.maximum(labels, 0)), 0)

        keys = dropout_keys(dropout_key)
        *skips, h = self.encode(x, emb, keys)
        for block in self.output_blocks:
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = run_block(block, h, emb, keys, self.config.remat)
        return self.out_conv(nnx.silu(self.out_norm(h.astype(jnp.float32))))


def residual_block(
    channels: int, width: int, side: int, config: ModelConfig, rngs: nnx.Rngs
) -> nnx.List:
    """A residual block, then attention where images of this side have it."""
    block = nnx.List([ResBlock(channels, width, config, rngs)])
    if side in config.attention_resolutions:
        block.append(Attention(width, config, rngs))
    return block


def resampling(
    channels: int, direction: Literal["up", "down"], config: ModelConfig, rngs: nnx.Rngs
) -> nnx.Module:
    """What doubles or halves an image between two levels."""
    if config.resblock_updown:
        return ResBlock(channels, channels, config, rngs, resample=direction)
    return {"up": Upsample, "down": Downsample}[direction](channels, config, rngs)


def run_block(
    block: nnx.List,
    h: jax.Array,
    emb: jax.Array,
    keys: Iterator[jax.Array | None],
    remat: bool,
) -> jax.Array:
    """`h` through the layers of a block; its residual blocks take the embedding and a key each.

    With `remat` a gradient keeps what goes into the block, and computes what is inside anew.
    """
    own_keys = [next(keys) if isinstance(layer, ResBlock) else None for layer in block]

    def through(h: jax.Array, emb: jax.Array, own_keys: list[jax.Array | None]) -> jax.Array:
        for layer, key in zip(block, own_keys, strict=True):
            h = layer(h, emb, key) if isinstance(layer, ResBlock) else layer(h)
        return h

    return (jax.checkpoint(through) if remat else through)(h, emb, own_keys)


def dropout_keys(key: jax.Array | None) -> Iterator[jax.Array | None]:
    """A key for each residual block in turn, or None for all of them."""
    if key is None:
        return itertools.repeat(None)
    return (jax.random.fold_in(key, i) for i in itertools.count())
