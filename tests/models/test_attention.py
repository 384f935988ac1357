"""Attention against its definition, what it is symmetric under, and its gradient in bfloat16."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddpm_jax.config import ModelConfig
from ddpm_jax.models.attention import Attention, attend, lean_attention, softmax_attention
from tests.models.helpers import normal, randomised

CONFIG = ModelConfig(channels=8, norm_groups=4, num_heads=2)


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


@pytest.mark.parametrize("spread", [0.1, 1, 4])  # from equal weights to nearly one key a query
def test_attention_of_bfloat16_has_the_gradient_of_float32_up_to_rounding(spread):
    q, k, v, upstream = (spread * normal(seed, 2, 3, 40, 16) for seed in range(4))

    def found(attention, dtype):
        rounded = (jnp.asarray(each, jnp.bfloat16).astype(dtype) for each in (q, k, v))
        out, pullback = jax.vjp(attention, *rounded)
        return out, *pullback(jnp.asarray(upstream, jnp.bfloat16).astype(dtype))

    exact = found(softmax_attention, jnp.float32)
    lean, plain = (found(each, jnp.bfloat16) for each in (lean_attention, softmax_attention))
    for name, right, ours, its in zip(("out", "q", "k", "v"), exact, lean, plain, strict=True):
        error, usual = (np.linalg.norm(np.float32(each) - right) for each in (ours, its))
        assert error <= max(1.6 * usual, 2**-8 * np.linalg.norm(right)), name


@pytest.mark.parametrize(
    ("length", "dtype", "dtypes"),
    [(1024, "bfloat16", {"bfloat16"}), (1024, "float32", {"float32"}), (256, "bfloat16", None)],
)
def test_a_long_attention_in_bfloat16_keeps_no_logits_in_float32(length, dtype, dtypes):
    x = jax.ShapeDtypeStruct((2, 3, length, 16), dtype)
    _, pullback = jax.eval_shape(lambda *inputs: jax.vjp(attend, *inputs), x, x, x)
    kept = {
        leaf.dtype.name for leaf in jax.tree.leaves(pullback) if leaf.shape[-2:] == (length, length)
    }
    assert kept == dtypes if dtypes else "float32" in kept


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
