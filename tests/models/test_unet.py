"""Whole networks: their size, their symmetries, and what they do at the start of training."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig
from ddpm_jax.models import build_network, count_parameters, functional
from ddpm_jax.models.attention import Attention
from ddpm_jax.models.initializers import Stream
from ddpm_jax.models.layers import timestep_embedding
from ddpm_jax.models.mlp import MLP
from ddpm_jax.models.unet import UNet
from tests.models.helpers import random_params

TINY = ModelConfig(
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_heads=2,
    num_classes=3,
    scale_shift_norm=True,
    norm_groups=4,
)
ONE_LEVEL = replace(TINY, channel_mult=(1,))  # few shapes, so few initialisers to compile
KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 8, 8, 3))
T = jnp.array([3.0, 700.0])
LABELS = jnp.array([0, 2])


def network(config, image_size=8, in_channels=3, out_channels=3):
    return functional(lambda rngs: UNet(config, image_size, in_channels, out_channels, rngs))


@pytest.fixture(scope="module")
def tiny():
    net = network(TINY)
    return net, random_params(net)


def test_ddpm_for_cifar_10_has_the_parameters_of_ho_et_al():
    net = build_network(Config(data=DataConfig(name="tfds:cifar10", image_size=32, channels=3)))
    assert count_parameters(net.abstract) == 35_746_307


@pytest.mark.parametrize(
    "change",
    [
        {"resblock_updown": True},
        {"rescale_residual": True, "scale_shift_norm": False, "resample_with_conv": False},
        {"attention_resolutions": (8, 4), "num_head_channels": 4, "attention_order": "new"},
        {"channel_mult": (0.5, 1, 2), "num_res_blocks": 2},
        {"channel_mult": (2, 1), "first_width": "channels"},
        {"norm_epsilon": 1e-6, "downsample_padding": "after", "timestep_embedding": "sin_cos"},
    ],
    ids=str,
)
def test_every_setting_maps_pictures_to_float32_pictures(change):
    net = network(replace(TINY, **change), out_channels=6)
    out = jax.jit(net.apply)(random_params(net), X, T, LABELS)
    assert out.shape == (2, 8, 8, 6) and out.dtype == jnp.float32
    assert np.isfinite(out).all() and np.all(np.std(out, axis=(1, 2, 3)) > 0.01)


def test_output_is_zero_at_the_start():
    net = network(ONE_LEVEL)
    params = net.init(KEY)
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in net.abstract.items()}
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in params.items()} == shapes
    assert not net.apply(params, X, T, LABELS).any()
    assert net.apply(random_params(net), X, T, LABELS).any()


def test_half_channels_narrow_a_level_but_not_the_embedding():
    net = network(replace(TINY, channel_mult=(0.5, 1)))
    assert net.abstract["input_blocks.0.0.kernel"].shape == (3, 3, 3, 4)
    assert net.abstract["time_embed.0.kernel"].shape == (8, 32)


def test_the_first_convolution_has_the_width_of_the_first_level_or_of_channels():
    mult = replace(TINY, channel_mult=(2, 1))
    for first_width, width in (("level", 16), ("channels", 8)):
        net = network(replace(mult, first_width=first_width))
        assert net.abstract["input_blocks.0.0.kernel"].shape == (3, 3, 3, width)
        assert net.abstract["input_blocks.1.0.conv1.kernel"].shape == (3, 3, width, 16)
        assert net.abstract["out_conv.kernel"].shape == (3, 3, 16, 3)
    one = replace(TINY, first_width="channels")
    assert network(one).abstract == network(TINY).abstract


def test_label_minus_one_is_a_zero_embedding(tiny):
    net, params = tiny
    apply = jax.jit(net.apply)
    none = apply(params, X, T, jnp.array([-1, -1]))
    zeros = {**params, "label_emb.embedding": jnp.zeros_like(params["label_emb.embedding"])}
    np.testing.assert_allclose(none, apply(params, X, T), atol=1e-6)
    np.testing.assert_allclose(none, apply(zeros, X, T, LABELS), atol=1e-6)
    mixed, labelled = (apply(params, X, T, jnp.array([i, 2])) for i in (-1, 0))
    np.testing.assert_allclose(mixed[0], none[0], atol=1e-6)
    np.testing.assert_allclose(mixed[1], labelled[1], atol=1e-6)
    assert not np.allclose(labelled[0], none[0], atol=1e-3)


def test_heads_of_the_decoder_may_differ_and_nothing_else_does():
    def heads(config):
        unet = nnx.eval_shape(lambda: UNet(config, 8, 3, 3, Stream()))
        found = {}
        for path, module in nnx.iter_modules(unet):
            if isinstance(module, Attention):
                found.setdefault(path[0], set()).add(module.heads)
        return found

    down, up, middle = "input_blocks", "output_blocks", "middle_block"
    assert heads(TINY) == {down: {2}, middle: {2}, up: {2}}
    more = replace(TINY, num_heads_upsample=4)
    assert heads(more) == {down: {2}, middle: {2}, up: {4}}
    assert heads(replace(more, num_head_channels=16)) == {down: {1}, middle: {1}, up: {1}}
    assert network(more).abstract == network(TINY).abstract


def test_embedding_of_t_is_two_layers_on_its_cosines_and_sines():
    unet = UNet(ONE_LEVEL, 8, 3, 3, nnx.Rngs(0))
    first, second = unet.time_embed
    want = second(nnx.silu(first(timestep_embedding(T, TINY.channels))))
    np.testing.assert_array_equal(unet.embed_time(T), want)
    unet = UNet(replace(ONE_LEVEL, timestep_embedding="sin_cos"), 8, 3, 3, nnx.Rngs(0))
    want = second(nnx.silu(first(timestep_embedding(T, TINY.channels, order="sin_cos"))))
    np.testing.assert_array_equal(unet.embed_time(T), want)


def test_super_resolution_sees_the_enlarged_image_beside_the_noisy_one(tiny):
    config = Config(
        data=DataConfig(image_size=8, low_res_size=4, channels=3),
        model=TINY,
        diffusion=DiffusionConfig(variance="learned_range"),
    )
    net = build_network(config)
    assert net.abstract["input_blocks.0.0.kernel"].shape == (3, 3, 6, 8)
    params = random_params(net)
    apply = jax.jit(lambda params, low_res: net.apply(params, X, T, LABELS, None, low_res))
    low_res = jax.random.normal(KEY, (2, 4, 4, 3))
    out = apply(params, low_res)
    assert out.shape == (2, 8, 8, 6)
    # Every pixel and channel of it counts, and only in its own example.
    for pixel in ((0, 0, 0), (3, 3, 1), (1, 2, 2)):
        moved = apply(params, low_res.at[(1, *pixel)].add(1))
        np.testing.assert_allclose(moved[0], out[0], atol=1e-6)
        assert not np.allclose(moved[1], out[1], atol=1e-3)
    # Blind to its last three channels, it is the net without them.
    kernel = params["input_blocks.0.0.kernel"].at[:, :, 3:].set(0)
    blind = apply({**params, "input_blocks.0.0.kernel": kernel}, low_res)
    plain = network(TINY, out_channels=6)
    without = {**params, "input_blocks.0.0.kernel": kernel[:, :, :3]}
    np.testing.assert_allclose(blind, jax.jit(plain.apply)(without, X, T, LABELS), atol=1e-5)


def test_output_depends_on_t_and_on_no_other_example(tiny):
    net, params = tiny
    apply = jax.jit(net.apply)
    base, moved = apply(params, X, T, LABELS), apply(params, X, T.at[1].add(50), LABELS)
    np.testing.assert_allclose(moved[0], base[0], atol=1e-6)
    assert not np.allclose(moved[1], base[1], atol=1e-3)


def test_bfloat16_computes_nearly_the_same_and_returns_float32(tiny):
    net, params = tiny
    half = network(replace(TINY, dtype="bfloat16"))
    assert half.abstract == net.abstract
    want, got = (jax.jit(n.apply)(params, X, T, LABELS) for n in (net, half))
    assert got.dtype == jnp.float32
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
    assert np.abs(got - want).max() > 1e-4 * np.abs(want).max()


def test_gradient_reaches_every_parameter(tiny):
    net, params = tiny
    grads = jax.jit(jax.grad(lambda p: jnp.sin(net.apply(p, X, T, LABELS)).sum()))(params)
    assert all(np.isfinite(grad).all() for grad in grads.values())
    assert [name for name, grad in grads.items() if not np.abs(grad).max() > 1e-5] == []


def test_dropout_works_only_with_a_key_and_as_the_key_says(tiny):
    net, params = tiny
    drop = network(replace(TINY, dropout=0.5))
    apply = jax.jit(drop.apply)
    plain = jax.jit(net.apply)(params, X, T, LABELS)
    np.testing.assert_allclose(apply(params, X, T, LABELS), plain, atol=1e-5)
    one, same, other = (apply(params, X, T, LABELS, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other, atol=1e-3)


def test_every_block_drops_with_a_key_of_its_own(monkeypatch):
    keys = []

    def spy(x, rate, key):
        keys.append(jax.random.key_data(key).tolist())
        return x

    monkeypatch.setattr("ddpm_jax.models.layers.dropout", spy)
    net = network(ONE_LEVEL)
    net.apply(random_params(net), X, T, LABELS, KEY)
    assert len(keys) == 5 and len(set(map(tuple, keys))) == 5


def test_initial_parameters_follow_the_key():
    net = network(ONE_LEVEL)
    one, same, other = (net.init(jax.random.key(seed)) for seed in (0, 0, 1))
    name = "input_blocks.0.0.kernel"
    np.testing.assert_array_equal(one[name], same[name])
    assert not np.allclose(one[name], other[name])


def test_state_other_than_parameters_is_refused():
    with pytest.raises(TypeError, match="parameters only"):
        functional(lambda rngs: nnx.Dropout(0.1, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("features, width, depth", [(2, 16, 3), (5, 32, 1)])
def test_mlp_maps_points_to_points(features, width, depth):
    config = ModelConfig(kind="mlp", channels=width, num_res_blocks=depth)
    net = functional(lambda rngs: MLP(config, features, features, rngs))
    params = net.init(KEY)
    x = jax.random.normal(KEY, (7, features))
    out = net.apply(params, x, jnp.arange(7.0))
    assert out.shape == (7, features) and out.dtype == jnp.float32
    hidden = (features + 1) * width + (depth - 1) * (width + 1) * width
    assert count_parameters(params) == hidden + depth * (width + 1) * width + (width + 1) * features
    assert not np.allclose(out, net.apply(params, x, jnp.arange(7.0) + 100))
    grads = jax.grad(lambda p: net.apply(p, x, jnp.arange(7.0)).sum())(params)
    assert all(np.abs(grad).max() > 0 for grad in grads.values())


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned", "learned_range"])
def test_learned_variances_double_the_output(variance):
    diffusion = DiffusionConfig(variance=variance)
    images = build_network(
        Config(data=DataConfig(channels=1), model=ONE_LEVEL, diffusion=diffusion)
    )
    points = build_network(
        Config(
            data=DataConfig(name="s_curve"),
            model=ModelConfig(kind="mlp", channels=16),
            diffusion=diffusion,
        )
    )
    times = 2 if "learned" in variance else 1
    assert images.abstract["out_conv.kernel"].shape[-1] == times
    assert points.abstract["out.kernel"].shape == (16, 2 * times)


def test_network_of_a_run_fits_its_data():
    images = build_network(Config(data=DataConfig(channels=1), model=TINY))
    assert images.abstract["input_blocks.0.0.kernel"].shape == (3, 3, 1, 8)
    points = build_network(
        Config(data=DataConfig(name="s_curve"), model=ModelConfig(kind="mlp", channels=16))
    )
    assert points.abstract["out.kernel"].shape == (16, 2)
