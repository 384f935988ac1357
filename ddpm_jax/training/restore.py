"""The state that a run starts with: the last one it saved, imported weights or random ones."""

from functools import partial
from typing import Any

import jax
import optax

from ddpm_jax.config import Config
from ddpm_jax.models import Network
from ddpm_jax.runs.checkpoints import Checkpoints
from ddpm_jax.runtime import devices
from ddpm_jax.training.state import TrainState, init_state, new_state


def restore(
    checkpoints: Checkpoints,
    config: Config,
    network: Network,
    optimizer: optax.GradientTransformation,
    sharding: Any,
) -> TrainState:
    """The state in the newest checkpoint, else one with imported weights, else a new one.

    Prints which of the first two it is. Raises UserError as `Checkpoints.restore`.
    """
    new = partial(new_state, config, network, optimizer)
    abstract = devices.abstract_on(jax.eval_shape(new), sharding)
    if (state := checkpoints.restore(abstract)) is not None:
        print(f"resumed after step {int(state.step)}")
        return state
    if (weights := checkpoints.restore_imported(abstract.params)) is not None:
        print("starts from imported weights")
        start = partial(init_state, optimizer=optimizer, config=config)
        return jax.jit(start, out_shardings=sharding, donate_argnums=0)(weights)
    return jax.jit(new, out_shardings=sharding)()
