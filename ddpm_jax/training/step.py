"""One training step: draw t and noise, then loss, gradient, optimizer, average.

The random bits of step n are a function of (seed, n) and the example's place in the global batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config import Config, data_shape
from ddpm_jax.data.model_range import low_res_of, to_model_range
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.timesteps import (
    draw_batch_timesteps,
    update_history,
)
from ddpm_jax.models import Network, Params
from ddpm_jax.training.objectives import Examples, Objective, make_objective
from ddpm_jax.training.state import TrainState, apply_gradient, learning_rate

# The log has a loss for each quarter of the chain of timesteps.
QUARTERS = 4

T = TypeVar("T")
Batch = dict[str, jax.Array]
Metrics = dict[str, Any]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Update = Callable[[TrainState, Examples, jax.Array], tuple[TrainState, Metrics]]
# gradient(params, examples, dropout_key) -> ((loss, numbers of each example), gradient)
Gradient = Callable[
    [Params, Examples, jax.Array], tuple[tuple[jax.Array, dict[str, jax.Array]], Params]
]


def make_train_step(
    config: Config,
    diffusion: Diffusion,
    network: Network,
    optimizer: optax.GradientTransformation,
) -> TrainStep:
    """`step(state, batch) -> (state, metrics)`, to be jitted.

    batch: {"x": uint8 [B, H, W, C] or float32 [B, D], "label": int32 [B]}. A step whose loss or
    gradient is not finite changes nothing but the counters.
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


def abstract_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and types of a global batch in training."""
    points = config.data.name == "s_curve"
    size, dtype = config.train.batch_size, jnp.float32 if points else jnp.uint8
    return {
        "x": jax.ShapeDtypeStruct((size, *data_shape(config)), dtype),
        "label": jax.ShapeDtypeStruct((size,), jnp.int32),
    }


def draw_examples(
    config: Config, num_timesteps: int, state: TrainState, batch: Batch, keys: list[jax.Array]
) -> Examples:
    """The batch with a timestep and noise for each image; some labels dropped (-1)."""
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
) -> Update:
    """`update(state, examples, dropout_key) -> (state, metrics)`: a step after the random draws."""
    train, gradient = config.train, make_gradient(config, objective)

    def update(
        state: TrainState, examples: Examples, dropout_key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        (loss, numbers), grads = gradient(state.params, examples, dropout_key)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def advanced(state: TrainState, grads: Params) -> TrainState:
            new = apply_gradient(state, grads, optimizer, train)
            if state.loss_history is None:
                return new
            history = update_history(state.loss_history, examples["t"], numbers["loss"])
            return new._replace(loss_history=history)

        def skipped(state: TrainState, _: Params) -> TrainState:
            return state._replace(skipped=state.skipped + 1)

        with jax.named_scope("optimizer"):
            new = one_of(finite, advanced, skipped, state, grads)
        metrics = {
            **_means(numbers, examples, num_timesteps),
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(train)(state.step),
            "skipped": new.skipped,
            "step": state.step + 1,
            "nonfinite_t": nonfinite_timesteps(examples["t"], numbers["loss"], finite),
        }
        return new._replace(step=state.step + 1), metrics

    return update


def make_gradient(config: Config, objective: Objective) -> Gradient:
    """The gradient of the weighted mean loss, over micro-batches where the config asks for them."""
    micro_batches = config.train.grad_accumulation_steps

    def loss_fn(params: Params, examples: Examples, dropout_key: jax.Array) -> tuple[Any, Any]:
        key = dropout_key if config.model.dropout else None
        numbers = objective(params, examples, key)
        return jnp.mean(numbers["loss"] * examples["weight"]), numbers

    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    return gradient if micro_batches == 1 else accumulated(gradient, micro_batches)


def accumulated(gradient: Gradient, micro_batches: int) -> Gradient:
    """The mean of `gradient` and its loss over micro-batches, computed one after the other.

    Example i goes to micro-batch i % micro_batches. So each is spread over all devices, and no
    example moves between them.
    """

    def mean_gradient(params: Params, examples: Examples, dropout_key: jax.Array) -> Any:
        def body(total: Any, micro_batch: tuple[jax.Array, Examples]) -> tuple[Any, Any]:
            i, few = micro_batch
            (loss, numbers), grads = gradient(params, few, jax.random.fold_in(dropout_key, i))
            return jax.tree.map(lambda a, b: a + b / micro_batches, total, (loss, grads)), numbers

        split = jax.tree.map(
            lambda a: a.reshape(-1, micro_batches, *a.shape[1:]).swapaxes(0, 1), examples
        )
        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        (loss, grads), numbers = jax.lax.scan(body, zero, (jnp.arange(micro_batches), split))
        numbers = jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1), numbers)
        return (loss, numbers), grads

    return mean_gradient


def one_of(chosen: jax.Array, first: Callable[..., T], second: Callable[..., T], *inputs: Any) -> T:
    """`first(*inputs)` if `chosen`, else `second(*inputs)`. A CPU runs only that one.

    On a CPU, selecting between two states would copy the whole old one, and compile 2 to 3 s
    longer. On a GPU, a branch would make the host wait for `chosen`.
    """

    def branch(chosen: jax.Array, *inputs: Any) -> Any:
        return jax.lax.cond(chosen, first, second, *inputs)

    def select(chosen: jax.Array, *inputs: Any) -> Any:
        return jax.tree.map(partial(jnp.where, chosen), first(*inputs), second(*inputs))

    return jax.lax.platform_dependent(chosen, *inputs, cpu=branch, default=select)


def nonfinite_timesteps(t: jax.Array, loss: jax.Array, finite: jax.Array) -> jax.Array:
    """int32 [B]: t of the examples that may have caused a step that is not `finite`, else -1.

    These are the examples whose loss [B] is not finite, or all of them if only the gradient is not.
    """
    bad = ~jnp.isfinite(loss)
    return jnp.where(~finite & (bad | ~bad.any()), t, -1)


def _means(numbers: Examples, examples: Examples, num_timesteps: int) -> Metrics:
    """Weighted means of the examples' `numbers`, and their sums by quarter of the chain."""
    means = {name: jnp.mean(number * examples["weight"]) for name, number in numbers.items()}
    return means | by_quarter(numbers, examples, num_timesteps)


def by_quarter(numbers: Examples, examples: Examples, num_timesteps: int) -> Metrics:
    """Weighted sums of the examples' `numbers` in each quarter of the chain, and its weight."""
    quarter = jax.nn.one_hot(examples["t"] * QUARTERS // num_timesteps, QUARTERS)
    quarter *= examples["weight"][:, None]
    sums = {name: number @ quarter for name, number in numbers.items()}
    return {"quarter_sums": sums, "quarter_weight": quarter.sum(axis=0)}
