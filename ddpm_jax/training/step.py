"""One training step: draw t and noise, loss, gradient, optimizer, average.

The random bits of step n are a function of (seed, n) and the example's place in the global batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config import Config
from ddpm_jax.diffusion.losses import sample_timesteps, simple_loss
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.models import Network, Params
from ddpm_jax.training.state import TrainState, ema_decay, learning_rate

# Parts of the chain whose losses are told apart in the log.
QUARTERS = 4

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def to_model_range(x: jax.Array) -> jax.Array:
    """uint8 0..255 -> float32 [-1, 1]; points pass as they are."""
    return x.astype(jnp.float32) / 127.5 - 1 if x.dtype == jnp.uint8 else x


def make_train_step(
    config: Config,
    diffusion: Diffusion,
    network: Network,
    optimizer: optax.GradientTransformation,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`step(state, batch) -> (state, metrics)`, to be jitted.

    batch: {"x": uint8 [B, H, W, C] or float32 [B, D], "label": int32 [B]}. A step whose loss or
    gradient is not finite leaves all but the counters as they were.
    """
    train, num_timesteps = config.train, diffusion.schedule.num_timesteps
    parts = train.grad_accumulation_steps

    def loss_fn(params: Params, drawn: Batch, dropout_key: jax.Array) -> tuple[Any, Any]:
        key = dropout_key if config.model.dropout else None
        losses = simple_loss(
            diffusion,
            lambda x, t: network.apply(params, x, t, drawn["label"], key),
            drawn["x"],
            drawn["t"],
            drawn["noise"],
            config.diffusion.loss,
        )
        return losses.mean(), losses

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(train.seed), state.step)
        t_key, noise_key, label_key, dropout_key = jax.random.split(key, 4)
        x = to_model_range(batch["x"])
        antithetic = config.diffusion.timestep_sampler == "antithetic"
        unlabelled = jax.random.bernoulli(label_key, config.diffusion.label_dropout, (len(x),))
        drawn = {
            "x": x,
            "label": jnp.where(unlabelled, -1, batch["label"]),
            "t": sample_timesteps(t_key, len(x), num_timesteps, antithetic),
            "noise": jax.random.normal(noise_key, x.shape),
        }

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        if parts == 1:
            (loss, losses), grads = gradient(state.params, drawn, dropout_key)
        else:
            (loss, losses), grads = _accumulate(gradient, state.params, drawn, dropout_key, parts)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, train.ema_decay)
        ema = jax.tree.map(lambda a, p: a * decay + p * (1 - decay), state.ema, params)

        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        new = TrainState(state.step, params, ema, opt_state, jnp.zeros_like(state.skipped))
        old = state._replace(skipped=state.skipped + 1)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        quarter = jax.nn.one_hot(drawn["t"] * QUARTERS // num_timesteps, QUARTERS)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(train)(state.step),
            "quarter_loss": losses @ quarter,
            "quarter_count": quarter.sum(axis=0),
            "skipped": new.skipped,
        }
        return new._replace(step=state.step + 1), metrics

    return step


def _accumulate(
    gradient: Callable, params: Params, drawn: Batch, dropout_key: jax.Array, parts: int
) -> tuple[tuple[jax.Array, jax.Array], Params]:
    """Mean loss and gradient over `parts` micro-batches, one after the other.

    Example i goes to micro-batch i % parts, so that each is spread over all devices without moving
    an example.
    """
    micro = jax.tree.map(lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), drawn)

    def body(total: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, jax.Array]:
        i, examples = part
        (loss, losses), grads = gradient(params, examples, jax.random.fold_in(dropout_key, i))
        return jax.tree.map(lambda a, b: a + b / parts, total, (loss, grads)), losses

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (loss, grads), losses = jax.lax.scan(body, zero, (jnp.arange(parts), micro))
    return (loss, losses.swapaxes(0, 1).reshape(-1)), grads
