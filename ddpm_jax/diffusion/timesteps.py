"""How the timesteps of a batch are drawn, and what is learned from their losses.

t are indices 0..T-1 into the schedule.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.diffusion.tables import look_up


class LossHistory(NamedTuple):
    """The last H losses of each timestep, oldest first, and how many there are yet.

    A loss that is not there yet is 0; counts are at most H.
    """

    losses: Float[Array, "T H"]
    counts: Int[Array, " T"]


def empty_history(num_timesteps: int, length: int = 10) -> LossHistory:
    """No losses yet. Improved DDPM keeps H = 10 of each timestep."""
    return LossHistory(
        jnp.zeros((num_timesteps, length), jnp.float32), jnp.zeros(num_timesteps, jnp.int32)
    )


def update_history(
    history: LossHistory, t: Int[Array, " batch"], losses: Float[Array, " batch"]
) -> LossHistory:
    """The history with the pairs of t and losses appended, one after the other.

    Where H losses are kept already, each new one replaces the oldest. A loss whose square is not
    finite is not recorded: it would spoil every probability until it is replaced.
    """
    num_timesteps, length = history.losses.shape
    usable = jnp.isfinite(jnp.square(losses) * length)
    t = jnp.where(usable, t, num_timesteps)  # out of bounds, where scatters drop
    order = jnp.argsort(t)  # stable: equal t stay in the order they came in
    t, losses = t[order], losses[order].astype(history.losses.dtype)
    rank = jnp.arange(len(t)) - jnp.searchsorted(t, t)  # among those of the same t

    total = history.counts.at[t].add(1, mode="drop")
    pushed = jnp.maximum(total - length, 0)  # how many of the oldest go, of each t
    source = jnp.arange(length) + pushed[:, None]
    kept = jnp.take_along_axis(history.losses, source, axis=1, mode="fill", fill_value=0)
    slot = (history.counts - pushed).at[t].get(mode="fill", fill_value=length) + rank
    # Pushed out by later ones of the same batch: out of bounds, where a negative slot is not.
    slot = jnp.where(slot < 0, length, slot)
    return LossHistory(kept.at[t, slot].set(losses, mode="drop"), total - pushed)


def second_moment_weights(history: LossHistory) -> Float[Array, " T"]:
    """sqrt(E[L_t^2]), not normalised; ones until every t has H losses.

    Improved DDPM, sec. 3.3, the choice of p_t that minimises the variance of eq. 18.
    """
    full = jnp.all(history.counts == history.losses.shape[1])
    weights = jnp.sqrt(jnp.mean(jnp.square(history.losses), axis=1))
    return jnp.where(full, weights, jnp.ones_like(weights))


def timestep_probabilities(history: LossHistory, uniform_prob: float = 0.001) -> Float[Array, " T"]:
    """p_t, proportional to sqrt(E[L_t^2]), mixed with `uniform_prob` of uniform.

    So every timestep is drawn sometimes, and no weight 1 / (T p_t) exceeds 1 / uniform_prob.
    """
    weights = second_moment_weights(history)
    return (1 - uniform_prob) * weights / jnp.sum(weights) + uniform_prob / len(weights)


def draw_timesteps(
    u: Float[Array, " batch"], probabilities: Float[Array, " T"]
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """t by inverse CDF from u, uniform in [0, 1), and its importance weights 1 / (T p_t).

    Improved DDPM, eq. 18: the mean of weight * L_t over the batch is an unbiased estimate of the
    mean of L_t over all t, whatever the probabilities.
    """
    cdf = jnp.cumsum(probabilities)
    t = jnp.searchsorted(cdf / cdf[-1], u, side="right").astype(jnp.int32)
    return t, 1 / (len(probabilities) * probabilities[t])


def uniform(key: jax.Array, batch_size: int, num_timesteps: int) -> Int[Array, " batch"]:
    """Independent, and uniform on 0..T-1."""
    return jax.random.randint(key, (batch_size,), 0, num_timesteps)


def antithetic(key: jax.Array, batch_size: int, num_timesteps: int) -> Int[Array, " batch"]:
    """Uniform; the second half of the batch holds T-1-t for each t of the first."""
    half = uniform(key, (batch_size + 1) // 2, num_timesteps)
    return jnp.concatenate([half, num_timesteps - 1 - half])[:batch_size]


def stratified(key: jax.Array, batch_size: int, num_timesteps: int) -> Int[Array, " batch"]:
    """Uniform; one t in each of B equal parts of the chain, in random order."""
    order_key, key = jax.random.split(key)
    part = jax.random.permutation(order_key, batch_size)
    position = (part + jax.random.uniform(key, (batch_size,))) / batch_size
    t = jnp.floor(position * num_timesteps).astype(jnp.int32)
    return jnp.minimum(t, num_timesteps - 1)  # position can round up to 1


# name -> draw(key, batch_size, num_timesteps) -> t, each entry of which is uniform on 0..T-1. None:
# by the losses so far (Improved DDPM, sec. 3.3), which `draw_batch_timesteps` looks up.
TIMESTEP_SAMPLERS: dict[str, Callable[[jax.Array, int, int], Array] | None] = {
    "uniform": uniform,
    "antithetic": antithetic,
    "stratified": stratified,
    "loss_second_moment": None,
}


def follows_loss(name: str) -> bool:
    """True if the sampler of that name draws by a LossHistory."""
    return TIMESTEP_SAMPLERS[name] is None


def draw_batch_timesteps(
    name: str, key: jax.Array, batch_size: int, num_timesteps: int, history: LossHistory | None
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """t of a batch by TIMESTEP_SAMPLERS[name], and the weight of each in the mean of the losses.

    `history` is needed where `follows_loss(name)`. Raises ValueError for an unknown name.
    """
    draw = look_up(TIMESTEP_SAMPLERS, name, "way to draw timesteps")
    if draw is not None:
        return draw(key, batch_size, num_timesteps), jnp.ones(batch_size)
    if history is None:
        raise ValueError(f"{name} draws timesteps by a history of losses: give one")
    return draw_timesteps(jax.random.uniform(key, (batch_size,)), timestep_probabilities(history))
