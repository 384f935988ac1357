"""What training carries from step to step, and its optimizer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config import Config, TrainConfig
from ddpm_jax.diffusion.timesteps import LossHistory, empty_history, follows_loss
from ddpm_jax.models import Network, Params


class TrainState(NamedTuple):
    """Everything that one training step reads and writes."""

    step: jax.Array  # int32, steps done
    params: Params
    ema: Params  # running average of params
    opt_state: optax.OptState
    skipped: jax.Array  # int32, non-finite steps in a row up to now
    loss_history: LossHistory | None  # for the timestep sampler loss_second_moment
    extra_ema: dict[str, Params]  # further averages, by their decay


def init_state(
    params: Params, optimizer: optax.GradientTransformation, config: Config
) -> TrainState:
    """The state before the first step; the averages start at the parameters."""

    def copy() -> Params:
        return jax.tree.map(jnp.copy, params)  # the state is donated, so no two may share a buffer

    zero = jnp.zeros((), jnp.int32)
    follows = follows_loss(config.diffusion.timestep_sampler)
    history = empty_history(config.diffusion.timesteps) if follows else None
    extra = {str(decay): copy() for decay in config.train.extra_ema_decays}
    return TrainState(zero, params, copy(), optimizer.init(params), zero.copy(), history, extra)


def new_state(
    config: Config, network: Network, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step, with the random parameters of the config's seed."""
    return init_state(network.init(jax.random.key(config.train.seed)), optimizer, config)


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Step -> learning rate: a linear warm-up, then constant or falling to 0 at the end.

    The linear fall begins with the third step, as in ADM's code: the first two use the whole rate.
    """

    def schedule(step: jax.Array) -> jax.Array:
        warmup = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        steps = max(config.steps, 1)
        decay: jax.Array | float
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


def ema_decay(step: jax.Array, decay: float, warmup: bool) -> jax.Array:
    """`decay`; with `warmup` at most (1 + step) / (10 + step).

    The warm-up makes the average forget its random start.
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step) if warmup else 1.0)


def averaged(
    state: TrainState, params: Params, config: TrainConfig
) -> tuple[Params, dict[str, Params]]:
    """`ema` and `extra_ema` of `state`, moved one step towards `params`."""

    def towards_params(ema: Params, decay: float) -> Params:
        kept = ema_decay(state.step, decay, config.ema_warmup)
        return jax.tree.map(lambda a, p: a * kept + p * (1 - kept), ema, params)

    extra = {decay: towards_params(ema, float(decay)) for decay, ema in state.extra_ema.items()}
    return towards_params(state.ema, config.ema_decay), extra


def apply_gradient(
    state: TrainState, grads: Params, optimizer: optax.GradientTransformation, config: TrainConfig
) -> TrainState:
    """The parameters after one update by the optimizer, and their averages."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema, extra_ema = averaged(state, params, config)
    return state._replace(
        params=params,
        ema=ema,
        opt_state=opt_state,
        skipped=jnp.zeros_like(state.skipped),
        extra_ema=extra_ema,
    )
