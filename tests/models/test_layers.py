"""The parts of the U-Net against their definitions, and what they are symmetric under."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddpm_jax.config import ModelConfig
from ddpm_jax.models.attention import Attention
from ddpm_jax.models.layers import (
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    downsample_mean,
    dropout,
    resize_bilinear,
    timestep_embedding,
    upsample_nearest,
)
from tests.models.helpers import normal, randomised

CONFIG = ModelConfig(channels=8, norm_groups=4, num_heads=2)


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


@pytest.mark.parametrize("dim", [8, 33])
def test_timestep_embedding_of_ddpm_is_sines_first_down_to_the_last_period(dim):
    t = np.array([0, 1, 17.25, 999])
    half = dim // 2
    angles = t[:, None] * np.geomspace(1, 1e-4, half)
    got = timestep_embedding(jnp.asarray(t), dim, order="sin_cos")
    assert got.shape == (4, dim) and got.dtype == jnp.float32
    np.testing.assert_allclose(got[:, :half], np.sin(angles), atol=2e-4)
    np.testing.assert_allclose(got[:, half : 2 * half], np.cos(angles), atol=2e-4)
    assert not got[:, 2 * half :].any()


def test_dropout_needs_a_key_keeps_the_mean_and_follows_the_key():
    x = jnp.ones((100, 100))
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x
    one, same, other = (dropout(x, 0.3, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(np.unique(one), [0, 1 / 0.7], rtol=2**-17 / 0.7)
    assert one.mean() == pytest.approx(1, abs=4 * np.sqrt(0.3 / 0.7) / 100)
    assert dropout(x.astype(jnp.bfloat16), 0.3, jax.random.key(0)).dtype == jnp.bfloat16
    odd = dropout(jnp.ones((1000, 3)), 0.3, jax.random.key(0))
    np.testing.assert_allclose(odd.mean(axis=0), 1, atol=5 * np.sqrt(0.3 / 0.7 / 1000))
    assert abs(np.corrcoef(odd.T) - np.eye(3)).max() < 5 / np.sqrt(1000)  # each has bits of its own


@pytest.mark.parametrize("shape", [(10, 50, 40, 50), (1000, 1000), (7, 9, 99, 161)])
def test_a_million_entries_are_dropped_at_the_rate_and_independently(shape):
    rate = 0.1
    dropped = np.asarray(dropout(jnp.ones(shape), rate, jax.random.key(3)) == 0, float)
    deviation = np.sqrt(rate * (1 - rate) / dropped.size)
    assert abs(dropped.mean() - rate) < 4 * deviation
    # Of neighbours at any distance along an axis both are dropped at the rate squared; among them
    # those that share the bits of one counter, in four parts of the second axis.
    length = -(-shape[1] // 4)
    distances = {(0, 1), (1, 1), (1, 2), (1, length), (1, 2 * length), (1, 3 * length)}
    for axis, distance in distances | {(axis, 1) for axis in range(len(shape))}:
        if distance >= shape[axis]:
            continue
        a, b = np.split(dropped, [distance], axis)[1], np.split(dropped, [-distance], axis)[0]
        both = a * b
        spread = np.sqrt(rate**2 * (1 - rate**2) / both.size)
        assert abs(both.mean() - rate**2) < 4.5 * spread, (axis, distance)


def test_what_is_dropped_of_an_example_depends_on_its_place_alone():
    key = jax.random.key(1)
    many, few = (dropout(jnp.ones((size, 6, 5, 4)), 0.5, key) for size in (8, 3))
    assert jnp.array_equal(many[:3], few) and not jnp.array_equal(many[0], many[1])


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


@pytest.mark.parametrize("offset", [0, 30, 100])
def test_group_norm_of_bfloat16_computes_in_float32(offset):
    x = (offset + normal(0, 2, 16, 16, 8)).astype(jnp.bfloat16)
    got, want = GroupNorm(8, groups=4)(x), GroupNorm(8, groups=4)(x.astype(jnp.float32))
    assert got.dtype == jnp.bfloat16
    # A pass less loses digits of float32, offset^2 / 10^7 of them: here none of bfloat16's.
    np.testing.assert_allclose(
        GroupNorm(8, groups=4)(x, jnp.dtype("float32")), want, atol=1e-6 * (1 + offset**2)
    )
    step = 2**-8 * np.abs(want).max()
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=step)


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


@pytest.mark.parametrize("factor", [1, 3, 4])
def test_means_of_squares_keep_the_mean_and_cut_off_what_is_left_over(factor):
    x = normal(0, 2, 3 * factor, 2 * factor, 3)
    got = downsample_mean(x, factor)
    squares = np.asarray(x).reshape(2, 3, factor, 2, factor, 3)
    np.testing.assert_allclose(got, squares.mean(axis=(2, 4)), atol=1e-6)
    wider = jnp.pad(x, ((0, 0), (0, factor - 1), (0, factor - 1), (0, 0)), constant_values=9)
    np.testing.assert_array_equal(downsample_mean(wider, factor), got)


@pytest.mark.parametrize(
    "size, resized", [((4, 4), (16, 16)), ((5, 3), (10, 12)), ((8, 6), (4, 3))]
)
def test_bilinear_interpolation_is_its_definition(size, resized):
    x = normal(0, 2, *size, 3)

    def weights(n, m):
        """[m, n]: the shares of the n pixels in each of the m, by the distance of their centres."""
        centres = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
        return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(n)))

    rows, columns = (weights(n, m) for n, m in zip(size, resized, strict=True))
    want = np.einsum("ih,jw,bhwc->bijc", rows, columns, np.asarray(x))
    np.testing.assert_allclose(resize_bilinear(x, *resized), want, atol=1e-6)


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
        config = replace(CONFIG, resample_with_conv=with_conv)
        assert randomised(layer, 8, config)(x).shape == (2, *size, 8)


@pytest.mark.parametrize("padding, before", [("symmetric", 1), ("after", 0)])
def test_strided_convolution_starts_at_or_one_pixel_outside_the_image(padding, before):
    layer = randomised(Downsample, 1, replace(CONFIG, downsample_padding=padding))
    x = normal(0, 1, 4, 4, 1)
    padded = np.pad(x[0, ..., 0], (before, 1))
    kernel = np.asarray(layer.conv.kernel[...])[..., 0, 0]
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


def test_skip_connection_may_be_a_convolution():
    block = randomised(ResBlock, 8, 12, CONFIG, skip_conv=True)
    assert block.skip.kernel.shape == (3, 3, 8, 12)
    x, emb = normal(0, 2, 4, 4, 8), normal(1, 2, 32)
    projected = block.emb_proj(nnx.silu(emb))[:, None, None]
    h = block.norm2(block.conv1(nnx.silu(block.norm1(x))) + projected)
    np.testing.assert_allclose(block(x, emb), block.skip(x) + block.conv2(nnx.silu(h)), atol=1e-5)
    assert randomised(ResBlock, 8, 8, CONFIG, skip_conv=True).skip is None


def test_epsilon_of_the_settings_is_that_of_every_norm():
    config = replace(CONFIG, norm_epsilon=1e-6)
    block, attention = randomised(ResBlock, 8, 8, config), randomised(Attention, 8, config)
    assert {norm.epsilon for norm in (block.norm1, block.norm2, attention.norm)} == {1e-6}
    norm = GroupNorm(8, groups=4, epsilon=1e-6)
    x = 1e-3 * normal(0, 2, 8, 8, 8)  # a variance of epsilon: the normed one is about 1 / 2
    np.testing.assert_allclose(np.square(norm(x)).mean(), 0.5, atol=0.05)


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
