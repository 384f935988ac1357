"""How the timesteps of a batch are drawn, and what is learned from their losses.

t: int32 [B], indices 0..T-1 into the schedule.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

TimestepSampler = Literal["uniform", "antithetic", "stratified", "loss_second_moment"]


def sample_timesteps(
    key: jax.Array, batch_size: int, num_timesteps: int, kind: TimestepSampler = "uniform"
) -> jax.Array:
    """t: int32 [B]; each of its entries alone is uniform on 0..T-1.

    "uniform": independent. "antithetic": the second half of the batch holds T-1-t for each t of the
    first. "stratified": one t in each of B equal parts of the chain, in random order. The last two
    make the spread of t in a batch vary less. Raises ValueError for a kind that needs more than a
    key: "loss_second_moment" draws by `draw_timesteps`.
    """
    match kind:
        case "uniform":
            return jax.random.randint(key, (batch_size,), 0, num_timesteps)
        case "antithetic":
            half = jax.random.randint(key, ((batch_size + 1) // 2,), 0, num_timesteps)
            return jnp.concatenate([half, num_timesteps - 1 - half])[:batch_size]
        case "stratified":
            order_key, key = jax.random.split(key)
            part = jax.random.permutation(order_key, batch_size)
            position = (part + jax.random.uniform(key, (batch_size,))) / batch_size
            t = jnp.floor(position * num_timesteps).astype(jnp.int32)
            return jnp.minimum(t, num_timesteps - 1)  # position can round up to 1
    raise ValueError(f"unknown way to draw timesteps: {kind}")


class LossHistory(NamedTuple):
    """The last H losses of each timestep, oldest first, and how many there are yet.

    losses: float32 [T, H], 0 where there is none; counts: int32 [T], at most H.
    """

    losses: jax.Array
    counts: jax.Array


def empty_history(num_timesteps: int, length: int = 10) -> LossHistory:
    """No losses yet. Improved DDPM keeps H = 10 of each timestep."""
    return LossHistory(
        jnp.zeros((num_timesteps, length), jnp.float32), jnp.zeros(num_timesteps, jnp.int32)
    )


def update_history(history: LossHistory, t: jax.Array, losses: jax.Array) -> LossHistory:
    """The history after the pairs of t [B] and losses [B] came in, one after the other.

    Where H losses are kept already, each new one pushes out the oldest. A loss whose square is not
    finite is not recorded: it would spoil every probability until it is pushed out.
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


def second_moment_weights(history: LossHistory) -> jax.Array:
    """sqrt(E[L_t^2]), float [T], not normalised; ones until every t has H losses.

    Improved DDPM, sec. 3.3, the choice of p_t that minimises the variance of eq. 18.
    """
    full = jnp.all(history.counts == history.losses.shape[1])
    weights = jnp.sqrt(jnp.mean(jnp.square(history.losses), axis=1))
    return jnp.where(full, weights, jnp.ones_like(weights))


def timestep_probabilities(history: LossHistory, uniform_prob: float = 0.001) -> jax.Array:
    """p_t, float [T], proportional to sqrt(E[L_t^2]), mixed with `uniform_prob` of uniform.

    Thereby no timestep is never drawn, and no weight 1 / (T p_t) exceeds 1 / uniform_prob.
    """
    weights = second_moment_weights(history)
    return (1 - uniform_prob) * weights / jnp.sum(weights) + uniform_prob / len(weights)


def draw_timesteps(u: jax.Array, probabilities: jax.Array) -> tuple[jax.Array, jax.Array]:
    """t [B] by inverse CDF from u [B], uniform in [0, 1), and its importance weights 1 / (T p_t).

    Improved DDPM, eq. 18: the mean of weight * L_t over the batch is an unbiased estimate of the
    mean of L_t over all t, whatever the `probabilities` [T].
    """
    cdf = jnp.cumsum(probabilities)
    t = jnp.searchsorted(cdf / cdf[-1], u, side="right").astype(jnp.int32)
    return t, 1 / (len(probabilities) * probabilities[t])
