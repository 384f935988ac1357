"""The networks as a user would write them with Flax's own parts, for benchmarks/tpu.py.

nnx.Conv, nnx.GroupNorm, nnx.Dropout, jax.nn.dot_product_attention, optax. Parameters have the names
and shapes of ours, so that the same weights give the same outputs.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ddpm_jax.config import Config, ModelConfig, build_diffusion, data_shape
from ddpm_jax.data.model_range import to_model_range
from ddpm_jax.diffusion.losses import training_losses
from ddpm_jax.models import Network, Params
from ddpm_jax.models.attention import heads_of
from ddpm_jax.models.layers import timestep_embedding

Key = jax.Array | None


def group_norm(channels: int, config: ModelConfig, rngs: nnx.Rngs) -> nnx.GroupNorm:
    return nnx.GroupNorm(
        channels, config.norm_groups, epsilon=config.norm_epsilon, dtype=config.dtype, rngs=rngs
    )


def linear(width: int, out: int, dtype: str, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(width, out, dtype=dtype, rngs=rngs)


def conv(width: int, out: int, dtype: str, rngs: nnx.Rngs, **options: Any) -> nnx.Conv:
    return nnx.Conv(width, out, (3, 3), dtype=dtype, rngs=rngs, **options)


def upsample(x: jax.Array) -> jax.Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def downsample(x: jax.Array) -> jax.Array:
    return nnx.avg_pool(x, (2, 2), (2, 2))


def same(x: jax.Array) -> jax.Array:
    return x


class ResBlock(nnx.Module):
    def __init__(
        self, width: int, out: int, config: ModelConfig, rngs: nnx.Rngs, resample: str = ""
    ):
        self.norm1 = group_norm(width, config, rngs)
        self.conv1 = conv(width, out, config.dtype, rngs)
        twice = 2 if config.scale_shift_norm else 1
        self.emb_proj = linear(4 * config.channels, twice * out, config.dtype, rngs)
        self.norm2 = group_norm(out, config, rngs)
        self.dropout = nnx.Dropout(config.dropout, deterministic=False)
        self.conv2 = conv(out, out, config.dtype, rngs)
        self.skip = None if width == out else linear(width, out, config.dtype, rngs)
        self.resample = {"up": upsample, "down": downsample, "": same}[resample]
        self.scale_shift_norm = config.scale_shift_norm

    def __call__(self, x: jax.Array, emb: jax.Array, key: Key) -> jax.Array:
        h = self.conv1(self.resample(nnx.silu(self.norm1(x))))
        emb = self.emb_proj(nnx.silu(emb))[:, None, None, :]
        if self.scale_shift_norm:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + emb)
        h = nnx.silu(h)
        if key is not None:
            h = self.dropout(h, rngs=nnx.Rngs(dropout=key))
        x = self.resample(x)
        return (x if self.skip is None else self.skip(x)) + self.conv2(h)


def attend(qkv: jax.Array, heads: int, order: str) -> jax.Array:
    batch, length, width = qkv.shape
    if order == "new":
        q, k, v = jnp.unstack(qkv.reshape(batch, length, 3, heads, -1), axis=2)
    else:
        q, k, v = jnp.split(qkv.reshape(batch, length, heads, -1), 3, axis=-1)
    return jax.nn.dot_product_attention(q, k, v).reshape(batch, length, width // 3)


class Attention(nnx.Module):
    def __init__(self, width: int, config: ModelConfig, rngs: nnx.Rngs):
        self.heads = heads_of(width, config)
        self.order = config.attention_order
        self.norm = group_norm(width, config, rngs)
        self.qkv = linear(width, 3 * width, config.dtype, rngs)
        self.proj_out = linear(width, width, config.dtype, rngs)

    def __call__(self, x: jax.Array, emb: jax.Array, key: Key) -> jax.Array:
        batch, height, width, channels = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, height * width, 3 * channels)
        return x + self.proj_out(attend(qkv, self.heads, self.order).reshape(x.shape))


class Resample(nnx.Module):
    def __init__(self, width: int, direction: str, config: ModelConfig, rngs: nnx.Rngs):
        after = config.downsample_padding == "after"
        down = {"strides": 2, "padding": ((0 if after else 1, 1),) * 2}
        self.up = direction == "up"
        self.conv = conv(width, width, config.dtype, rngs, **({} if self.up else down))

    def __call__(self, x: jax.Array, emb: jax.Array, key: Key) -> jax.Array:
        return self.conv(upsample(x) if self.up else x)


class First(nnx.Conv):
    def __call__(self, x: jax.Array, *_: Any) -> jax.Array:
        return super().__call__(x)


class Encoder(nnx.Module):
    def __init__(self, config: ModelConfig, side: int, channels: int, rngs: nnx.Rngs):
        self.config, emb = config, 4 * config.channels
        self.time_embed = nnx.List(
            [linear(config.channels, emb, "float32", rngs), linear(emb, emb, "float32", rngs)]
        )
        self.widths = [int(mult * config.channels) for mult in config.channel_mult]
        width = self.widths[0] if config.first_width == "level" else config.channels
        first = First(channels, width, (3, 3), dtype=config.dtype, rngs=rngs)
        blocks, outputs = [[first]], [width]
        for level, out in enumerate(self.widths):
            for _ in range(config.num_res_blocks):
                blocks.append(self.block(width, out, side >> level, config, rngs))
                width = out
                outputs.append(width)
            if level < len(self.widths) - 1:
                blocks.append([self.between(width, "down", config, rngs)])
                outputs.append(width)
        self.input_blocks = nnx.List([nnx.List(each) for each in blocks])
        self.middle_block = nnx.List(
            [
                ResBlock(width, width, config, rngs),
                Attention(width, config, rngs),
                ResBlock(width, width, config, rngs),
            ]
        )
        self.outputs = tuple(outputs)

    @staticmethod
    def block(
        width: int, out: int, side: int, config: ModelConfig, rngs: nnx.Rngs
    ) -> list[nnx.Module]:
        attention = [Attention(out, config, rngs)] if side in config.attention_resolutions else []
        return [ResBlock(width, out, config, rngs), *attention]

    @staticmethod
    def between(width: int, direction: str, config: ModelConfig, rngs: nnx.Rngs) -> nnx.Module:
        if config.resblock_updown:
            return ResBlock(width, width, config, rngs, resample=direction)
        return Resample(width, direction, config, rngs)

    def embed(self, t: jax.Array) -> jax.Array:
        emb = timestep_embedding(t, self.config.channels, order=self.config.timestep_embedding)
        return self.time_embed[1](nnx.silu(self.time_embed[0](emb)))

    def encode(
        self, x: jax.Array, emb: jax.Array, keys: Iterator[Key]
    ) -> tuple[list[jax.Array], jax.Array]:
        outputs, h = [], x.astype(self.config.dtype)
        for block in self.input_blocks:
            for layer in block:
                h = layer(h, emb, next(keys))
            outputs.append(h)
        for layer in self.middle_block:
            h = layer(h, emb, next(keys))
        return outputs, h


class UNet(Encoder):
    def __init__(self, config: ModelConfig, side: int, channels: int, out: int, rngs: nnx.Rngs):
        super().__init__(config, side, channels, rngs)
        emb = 4 * config.channels
        self.label_emb = (
            nnx.Embed(config.num_classes, emb, rngs=rngs) if config.num_classes else None
        )
        width, skips, blocks = self.outputs[-1], list(self.outputs), []
        for level in reversed(range(len(self.widths))):
            for i in range(config.num_res_blocks + 1):
                block = self.block(
                    width + skips.pop(), self.widths[level], side >> level, config, rngs
                )
                width = self.widths[level]
                if level and i == config.num_res_blocks:
                    block.append(self.between(width, "up", config, rngs))
                blocks.append(block)
        self.output_blocks = nnx.List([nnx.List(each) for each in blocks])
        self.out_norm = nnx.GroupNorm(
            width, config.norm_groups, epsilon=config.norm_epsilon, rngs=rngs
        )
        self.out_conv = conv(width, out, "float32", rngs)

    def __call__(self, x: jax.Array, t: jax.Array, labels: Key = None, key: Key = None):
        emb = self.embed(t)
        if self.label_emb is not None:
            emb = emb + self.label_emb(labels)
        keys = keys_of(key)
        skips, h = self.encode(x, emb, keys)
        for block in self.output_blocks:
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            for layer in block:
                h = layer(h, emb, next(keys))
        return self.out_conv(nnx.silu(self.out_norm(h.astype(jnp.float32))))


class Classifier(Encoder):
    """With the head "attention"."""

    def __init__(self, config: ModelConfig, side: int, channels: int, rngs: nnx.Rngs):
        super().__init__(config, side, channels, rngs)
        width = self.widths[-1]
        self.out_norm = nnx.GroupNorm(
            width, config.norm_groups, epsilon=config.norm_epsilon, rngs=rngs
        )
        self.out_pool = AttentionPool(side >> (len(self.widths) - 1), width, config, rngs)

    def __call__(self, x: jax.Array, t: jax.Array, labels: Key = None, key: Key = None):
        h = self.encode(x, self.embed(t), keys_of(key))[1]
        return self.out_pool(nnx.silu(self.out_norm(h.astype(jnp.float32))))


class AttentionPool(nnx.Module):
    def __init__(self, side: int, width: int, config: ModelConfig, rngs: nnx.Rngs):
        self.heads = heads_of(width, config)
        self.positional_embedding = nnx.Param(jnp.zeros((side**2 + 1, width)))
        self.qkv_proj = linear(width, 3 * width, "float32", rngs)
        self.c_proj = linear(width, config.num_classes, "float32", rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pixels = x.reshape(x.shape[0], -1, x.shape[-1])
        tokens = jnp.concatenate([pixels.mean(1, keepdims=True), pixels], axis=1)
        qkv = self.qkv_proj(tokens + self.positional_embedding[...])
        return self.c_proj(attend(qkv, self.heads, "new")[:, 0])


def keys_of(key: Key) -> Iterator[Key]:
    while True:
        if key is None:
            yield None
        else:
            key, own = jax.random.split(key)
            yield own


def build_network(config: Config) -> Network:
    """The peer of `models.build_network`, for U-Nets and classifiers."""
    model, (side, _, channels) = config.model, data_shape(config)
    out = channels * (2 if config.diffusion.variance.startswith("learned") else 1)

    def build() -> nnx.Module:
        rngs = nnx.Rngs(0)
        if model.kind == "classifier":
            return Classifier(model, side, channels, rngs)
        return UNet(model, side, channels, out, rngs)

    graphdef, state = nnx.split(nnx.eval_shape(build), nnx.Param)
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    abstract = {
        ".".join(map(str, path)): leaf.get_raw_value() for path, leaf in nnx.to_flat_state(state)
    }

    def apply(params: Params, *args: Any) -> jax.Array:
        flat = [(paths[name], nnx.Param(params[name])) for name in paths]
        return nnx.merge(graphdef, nnx.from_flat_state(flat))(*args)

    def init(key: jax.Array) -> Params:
        raise NotImplementedError("the benchmarks bring weights of their own")

    return Network(init, apply, abstract)


class State(NamedTuple):
    """What training carries from step to step."""

    step: jax.Array
    params: Params
    ema: Params
    opt_state: optax.OptState


def make_train_step(
    config: Config, network: Network
) -> tuple[Callable[[Params], State], Callable[[State, Any], tuple[State, Any]]]:
    """`init(params)`, `step(state, batch)`: clip, Adam and the average, as optax has them."""
    train, diffusion = config.train, build_diffusion(config.diffusion)
    optimizer = optax.adam(train.learning_rate, train.adam_b1, train.adam_b2)
    if train.gradient_clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(train.gradient_clip_norm), optimizer)

    def init(params: Params) -> State:
        ema = jax.tree.map(jnp.copy, params)
        return State(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params))

    def step(state: State, batch: Any) -> tuple[State, Any]:
        key = jax.random.fold_in(jax.random.key(train.seed), state.step)
        t_key, noise_key, dropout_key = jax.random.split(key, 3)
        x = to_model_range(batch["x"])
        t = jax.random.randint(t_key, (len(x),), 0, config.diffusion.timesteps)
        noise = jax.random.normal(noise_key, x.shape)

        def loss_fn(params: Params) -> jax.Array:
            def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
                return network.apply(params, x, t, batch["label"], dropout_key)

            losses = training_losses(diffusion, denoise, x, t, noise, config.diffusion.loss)
            return losses.loss.mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        ema = optax.incremental_update(params, state.ema, 1 - train.ema_decay)
        return State(state.step + 1, params, ema, opt_state), {"loss": loss}

    return init, step
