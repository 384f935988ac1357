"""The parts of the U-Net against their definitions, and what they are symmetric under."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddpm_jax.config import ModelConfig
from ddpm_jax.models.layers import (
    Attention,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    downsample_mean,
    dropout,
    timestep_embedding,
    upsample_nearest,
)

CONFIG = ModelConfig(channels=8, norm_groups=4, num_heads=2)
FLOAT32 = jnp.dtype("float32")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def randomised(build, *args, **kwargs):
    """build(*args, rngs=...) with every parameter random, so that no layer is zero.

    Drawn by numpy: compiling the initialisers would take longer than all tests of this file.
    """
    module = nnx.eval_shape(lambda: build(*args, rngs=nnx.Rngs(0), **kwargs))
    leaves, tree = jax.tree.flatten(nnx.state(module))
    values = [0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    nnx.update(module, jax.tree.unflatten(tree, values))
    return module


@pytest.mark.parametrize("dim", [8, 33, 128])
def test_timestep_embedding_is_cosines_then_sines_of_falling_frequencies(dim):
    t = np.array([0, 1, 17.25, 999])
    half = dim // 2
    angles = t[:, None] * 10_000.0 ** (-np.arange(half) / half)
    got = timestep_embedding(jnp.asarray(t), dim)
    assert got.shape == (4, dim) and got.dtype == jnp.float32
    np.testing.assert_allclose(got[:, :half], np.cos(angles), atol=2e-4)
    np.testing.assert_allclose(got[:, half : 2 * half], np.sin(angles), atol=2e-4)
    assert not got[:, 2 * half :].any()


def test_timestep_embedding_tells_all_timesteps_apart_and_has_one_length():
    embedding = np.asarray(timestep_embedding(jnp.arange(1000), 64))
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), np.sqrt(32), rtol=1e-5)
    similarity = embedding @ embedding.T / 32
    np.fill_diagonal(similarity, 0)
    assert similarity.max() < 0.999


def test_dropout_needs_a_key_keeps_the_mean_and_follows_the_key():
    x = jnp.ones((100, 100))
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x
    one, same, other = (dropout(x, 0.3, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(np.unique(one), [0, 1 / 0.7], rtol=1e-6)
    assert one.mean() == pytest.approx(1, abs=4 * np.sqrt(0.3 / 0.7) / 100)
    assert dropout(x.astype(jnp.bfloat16), 0.3, jax.random.key(0)).dtype == jnp.bfloat16


@pytest.mark.parametrize("offset, spread", [(0, 1), (1000, 1), (-300, 0.5), (0, 1e-3)])
def test_group_norm_is_its_definition_far_from_zero_too(offset, spread):
    norm = GroupNorm(8, groups=4)
    norm.scale[...], norm.bias[...] = normal(1, 8), normal(2, 8)
    x = offset + spread * normal(0, 3, 5, 6, 8)
    grouped = np.asarray(x, np.float64).reshape(3, 30, 4, 2)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    want = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    want = want * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    rounding = 1e-6 * max(1, abs(offset) / spread)
    np.testing.assert_allclose(norm(x), want, atol=5 * rounding)


def test_group_norm_of_bfloat16_computes_in_float32():
    x = (30 + normal(0, 2, 16, 16, 8)).astype(jnp.bfloat16)
    got, want = GroupNorm(8, groups=4)(x), GroupNorm(8, groups=4)(x.astype(jnp.float32))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


def test_upsampling_repeats_pixels_and_downsampling_averages_them():
    x = normal(0, 2, 4, 6, 3)
    up = upsample_nearest(x)
    assert up.shape == (2, 8, 12, 3)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(up[:, i::2, j::2], x)
    np.testing.assert_allclose(downsample_mean(up), x, rtol=1e-6)
    squares = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(downsample_mean(x), squares, atol=1e-6)


@pytest.mark.parametrize("height, width", [(4, 6), (5, 3)])
def test_resampling_layers_have_the_shapes_of_pytorch(height, width):
    x = normal(0, 2, height, width, 8)
    up, down = (height * 2, width * 2), ((height + 1) // 2, (width + 1) // 2)
    for layer, with_conv, size in (
        (Upsample, True, up),
        (Upsample, False, up),
        (Downsample, True, down),
        (Downsample, False, (height // 2, width // 2)),
    ):
        assert randomised(layer, 8, with_conv, FLOAT32)(x).shape == (2, *size, 8)


def test_strided_convolution_starts_one_pixel_outside_the_image():
    layer = randomised(Downsample, 1, True, FLOAT32)
    x = normal(0, 1, 4, 4, 1)
    padded, kernel = np.pad(x[0, ..., 0], 1), np.asarray(layer.conv.kernel[...])[..., 0, 0]
    want = [[(padded[i : i + 3, j : j + 3] * kernel).sum() for j in (0, 2)] for i in (0, 2)]
    np.testing.assert_allclose(layer(x)[0, ..., 0] - layer.conv.bias[...], want, atol=1e-5)


@pytest.mark.parametrize("scale_shift_norm", [False, True])
@pytest.mark.parametrize("resample, size", [(None, (4, 6)), ("up", (8, 12)), ("down", (2, 3))])
def test_residual_block_changes_size_and_width(resample, size, scale_shift_norm):
    config = replace(CONFIG, scale_shift_norm=scale_shift_norm)
    block = randomised(ResBlock, 8, 16, config, resample=resample)
    emb = normal(1, 2, 32)
    out = block(normal(0, 2, 4, 6, 8), emb)
    assert out.shape == (2, *size, 16)
    assert not np.allclose(out, block(normal(0, 2, 4, 6, 8), emb + 1))


@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_residual_block_starts_as_its_skip_connection(resample):
    x, emb = normal(0, 2, 4, 4, 8), normal(1, 2, 32)
    resampled = {"up": upsample_nearest, "down": downsample_mean, None: lambda x: x}[resample](x)
    same = ResBlock(8, 8, CONFIG, nnx.Rngs(0), resample)
    np.testing.assert_array_equal(same(x, emb), resampled)
    wider = randomised(ResBlock, 8, 12, CONFIG, resample=resample)
    for parameter in (wider.conv2.kernel, wider.conv2.bias):
        parameter[...] = jnp.zeros_like(parameter[...])
    np.testing.assert_allclose(wider(x, emb), wider.skip(resampled), atol=1e-6)


def test_scale_and_shift_act_on_the_second_norm():
    block = randomised(ResBlock, 8, 8, replace(CONFIG, scale_shift_norm=True))
    x, emb = normal(0, 2, 4, 4, 8), normal(1, 2, 32)
    projected = block.emb_proj(nnx.silu(emb))[:, None, None]
    h = block.norm2(block.conv1(nnx.silu(block.norm1(x))))
    h = h * (1 + projected[..., :8]) + projected[..., 8:]
    np.testing.assert_allclose(block(x, emb), x + block.conv2(nnx.silu(h)), atol=1e-5)


def test_residuals_are_rescaled_to_keep_the_variance():
    x, emb = normal(0, 2, 4, 4, 8), normal(1, 2, 32)
    scaled = replace(CONFIG, rescale_residual=True)
    for build, args in ((ResBlock, (8, 8)), (Attention, (8,))):
        plain, small = (randomised(build, *args, c) for c in (CONFIG, scaled))
        inputs = (x, emb) if build is ResBlock else (x,)
        np.testing.assert_allclose(small(*inputs), plain(*inputs) / np.sqrt(2), rtol=1e-5)


def test_residual_block_drops_only_with_a_key_and_as_the_key_says():
    block = randomised(ResBlock, 8, 8, replace(CONFIG, dropout=0.5))
    plain = randomised(ResBlock, 8, 8, CONFIG)
    x, emb = normal(0, 2, 4, 4, 8), normal(1, 2, 32)
    np.testing.assert_array_equal(block(x, emb), plain(x, emb))
    one, same, other = (block(x, emb, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other) and not np.allclose(one, plain(x, emb))


@pytest.mark.parametrize("num_heads, num_head_channels", [(1, 0), (2, 0), (4, 0), (1, 4), (4, 8)])
def test_attention_is_its_definition(num_heads, num_head_channels):
    config = replace(CONFIG, num_heads=num_heads, num_head_channels=num_head_channels)
    block = randomised(Attention, 16, config)
    x = normal(0, 2, 3, 5, 16)
    heads = 16 // num_head_channels if num_head_channels else num_heads
    qkv = block.qkv(block.norm(x)).reshape(2, 15, heads, 3, 16 // heads)
    q, k, v = (qkv[:, :, :, i] for i in range(3))
    weights = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(16 / heads), axis=-1)
    h = jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(x.shape)
    np.testing.assert_allclose(block(x), x + block.proj_out(h), atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_orders_differ_by_a_permutation_of_columns(heads):
    legacy, new = (
        randomised(Attention, 16, replace(CONFIG, num_heads=heads, attention_order=o))
        for o in ("legacy", "new")
    )
    # Column (head, which, channel) of the legacy layout is (which, head, channel) of the new one.
    columns = np.arange(48).reshape(heads, 3, 16 // heads).transpose(1, 0, 2).ravel()
    new.qkv.kernel[...] = legacy.qkv.kernel[...][:, columns]
    new.qkv.bias[...] = legacy.qkv.bias[...][columns]
    x = normal(0, 2, 3, 5, 16)
    np.testing.assert_allclose(new(x), legacy(x), atol=1e-6)


def test_attention_moves_with_its_pixels():
    block = randomised(Attention, 16, CONFIG)
    x = normal(0, 2, 3, 5, 16)
    order = np.random.default_rng(0).permutation(15)

    def shuffled(x):
        return x.reshape(2, 15, 16)[:, order].reshape(x.shape)

    np.testing.assert_allclose(block(shuffled(x)), shuffled(block(x)), atol=1e-5)


def test_attention_starts_as_the_identity():
    x = normal(0, 2, 3, 5, 16)
    np.testing.assert_array_equal(Attention(16, CONFIG, nnx.Rngs(0))(x), x)
