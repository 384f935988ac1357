"""What training carries from step to step, its optimizer, and a digest that tells runs apart."""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax.config import DiffusionConfig, TrainConfig
from ddpm_jax.diffusion.timesteps import LossHistory, empty_history
from ddpm_jax.models import Params
from ddpm_jax.parallel import to_host


class TrainState(NamedTuple):
    """Everything that one training step reads and writes."""

    step: jax.Array  # int32, steps done
    params: Params
    ema: Params  # running average of params
    opt_state: optax.OptState
    skipped: jax.Array  # int32, non-finite steps in a row until now
    loss_history: LossHistory | None  # of the sampler of t that follows the loss


def init_state(
    params: Params, optimizer: optax.GradientTransformation, diffusion: DiffusionConfig
) -> TrainState:
    """The state before the first step; the average starts at the parameters."""
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, params)  # a buffer of its own, for the state is donated
    follows = diffusion.timestep_sampler == "loss_second_moment"
    history = empty_history(diffusion.timesteps) if follows else None
    return TrainState(zero, params, ema, optimizer.init(params), zero.copy(), history)


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Step -> learning rate: a linear warm-up, then constant or falling to 0 at the end.

    The linear fall begins with the third step, as in ADM's code: the first two use the whole rate.
    """

    def schedule(step: jax.Array) -> jax.Array:
        warmup = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        steps = max(config.steps, 1)
        match config.learning_rate_decay:
            case "linear":
                decay = 1 - jnp.clip((step - 1) / steps, 0.0, 1.0)
            case "cosine":
                decay = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(step / steps, 0.0, 1.0)))
            case _:
                decay = 1.0
        return config.learning_rate * warmup * decay

    return schedule


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam, its weight decay decoupled, after clipping by the global norm."""
    adam = optax.adamw(
        learning_rate(config), config.adam_b1, config.adam_b2, weight_decay=config.weight_decay
    )
    if not config.gradient_clip_norm:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.gradient_clip_norm), adam)


def ema_decay(step: jax.Array, config: TrainConfig) -> jax.Array:
    """`ema_decay`, at first (1 + step) / (10 + step) so that the average forgets its start."""
    warmup = (1.0 + step) / (10.0 + step) if config.ema_warmup else 1.0
    return jnp.minimum(config.ema_decay, warmup)


def sha256(tree: Any) -> str:
    """Digest of every array of a tree, its path, type and bytes; all processes must ask for it."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(to_host(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
