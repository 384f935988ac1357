"""Stand-ins for the parts of a training run that a test does not look at."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainConfig
from ddpm_jax.data import load_source
from ddpm_jax.runtime import devices
from ddpm_jax.training.loop import Run
from ddpm_jax.training.state import TrainState


def metrics_of(loss: float = 1.0, skipped: int = 0, step: int = 0) -> dict:
    return {
        "step": jnp.asarray(step),
        "nonfinite_t": jnp.array([-1, 17 if skipped else -1]),
        "loss": jnp.asarray(loss),
        "grad_norm": jnp.asarray(2.0),
        "learning_rate": jnp.asarray(0.1),
        "quarter_sums": {"loss": jnp.array([3.0, 0.0, 1.0, 0.0])},
        "quarter_weight": jnp.array([2.0, 0.0, 2.0, 0.0]),
        "skipped": jnp.asarray(skipped),
    }


def counting_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    """A training step that only counts itself."""
    new = state._replace(step=state.step + 1)
    return new, metrics_of(loss=float(new.step), step=int(new.step))


def counting_run(workdir: Path, evaluators: list, **settings: object) -> Run:
    """A run on points whose steps only count; `settings` are fields of the train section."""
    config = Config(
        data=DataConfig(name="s_curve"),
        model=ModelConfig(kind="mlp", num_classes=0),
        train=TrainConfig(batch_size=8, **settings),
    )
    mesh = devices.make_mesh(ParallelConfig(data=1), 8)
    source = load_source(config.data)
    return Run(config, workdir, source, mesh, counting_step, evaluators, lambda rate: {})


def first_state(step: int = 0) -> TrainState:
    zero = jnp.zeros((), jnp.int32)
    params = {"w": jax.device_put(np.ones(2, np.float32))}
    return TrainState(zero + step, params, params, (), zero, None, {})
