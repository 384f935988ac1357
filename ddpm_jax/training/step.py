"""One training step: draw t and noise, loss, gradient, optimizer, average.

The random bits of step n are a function of (seed, n) and the example's place in the global batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config import Config
from ddpm_jax.data.model_range import low_res_of, to_model_range
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.timesteps import (
    draw_batch_timesteps,
    update_history,
)
from ddpm_jax.models import Network, Params
from ddpm_jax.training.objectives import Examples, Objective, make_objective
from ddpm_jax.training.state import TrainState, averaged, learning_rate

# Parts of the chain whose losses are told apart in the log.
QUARTERS = 4

Batch = dict[str, jax.Array]
Metrics = dict[str, Any]


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
    num_timesteps = diffusion.schedule.num_timesteps
    objective = make_objective(config, diffusion, network)
    update = make_update(config, num_timesteps, objective, optimizer)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        *keys, dropout_key = jax.random.split(key, 4)
        examples = draw_examples(config, num_timesteps, state, batch, keys)
        return update(state, examples, dropout_key)

    return step


def draw_examples(
    config: Config, num_timesteps: int, state: TrainState, batch: Batch, keys: list[jax.Array]
) -> Examples:
    """Timesteps, noise, and what the network is told, for each image of a batch."""
    t_key, noise_key, label_key = keys
    x = to_model_range(batch["x"])
    unlabelled = jax.random.bernoulli(label_key, config.diffusion.label_dropout, (len(x),))
    sampler = config.diffusion.timestep_sampler
    t, weight = draw_batch_timesteps(sampler, t_key, len(x), num_timesteps, state.loss_history)
    examples = {
        "x": x,
        "label": jnp.where(unlabelled, -1, batch["label"]),
        "t": t,
        "weight": weight,
        "noise": jax.random.normal(noise_key, x.shape),
    }
    return examples | low_res_of(config, x)


def make_update(
    config: Config,
    num_timesteps: int,
    objective: Objective,
    optimizer: optax.GradientTransformation,
) -> Callable[[TrainState, Examples, jax.Array], tuple[TrainState, Metrics]]:
    """`update(state, examples, dropout_key) -> (state, metrics)`: all of a step but the draws."""
    train, parts = config.train, config.train.grad_accumulation_steps

    def loss_fn(params: Params, examples: Examples, dropout_key: jax.Array) -> tuple[Any, Any]:
        key = dropout_key if config.model.dropout else None
        numbers = objective(params, examples, key)
        return jnp.mean(numbers["loss"] * examples["weight"]), numbers

    def update(
        state: TrainState, examples: Examples, dropout_key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        if parts == 1:
            (loss, numbers), grads = gradient(state.params, examples, dropout_key)
        else:
            (loss, numbers), grads = _accumulate(
                gradient, state.params, examples, dropout_key, parts
            )

        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def advanced(state: TrainState, grads: Params) -> TrainState:
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            ema, extra_ema = averaged(state, params, train)
            history = state.loss_history
            if history is not None:
                history = update_history(history, examples["t"], numbers["loss"])
            none = jnp.zeros_like(state.skipped)
            return TrainState(state.step, params, ema, opt_state, none, history, extra_ema)

        def unchanged(state: TrainState, _: Params) -> TrainState:
            return state._replace(skipped=state.skipped + 1)

        new = one_of(finite, advanced, unchanged, state, grads)

        metrics = {
            **{name: jnp.mean(number * examples["weight"]) for name, number in numbers.items()},
            **by_quarter(numbers, examples, num_timesteps),
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(train)(state.step),
            "skipped": new.skipped,
            "step": state.step + 1,
            "suspect_t": nonfinite_timesteps(examples["t"], numbers["loss"], finite),
        }
        return new._replace(step=state.step + 1), metrics

    return update


def one_of(chosen: jax.Array, first: Callable, second: Callable, *inputs: Any) -> Any:
    """What `first(*inputs)` returns if `chosen`, else what `second` does; on CPU it alone is run.

    There a choice between two states copies all of the old one, and compiles 2 to 3 s longer. On a
    GPU a branch would make the host wait for `chosen`.
    """

    def branch(chosen: jax.Array, *inputs: Any) -> Any:
        return jax.lax.cond(chosen, first, second, *inputs)

    def choice(chosen: jax.Array, *inputs: Any) -> Any:
        return jax.tree.map(partial(jnp.where, chosen), first(*inputs), second(*inputs))

    return jax.lax.platform_dependent(chosen, *inputs, cpu=branch, default=choice)


def nonfinite_timesteps(t: jax.Array, loss: jax.Array, finite: jax.Array) -> jax.Array:
    """int32 [B]: t of the examples that may have spoilt a step that was not `finite`, else -1.

    Those whose loss [B] is not finite, or all if it is the gradient alone.
    """
    bad = ~jnp.isfinite(loss)
    return jnp.where(~finite & (bad | ~bad.any()), t, -1)


def by_quarter(numbers: Examples, examples: Examples, num_timesteps: int) -> Metrics:
    """Sums of the examples' `numbers` by quarter of the chain, and the weight of each quarter."""
    quarter = jax.nn.one_hot(examples["t"] * QUARTERS // num_timesteps, QUARTERS)
    quarter *= examples["weight"][:, None]
    sums = {name: number @ quarter for name, number in numbers.items()}
    return {"quarter_sums": sums, "quarter_weight": quarter.sum(axis=0)}


def _accumulate(
    gradient: Callable, params: Params, examples: Examples, dropout_key: jax.Array, parts: int
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], Params]:
    """Mean loss and gradient over `parts` micro-batches, one after the other.

    Example i goes to micro-batch i % parts, so that each is spread over all devices without moving
    an example.
    """
    micro = jax.tree.map(lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), examples)

    def body(total: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, dict[str, jax.Array]]:
        i, few = part
        (loss, numbers), grads = gradient(params, few, jax.random.fold_in(dropout_key, i))
        return jax.tree.map(lambda a, b: a + b / parts, total, (loss, grads)), numbers

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (loss, grads), numbers = jax.lax.scan(body, zero, (jnp.arange(parts), micro))
    numbers = jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1), numbers)
    return (loss, numbers), grads
