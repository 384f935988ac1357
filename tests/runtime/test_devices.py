"""One step, four ways over eight devices: `jax.pmap`, ours, `jax.shard_map`, and FSDP."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    ParallelConfig,
    TrainConfig,
    build_diffusion,
    command_line,
)
from ddpm_jax.errors import UserError
from ddpm_jax.models import build_network, layers
from ddpm_jax.runtime import devices
from ddpm_jax.training.objectives import make_objective
from ddpm_jax.training.state import TrainState, init_state, make_optimizer
from ddpm_jax.training.step import draw_examples, make_train_step, make_update

ROOT = Path(__file__).resolve().parents[2]
DEVICES, BATCH, STEPS = 8, 16, 15
# All that a step may do: dropout, clipping, a learned variance, labels that are dropped.
CONFIG = Config(
    data=DataConfig(name="digits", image_size=8, channels=1),
    model=ModelConfig(
        channels=16,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        num_classes=10,
        dropout=0.1,
        scale_shift_norm=True,
        norm_groups=4,
    ),
    diffusion=DiffusionConfig(
        timesteps=40,
        schedule="cosine",
        variance="learned_range",
        loss="rescaled_mse",
        label_dropout=0.1,
    ),
    train=TrainConfig(batch_size=BATCH, gradient_clip_norm=0.5, ema_decay=0.9),
)
NETWORK, DIFFUSION = build_network(CONFIG), build_diffusion(CONFIG.diffusion)
Step = Callable[[TrainState, dict], tuple[TrainState, dict]]


def batch_of(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "x": rng.integers(0, 256, (BATCH, 8, 8, 1), np.uint8),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
    }


def initial() -> TrainState:
    optimizer = make_optimizer(CONFIG.train)
    return init_state(NETWORK.init(jax.random.key(0)), optimizer, CONFIG)


def ours(fsdp: int) -> tuple[TrainState, Step]:
    """The state and the step as train.py makes them."""
    mesh = devices.make_mesh(ParallelConfig(data=DEVICES // fsdp, fsdp=fsdp), BATCH)
    sharding = devices.state_sharding(jax.eval_shape(initial), mesh)
    step = make_train_step(CONFIG, DIFFUSION, NETWORK, make_optimizer(CONFIG.train))
    run = devices.pmapped(step, mesh, sharding)
    return jax.jit(initial, out_shardings=sharding)(), lambda state, batch: run(
        state, devices.shard_local_batch(batch, mesh)
    )


def device_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    """The step of one device of the axis "device": its slice of all draws, and the mean gradient.

    `batch` is the whole one. The mean is taken by the optimizer, which is the first to see the
    gradient.
    """
    here = jax.lax.axis_index("device") * (BATCH // DEVICES)

    def mine(array: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(array, here, BATCH // DEVICES)

    whole_dropout = layers.dropout

    def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
        return x * mine(whole_dropout(jax.numpy.ones((BATCH, *x.shape[1:])), rate, key))

    adam = make_optimizer(CONFIG.train)

    def update_by_mean(grads: dict, *args: object) -> tuple[dict, optax.OptState]:
        return adam.update(jax.lax.pmean(grads, "device"), *args)

    timesteps = DIFFUSION.schedule.num_timesteps
    objective = make_objective(CONFIG, DIFFUSION, NETWORK)
    optimizer = optax.GradientTransformation(adam.init, update_by_mean)
    update = make_update(CONFIG, timesteps, objective, optimizer)
    key = jax.random.fold_in(jax.random.key(CONFIG.train.seed), state.step)
    *keys, dropout_key = jax.random.split(key, 4)
    examples = draw_examples(CONFIG, timesteps, state, batch, keys)
    with pytest.MonkeyPatch.context() as patch:  # while the step is traced
        patch.setattr(layers, "dropout", dropout)
        state, metrics = update(state, jax.tree.map(mine, examples), dropout_key)
    return state, {"loss": jax.lax.pmean(metrics["loss"], "device")}


def real_pmap() -> tuple[TrainState, Step]:
    def step(state: TrainState, batch: dict, device: jax.Array) -> tuple[TrainState, dict]:
        return device_step(state, batch)

    mapped = jax.pmap(step, "device", in_axes=(None, None, 0), out_axes=None)
    return jax.jit(initial)(), lambda state, batch: mapped(state, batch, np.arange(DEVICES))


def shard_mapped() -> tuple[TrainState, Step]:
    """With `check_vma` the gradient of replicated parameters would come summed over the devices."""
    mesh, whole = Mesh(np.array(jax.devices()), ("device",)), PartitionSpec()
    return jax.jit(initial)(), jax.jit(
        jax.shard_map(device_step, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
    )


def trained(state: TrainState, step: Step) -> tuple[TrainState, list[float]]:
    losses = []
    for n in range(STEPS):
        state, metrics = step(state, batch_of(n))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def pmapped() -> tuple[TrainState, list[float]]:
    return trained(*ours(fsdp=1))


@pytest.mark.parametrize(
    ("way", "split"),
    [
        pytest.param(real_pmap, False, id="pmap"),
        pytest.param(shard_mapped, False, id="shard_map"),
        pytest.param(partial(ours, fsdp=DEVICES), True, id="fsdp"),
    ],
)
@pytest.mark.slow  # on every run: one and eight devices, and two processes, in test_processes.py
def test_ours_is_the_same_step_in_other_ways(way, split, pmapped, monkeypatch):
    monkeypatch.setattr(devices, "MIN_SHARDED_SIZE", 64)  # so that this small net is split at all
    state, losses = trained(*way())
    assert split == any(not leaf.is_fully_replicated for leaf in state.params.values())
    np.testing.assert_allclose(losses, pmapped[1], rtol=1e-6)
    for part in ("params", "ema", "opt_state"):
        ours_, theirs = (jax.tree.leaves(getattr(each, part)) for each in (pmapped[0], state))
        for a, b in zip(ours_, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_fsdp_leaves_a_device_a_seventh_of_a_published_models_state():
    """Of eight devices, without making an array."""
    config = command_line.load_config(ROOT / "configs" / "imagenet64_adm.py")
    network, optimizer = build_network(config), make_optimizer(config.train)
    abstract = jax.eval_shape(
        lambda: init_state(network.init(jax.random.key(0)), optimizer, config)
    )
    mesh = devices.make_mesh(ParallelConfig(fsdp=DEVICES), config.train.batch_size)
    on_mesh = devices.abstract_on(abstract, devices.state_sharding(abstract, mesh))

    def on_a_device(leaf: jax.ShapeDtypeStruct) -> int:
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    leaves = jax.tree.leaves(on_mesh)
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert whole > 4 * 4 * 295e6  # parameters, their average, and two moments, in float32
    assert sum(map(on_a_device, leaves)) <= whole / 7


@pytest.mark.parametrize(
    ("batch", "data", "fsdp", "size"), [(16, 0, 1, 8), (12, 0, 2, 6), (7, 0, 1, 7)]
)
def test_the_mesh_takes_as_many_devices_as_divide_the_batch(batch, data, fsdp, size):
    mesh = devices.make_mesh(ParallelConfig(data=data, fsdp=fsdp), batch)
    assert mesh.devices.shape == (size // fsdp, fsdp)


@pytest.mark.parametrize(("batch", "data", "fsdp"), [(16, 9, 1), (16, 3, 1), (16, 0, 9), (6, 2, 2)])
def test_a_mesh_that_cannot_be_is_refused(batch, data, fsdp):
    with pytest.raises(UserError, match="devices"):
        devices.make_mesh(ParallelConfig(data=data, fsdp=fsdp), batch)


@pytest.mark.parametrize(
    ("cores", "training", "chosen", "devices"),
    [
        (2, "", "", 2),
        (64, "", "", 8),
        (2, "ParallelConfig(), 128", "", 2),
        (8, "ParallelConfig(), 16", "", 4),
        (2, "ParallelConfig(), 2", "", 1),
        (2, "ParallelConfig(data=2), 2", "", 2),
        (2, "ParallelConfig(), 2", "3", 3),
    ],
)
def test_a_cpu_has_a_device_a_core_unless_each_has_few_examples(cores, training, chosen, devices):
    program = (
        f"import os; os.sched_getaffinity = lambda _: range({cores})\n"
        "import jax\nfrom ddpm_jax.config import ParallelConfig\n"
        "from ddpm_jax.runtime import devices\n"
        f"devices.use_every_core({training})\nprint(jax.device_count())"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    env |= {"JAX_NUM_CPU_DEVICES": chosen} if chosen else {}
    found = subprocess.check_output([sys.executable, "-c", program], env=env, text=True)
    assert int(found) == devices
