"""The training step: what it computes, on how many devices, and what it compiles and donates."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    ParallelConfig,
    TrainConfig,
    build_diffusion,
)
from ddpm_jax.data.model_range import to_model_range
from ddpm_jax.models import Network, build_network
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runtime import devices
from ddpm_jax.training.state import TrainState, ema_decay, init_state, learning_rate, make_optimizer
from ddpm_jax.training.step import make_train_step, nonfinite_timesteps, one_of
from tests.models.helpers import random_params

CONFIG = Config(
    data=DataConfig(name="digits", image_size=8, channels=1),
    model=ModelConfig(
        channels=8,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        num_classes=10,
        dropout=0.1,
        scale_shift_norm=True,
        norm_groups=4,
    ),
    diffusion=DiffusionConfig(timesteps=40, schedule="cosine", label_dropout=0.1),
    train=TrainConfig(batch_size=16, learning_rate=1e-3, ema_decay=0.9),
)

compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: (
        compilations.append(event)
        if event == "/jax/core/compile/backend_compile_duration"
        else None
    )
)


def batch_of(step: int, size: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "x": rng.integers(0, 256, (size, 8, 8, 1), np.uint8),
        "label": rng.integers(0, 10, size).astype(np.int32),
    }


def build(
    config: Config,
    mesh: jax.sharding.Mesh,
    network: Network | None = None,
    optimizer: optax.GradientTransformation | None = None,
):
    """The initial state and the step of a run, as train.py makes them."""
    network = network or build_network(config)
    optimizer = optimizer or make_optimizer(config.train)

    def initial() -> TrainState:
        params = network.init(jax.random.key(config.train.seed))
        return init_state(params, optimizer, config)

    sharding = devices.state_sharding(jax.eval_shape(initial), mesh)
    step = make_train_step(config, build_diffusion(config.diffusion), network, optimizer)
    return jax.jit(initial, out_shardings=sharding)(), devices.pmapped(step, mesh, sharding)


def train(
    config: Config, mesh: jax.sharding.Mesh, steps: int, size: int = 16
) -> tuple[TrainState, list[float]]:
    state, step = build(config, mesh)
    losses = []
    for n in range(steps):
        state, metrics = step(state, devices.shard_local_batch(batch_of(n, size), mesh))
        losses.append(float(metrics["loss"]))
    return state, losses


def mesh_of(count: int) -> jax.sharding.Mesh:
    return devices.make_mesh(ParallelConfig(data=count), 16)


@pytest.fixture(scope="module")
def alone() -> tuple[TrainState, list[float]]:
    return train(CONFIG, mesh_of(1), 100)


@pytest.mark.slow  # of a perceptron: runtime/test_processes.py; of pmap: test_devices.py
@pytest.mark.parametrize("count", [2, 8])
def test_the_number_of_devices_changes_nothing_but_rounding(alone, count):
    state, losses = train(CONFIG, mesh_of(count), 100)
    np.testing.assert_allclose(losses, alone[1], rtol=1e-5)
    for name, value in alone[0].params.items():
        # The keys' biases have no gradient but rounding errors, of which Adam makes whole steps.
        atol = 1e-3 if name.endswith("qkv.bias") else 2e-5
        np.testing.assert_allclose(state.params[name], value, atol=atol, err_msg=name)


def test_nothing_compiles_after_the_first_step_and_the_state_is_donated():
    mesh = mesh_of(2)
    state, step = build(CONFIG, mesh)
    old = state
    state, metrics = step(state, devices.shard_local_batch(batch_of(0), mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    jax.block_until_ready(metrics)
    assert compilations  # the listener hears of them
    compilations.clear()
    for n in range(1, 4):
        state, metrics = step(state, devices.shard_local_batch(batch_of(n), mesh))
    jax.block_until_ready(state)
    assert not compilations


def test_the_loss_is_the_mean_over_the_quarters_of_the_chain():
    mesh = mesh_of(1)
    state, step = build(CONFIG, mesh)
    _, metrics = step(state, devices.shard_local_batch(batch_of(0), mesh))
    assert metrics["quarter_weight"].sum() == 16
    total = metrics["quarter_sums"]["loss"].sum()
    np.testing.assert_allclose(total / 16, metrics["loss"], rtol=1e-6)
    # The last layer starts at zero, so that the first loss is that of predicting no noise at all.
    assert abs(float(metrics["loss"]) - 1) < 0.2


@pytest.mark.slow  # half a minute; golden steps of training have micro-batches too
def test_four_micro_batches_of_32_have_the_gradient_of_one_batch_of_128():
    network, mesh = build_network(CONFIG), mesh_of(2)
    batch = devices.shard_local_batch(batch_of(0, 128), mesh)
    found = []
    for micro_batches in (1, 4):
        # Dropout draws its mask for each micro-batch, so it is off here.
        model = dataclasses.replace(CONFIG.model, dropout=0.0)
        settings = dataclasses.replace(
            CONFIG.train, batch_size=128, grad_accumulation_steps=micro_batches
        )
        config = dataclasses.replace(CONFIG, model=model, train=settings)
        # This one keeps the last gradient as its state. The weights are random, for those of the
        # start have no gradient but in the last layer.
        state, step = build(config, mesh, network, optax.trace(decay=0.0))
        params = jax.device_put(random_params(network), devices.replicated(mesh))
        state, metrics = step(state._replace(params=params), batch)
        found.append((state.opt_state.trace, metrics))
    (whole, whole_metrics), (accumulated, metrics) = found
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(metrics[name], whole_metrics[name], rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in whole.values())
    assert min(np.abs(leaf).max() for leaf in whole.values()) > 1e-5 * largest
    for name, value in whole.items():
        np.testing.assert_allclose(
            accumulated[name], value, rtol=0, atol=1e-5 * largest, err_msg=name
        )


def linear_network() -> Network:
    """x -> w * x: a network small enough to follow by hand."""
    return Network(
        init=lambda key: {"w": jnp.zeros(())},
        apply=lambda params, x, t, labels, key: params["w"] * x,
        abstract={"w": jax.ShapeDtypeStruct((), jnp.float32)},
    )


def test_a_non_finite_step_is_skipped_and_counted():
    def apply(params, x, t, labels, key):
        return params["w"] * x + jnp.where(labels[:, None, None, None] == 9, jnp.nan, 0.0)

    mesh = mesh_of(1)
    config = dataclasses.replace(CONFIG, diffusion=DiffusionConfig(timesteps=40))
    state, step = build(config, mesh, linear_network()._replace(apply=apply))
    before = jax.device_get(state)
    bad = batch_of(0) | {"label": np.full(16, 9, np.int32)}
    for count in (1, 2):
        state, metrics = step(state, devices.shard_local_batch(bad, mesh))
        assert metrics["skipped"] == count and state.step == count
    assert sha256(state.params) == sha256(before.params)
    assert sha256(state.opt_state) == sha256(before.opt_state)
    good = batch_of(0) | {"label": np.zeros(16, np.int32)}
    state, metrics = step(state, devices.shard_local_batch(good, mesh))
    assert metrics["skipped"] == 0 and state.params["w"] != before.params["w"]


def test_the_examples_of_a_nonfinite_step_are_named_by_their_t():
    t, good = jnp.array([5, 7, 9]), jnp.ones(3)
    bad = jnp.array([1.0, jnp.inf, jnp.nan])
    assert nonfinite_timesteps(t, bad, jnp.asarray(False)).tolist() == [-1, 7, 9]
    # Only the gradient is not finite: it may be any of them.
    assert nonfinite_timesteps(t, good, jnp.asarray(False)).tolist() == [5, 7, 9]
    assert nonfinite_timesteps(t, good, jnp.asarray(True)).tolist() == [-1, -1, -1]


def test_each_average_follows_its_decay_and_warms_up():
    mesh = mesh_of(1)
    train = dataclasses.replace(CONFIG.train, extra_ema_decays=(0.5, 0.7))
    state, step = build(dataclasses.replace(CONFIG, train=train), mesh, linear_network())
    wanted = {0.9: 0.0, 0.5: 0.0, 0.7: 0.0}
    for n in range(30):
        state, _ = step(state, devices.shard_local_batch(batch_of(n), mesh))
        for decay, ema in wanted.items():
            kept = min(decay, (1 + n) / (10 + n))
            wanted[decay] = kept * ema + (1 - kept) * float(state.params["w"])
    assert len({round(ema, 6) for ema in wanted.values()}) == 3
    np.testing.assert_allclose(state.ema["w"], wanted.pop(0.9), rtol=1e-5)
    for decay, ema in wanted.items():
        np.testing.assert_allclose(state.extra_ema[str(decay)]["w"], ema, rtol=1e-5)
    assert ema_decay(jnp.asarray(0), 0.9999, warmup=True) == pytest.approx(0.1)
    assert ema_decay(jnp.asarray(10**6), 0.9999, warmup=True) == pytest.approx(0.9999)
    assert ema_decay(jnp.asarray(0), 0.9999, warmup=False) == pytest.approx(0.9999)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [0.5, 1, 1, 1]),
        ("linear", [0.5, 1, 0.6, 0.2]),
        ("cosine", [0.5, None, 0.5, None]),
    ],
)
def test_the_learning_rate_warms_up_and_decays(decay, expected):
    schedule = learning_rate(
        TrainConfig(steps=10, warmup_steps=2, learning_rate=1.0, learning_rate_decay=decay)
    )
    for step, value in zip([0, 1, 5, 9], expected, strict=True):
        if value is not None:
            assert float(schedule(step)) == pytest.approx(value, abs=1e-6)
    assert decay == "constant" or float(schedule(11)) == pytest.approx(0, abs=1e-6)


def test_the_optimizer_is_adam_after_clipping_by_the_global_norm():
    config = TrainConfig(learning_rate=0.1, gradient_clip_norm=1.0)
    grads = {"a": jnp.array([30.0, 40.0]), "b": jnp.array(0.0)}
    params = jax.tree.map(jnp.zeros_like, grads)
    ours = make_optimizer(config)
    updates, _ = ours.update(grads, ours.init(params), params)
    adam = optax.adam(0.1)
    clipped = {"a": jnp.array([0.6, 0.8]), "b": jnp.array(0.0)}
    expected, _ = adam.update(clipped, adam.init(params), params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), updates, expected)


def test_pixels_map_to_model_range():
    x = to_model_range(jnp.array([0, 255], jnp.uint8))
    np.testing.assert_array_equal(x, [-1.0, 1.0])
    points = jnp.array([0.1, -0.2])
    assert to_model_range(points) is points


def test_a_digest_tells_values_names_and_types_apart():
    a = {"x": np.zeros(2, np.float32)}
    assert sha256(a) == sha256({"x": jnp.zeros(2)})
    others = [{"y": a["x"]}, {"x": np.zeros(2, np.int32)}, {"x": np.ones(2, np.float32)}]
    assert len({sha256(tree) for tree in [a, *others]}) == 4


@pytest.mark.parametrize(("platform", "branches"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_a_skipped_update_is_a_branch_on_cpu_and_a_choice_where_that_would_wait(platform, branches):
    def chosen(flag: jax.Array, x: jax.Array) -> jax.Array:
        return one_of(flag, jnp.exp, jnp.sin, x)

    x = jnp.arange(4.0)
    for flag, function in ((True, jnp.exp), (False, jnp.sin)):
        np.testing.assert_array_equal(jax.jit(chosen)(flag, x), function(x))
    lowered = jax.jit(chosen).trace(True, x).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.select" in lowered) != branches
