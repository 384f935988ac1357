"""The U-Net: from DDPM's CIFAR-10 net to the ADM family, by settings alone.

The order of blocks is ADM's, which is DDPM's too:

- the encoder: a convolution, then at each level `num_res_blocks` residual blocks and a halving;
- the middle block: residual, attention, residual;
- the decoder: at each level one residual block more, each with a skip connection from the encoder.

`Encoder` holds the first two, for the classifier of noisy images has them as well. Timesteps become
an embedding in `Encoder.embed_time`, labels in `UNet.embed_labels`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Real

from ddpm_jax.config import ModelConfig
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.models.attention import Attention
from ddpm_jax.models.initializers import Rngs, normal_init
from ddpm_jax.models.layers import (
    FLOAT32,
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
    """The embedding of timesteps, the blocks of the encoder, and the middle block."""

    def __init__(self, config: ModelConfig, image_size: int, in_channels: int, rngs: Rngs):
        emb_channels = 4 * config.channels
        self.config, self.dtype = config, jnp.dtype(config.dtype)
        self.time_embed = nnx.List(
            [
                linear(config.channels, emb_channels, FLOAT32, rngs),
                linear(emb_channels, emb_channels, FLOAT32, rngs),
            ]
        )

        self.widths = tuple(int(mult * config.channels) for mult in config.channel_mult)
        channels = self.widths[0] if config.first_width == "level" else config.channels
        first = conv(in_channels, channels, self.dtype, rngs)
        self.input_blocks: nnx.List[nnx.List[nnx.Module]] = nnx.List([nnx.List([first])])
        outputs = [channels]
        for level, width in enumerate(self.widths):
            for _ in range(config.num_res_blocks):
                block = residual_block(channels, width, image_size >> level, config, rngs)
                self.input_blocks.append(nnx.List(block))
                channels = width
                outputs.append(channels)
            if level < len(self.widths) - 1:
                self.input_blocks.append(nnx.List([resampling(channels, "down", config, rngs)]))
                outputs.append(channels)

        self.middle_block: nnx.List[nnx.Module] = nnx.List(
            [
                ResBlock(channels, channels, config, rngs),
                Attention(channels, config, rngs),
                ResBlock(channels, channels, config, rngs),
            ]
        )
        self.output_channels = (*outputs, channels)  # of the arrays that `encode` returns

    def embed_time(self, t: Real[Array, " batch"]) -> Float[Array, "batch emb_channels"]:
        """Two dense layers on sines and cosines of t, float32."""
        emb = timestep_embedding(t, self.config.channels, order=self.config.timestep_embedding)
        return self.time_embed[1](nnx.silu(self.time_embed[0](emb)))

    def encode(
        self,
        x: Float[Array, "batch height width in_channels"],
        emb: Float[Array, "batch emb_channels"],
        keys: Iterator[jax.Array | None],
    ) -> list[Float[Array, "batch _ _ _"]]:
        """The outputs of all blocks of the encoder, then that of the middle block."""
        outputs = [x.astype(self.dtype)]
        for block in [*self.input_blocks, self.middle_block]:
            outputs.append(run_block(block, outputs[-1], emb, keys, self.config.remat))
        return outputs[1:]


class UNet(Encoder):
    """A denoiser of images: its output has x_t's size and `out_channels` channels.

    For super-resolution, `in_channels` counts the channels of the image to enlarge too.
    """

    def __init__(
        self,
        config: ModelConfig,
        image_size: int,
        in_channels: int,
        out_channels: int,
        rngs: Rngs,
    ):
        super().__init__(config, image_size, in_channels, rngs)
        self.label_emb = (
            nnx.Embed(
                config.num_classes, 4 * config.channels, embedding_init=normal_init, rngs=rngs
            )
            if config.num_classes
            else None
        )

        decoder = replace(config, num_heads=config.num_heads_upsample or config.num_heads)
        *skips, channels = self.output_channels
        self.output_blocks: nnx.List[nnx.List[nnx.Module]] = nnx.List([])
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(config.num_res_blocks + 1):
                side = image_size >> level
                block = residual_block(channels + skips.pop(), width, side, decoder, rngs)
                channels = width
                if level > 0 and i == config.num_res_blocks:
                    block.append(resampling(channels, "up", decoder, rngs))
                self.output_blocks.append(nnx.List(block))

        self.out_norm = GroupNorm(channels, config.norm_groups, config.norm_epsilon)
        self.out_conv = conv(channels, out_channels, FLOAT32, rngs, zero=True)

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        t: Real[Array, " batch"],
        labels: Int[Array, " batch"] | None = None,
        dropout_key: jax.Array | None = None,
        low_res: Float[Array, "batch low_height low_width channels"] | None = None,
    ) -> Float[Array, "batch height width out_channels"]:
        """float32. `t` are the timesteps to embed, rescaled if the schedule is.

        A label of -1, or no labels: no condition. No key: no dropout. `low_res` are the images that
        a super-resolution model enlarges.
        """
        if low_res is not None:
            x = jnp.concatenate([x, resize_bilinear(low_res, *x.shape[1:3])], axis=-1)
        emb = self.embed_time(t)
        if self.label_emb is not None and labels is not None:
            emb = emb + self.embed_labels(labels)

        keys = dropout_keys(dropout_key)
        *skips, h = self.encode(x, emb, keys)
        for block in self.output_blocks:
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = run_block(block, h, emb, keys, self.config.remat)
        return self.out_conv(nnx.silu(self.out_norm(h, FLOAT32)))

    def embed_labels(self, labels: Int[Array, " batch"]) -> Float[Array, "batch emb_channels"]:
        """A row of the table for each label; zeros for the label -1, which is no condition."""
        assert self.label_emb is not None  # as for every model of classes
        return jnp.where(labels[:, None] >= 0, self.label_emb(jnp.maximum(labels, 0)), 0)


def residual_block(
    channels: int, width: int, side: int, config: ModelConfig, rngs: Rngs
) -> list[nnx.Module]:
    """A residual block, then attention if `side` is one of `config.attention_resolutions`."""
    block: list[nnx.Module] = [ResBlock(channels, width, config, rngs)]
    if side in config.attention_resolutions:
        block.append(Attention(width, config, rngs))
    return block


def resampling(
    channels: int, direction: Literal["up", "down"], config: ModelConfig, rngs: Rngs
) -> nnx.Module:
    """The layer that doubles or halves an image between two levels."""
    if config.resblock_updown:
        return ResBlock(channels, channels, config, rngs, resample=direction)
    return {"up": Upsample, "down": Downsample}[direction](channels, config, rngs)


def run_block(
    block: Sequence[nnx.Module],
    h: Float[Array, "batch height width channels"],
    emb: Float[Array, "batch emb_channels"],
    keys: Iterator[jax.Array | None],
    remat: bool,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Applies the layers of a block in turn; each residual block takes the embedding and a key.

    With `remat` a gradient keeps only the inputs of the block, and computes the rest again.
    """
    own_keys = [next(keys) if isinstance(layer, ResBlock) else None for layer in block]

    def layers(h: jax.Array, emb: jax.Array, own_keys: list[jax.Array | None]) -> jax.Array:
        for layer, key in zip(block, own_keys, strict=True):
            h = layer(h, emb, key) if isinstance(layer, ResBlock) else layer(h)
        return h

    return (jax.checkpoint(layers) if remat else layers)(h, emb, own_keys)


def dropout_keys(key: jax.Array | None) -> Iterator[jax.Array | None]:
    """A key for each residual block in turn; without a key, None for each."""
    if key is None:
        return itertools.repeat(None)
    return (jax.random.fold_in(key, i) for i in itertools.count())
