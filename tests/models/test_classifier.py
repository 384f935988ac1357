"""The classifier of noisy images: its heads, and what it shares with the U-Net."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddpm_jax.config import Config, DataConfig, ModelConfig
from ddpm_jax.models import build_network
from ddpm_jax.models.classifier import AttentionPool
from tests.models.helpers import normal, random_params, randomised

CONFIG = ModelConfig(
    kind="classifier",
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_heads=2,
    num_classes=5,
    scale_shift_norm=True,
    resblock_updown=True,
    norm_groups=4,
)
X = normal(0, 2, 8, 8, 3)
T = jnp.array([3.0, 700.0])


def network(config):
    return build_network(Config(data=DataConfig(image_size=8, channels=3), model=config))


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_every_head_gives_a_distribution_and_a_gradient_at_every_pixel(pool):
    net = network(replace(CONFIG, pool=pool, channel_mult=(1,)))
    params = random_params(net)

    @jax.jit
    def log_prob(x, t):
        def chosen(x):
            logits = net.apply(params, x, t)
            return jax.nn.log_softmax(logits)[:, 1].sum(), logits

        return jax.grad(chosen, has_aux=True)(x)

    gradient, logits = log_prob(X, T)
    assert logits.shape == (2, 5) and logits.dtype == jnp.float32
    np.testing.assert_allclose(jax.nn.softmax(logits).sum(axis=1), 1, rtol=1e-5)
    assert gradient.shape == X.shape and np.abs(gradient).min() > 0
    moved_t, moved_x = log_prob(X, T.at[1].add(100))[1], log_prob(X.at[1].add(1), T)[1]
    for moved in (moved_t, moved_x):
        np.testing.assert_allclose(moved[0], logits[0], atol=1e-5)
        assert not np.allclose(moved[1], logits[1], atol=1e-4)


def test_the_blocks_are_those_of_the_unets_encoder_and_middle():
    def shapes(net):
        return {
            name: leaf
            for name, leaf in net.abstract.items()
            if name.startswith(("time_embed", "input_blocks", "middle_block"))
        }

    unet = network(replace(CONFIG, kind="unet"))
    classifier = network(CONFIG)
    assert shapes(classifier) == shapes(unet)
    heads = {name.split(".")[0] for name in classifier.abstract.keys() - shapes(classifier).keys()}
    assert heads == {"out_norm", "out_pool"}


def test_adaptive_head_starts_undecided():
    net = network(replace(CONFIG, channel_mult=(1,), pool="adaptive"))
    assert not net.apply(net.init(jax.random.key(0)), X, T).any()


@pytest.mark.parametrize("num_heads, num_head_channels", [(1, 0), (4, 0), (1, 8)])
def test_attention_pool_is_its_definition(num_heads, num_head_channels):
    config = replace(CONFIG, num_heads=num_heads, num_head_channels=num_head_channels)
    pool = randomised(AttentionPool, 4, 16, 5, config)
    x = normal(0, 2, 4, 4, 16)
    heads = 16 // num_head_channels if num_head_channels else num_heads
    tokens = jnp.concatenate([x.mean(axis=(1, 2))[:, None], x.reshape(2, 16, 16)], axis=1)
    qkv = pool.qkv_proj(tokens + pool.positional_embedding[...])
    q, k, v = (part.reshape(2, 17, heads, -1) for part in jnp.split(qkv, 3, axis=-1))
    weights = jax.nn.softmax(jnp.einsum("bhc,bkhc->bhk", q[:, 0], k) / np.sqrt(16 / heads))
    mean = jnp.einsum("bhk,bkhc->bhc", weights, v).reshape(2, 16)
    np.testing.assert_allclose(pool(x), pool.c_proj(mean), atol=1e-5)


def test_attention_pool_starts_with_an_embedding_of_the_places_of_pixels():
    pool = AttentionPool(4, 16, 5, CONFIG, nnx.Rngs(0))
    assert np.std(pool.positional_embedding[...]) == pytest.approx(1 / 4, rel=0.2)
    x = normal(0, 2, 4, 4, 16)
    assert not np.allclose(pool(x), pool(x[:, ::-1]), atol=1e-4)


def test_dropout_works_only_with_a_key_and_labels_are_not_seen():
    config = replace(CONFIG, channel_mult=(1,), dropout=0.5)
    net = network(config)
    params = random_params(net)
    apply = jax.jit(net.apply)
    plain = apply(params, X, T)
    np.testing.assert_array_equal(apply(params, X, T, jnp.array([1, 2])), plain)
    one, same, other = (apply(params, X, T, None, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other, atol=1e-3) and not np.allclose(one, plain, atol=1e-3)
