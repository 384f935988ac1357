"""Whole networks: their size, their symmetries, and what they do at the start of training."""

import json
from collections import Counter
from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddpm_jax.config import Config, DataConfig, ModelConfig
from ddpm_jax.models import build_network, count_parameters, functional
from ddpm_jax.models.mlp import MLP
from ddpm_jax.models.unet import UNet
from tests.parity.golden import FOLDER

PUBLISHED = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("official/*.json")}
# The classifiers are encoders, not U-Nets.
PUBLISHED = {name: m for name, m in sorted(PUBLISHED.items()) if m["kind"] != "classifier"}
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


def random_params(net):
    """Every parameter random, so that no layer is zero; by numpy, which has nothing to compile."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        value = rng.normal(size=shape) / np.sqrt(prod(shape[:-1]))
        return jnp.asarray(1 + 0.1 * value if name.endswith(".scale") else value, jnp.float32)

    return {name: draw(name, leaf.shape) for name, leaf in net.abstract.items()}


@pytest.fixture(scope="module")
def tiny():
    net = network(TINY)
    return net, random_params(net)


def official_config(model):
    """The published flags of a diffusion model as our settings, and the side of its images."""
    args = model["args"]
    image_size = args.get("large_size", args.get("image_size"))
    config = ModelConfig(
        channels=args["num_channels"],
        channel_mult=tuple(model["channel_mult"]),
        num_res_blocks=args["num_res_blocks"],
        attention_resolutions=tuple(image_size // ds for ds in model["attention_ds"]),
        num_heads=args["num_heads"],
        num_head_channels=max(args.get("num_head_channels", 0), 0),
        num_classes=1000 if args["class_cond"] else 0,
        dropout=args["dropout"],
        scale_shift_norm=args["use_scale_shift_norm"],
        resblock_updown=args.get("resblock_updown", False),
        attention_order="new" if args.get("use_new_attention_order") else "legacy",
    )
    return config, image_size


def test_ddpm_for_cifar_10_has_the_parameters_of_ho_et_al():
    net = build_network(Config(data=DataConfig(name="tfds:cifar10", image_size=32, channels=3)))
    assert count_parameters(net.abstract) == 35_746_307


@pytest.mark.parametrize("model", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_models_have_the_tensors_of_their_checkpoints(model):
    config, image_size = official_config(model)
    out_channels = 6 if model["args"]["learn_sigma"] else 3
    net = network(config, image_size, model["in_channels"], out_channels)
    assert count_parameters(net.abstract) == model["param_count"]
    shapes = model["state_dict"]
    shapes = shapes.values() if isinstance(shapes, dict) else [shape for _, shape in shapes]
    assert Counter(leaf.size for leaf in net.abstract.values()) == Counter(map(prod, shapes))


@pytest.mark.parametrize(
    "change",
    [
        {"resblock_updown": True},
        {"rescale_residual": True, "scale_shift_norm": False, "resample_with_conv": False},
        {"attention_resolutions": (8, 4), "num_head_channels": 4, "attention_order": "new"},
        {"channel_mult": (0.5, 1, 2), "num_res_blocks": 2},
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
        functional(lambda rngs: nnx.Dropout(0.1, rngs=rngs))


@pytest.mark.parametrize("features, width, depth", [(2, 16, 3), (5, 32, 1)])
def test_mlp_maps_points_to_points(features, width, depth):
    config = ModelConfig(kind="mlp", channels=width, num_res_blocks=depth)
    net = functional(lambda rngs: MLP(config, features, rngs))
    params = net.init(KEY)
    x = jax.random.normal(KEY, (7, features))
    out = net.apply(params, x, jnp.arange(7.0))
    assert out.shape == (7, features) and out.dtype == jnp.float32
    hidden = (features + 1) * width + (depth - 1) * (width + 1) * width
    assert count_parameters(params) == hidden + depth * (width + 1) * width + (width + 1) * features
    assert not np.allclose(out, net.apply(params, x, jnp.arange(7.0) + 100))
    grads = jax.grad(lambda p: net.apply(p, x, jnp.arange(7.0)).sum())(params)
    assert all(np.abs(grad).max() > 0 for grad in grads.values())


def test_network_of_a_run_fits_its_data():
    images = build_network(Config(data=DataConfig(channels=1), model=TINY))
    assert images.abstract["input_blocks.0.0.kernel"].shape == (3, 3, 1, 8)
    points = build_network(
        Config(data=DataConfig(name="s_curve"), model=ModelConfig(kind="mlp", channels=16))
    )
    assert points.abstract["out.kernel"].shape == (16, 2)
