"""The whole reverse chain as one jitted program.

Sample i is a function of (seed, i, its condition) alone: it has a key of its own, whatever the
batch it is drawn in. The bounds of the chain are arguments of the program, so the same executable
runs it whole, from the middle, or in slices between which a progress bar moves.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.process import Denoiser, Diffusion
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.sampling.guidance import Condition, Guide, GuidedDenoiser, guided_denoiser
from ddpm_jax.sampling.noise import sample_keys, standard_normal
from ddpm_jax.sampling.resampling import Resampling, Rises, chain_moves
from ddpm_jax.sampling.sampler import Memory, Sampler

PROGRESS_SLICES = 50

# apply(params, x_t, model_t, condition) -> [B, ...]; params is any tree of arrays.
Apply = Callable[[Any, Array, Array, Condition], Array]
# constraint(x, t, noise, condition) -> x, at each new x_t; t is a scalar index, -1 for x_0.
Constraint = Callable[[Array, Array, Array, Condition], Array]
# on_moment(k, x_t, pred_xstart): the chain has taken the k-th of the steps that `keep` names.
OnMoment = Callable[[int, Array, Array], None]


class Samples(NamedTuple):
    """x_0, and x_t and the predicted x_0 at the K steps that were kept."""

    x: Float[Array, "batch *shape"]
    kept_x: Float[Array, "K batch *shape"]
    kept_xstart: Float[Array, "K batch *shape"]


class ChainOptions(NamedTuple):
    """How a chain is run, whatever its sampler."""

    eta: float = 0.0  # DDIM's noise: 0 is deterministic, 1 is ancestral
    clip: bool = True  # bound the predicted x_0 to [-1, 1]
    clip_guided: bool = True  # ... after guidance by a gradient too; ADM's code does not
    # Distinct indices t whose x_t and predicted x_0 are returned, in order.
    keep: Sequence[int] = ()
    stream: int = 0  # chains of other streams use other random numbers of the same seed
    resampling: Resampling | None = None  # None: each step is taken once


def make_sampling_loop(
    diffusion: Diffusion,
    sampler: Sampler,
    apply: Apply,
    shape: tuple[int, ...],
    options: ChainOptions = ChainOptions(),
    gradient: Apply | None = None,
    constraint: Constraint | None = None,
) -> Callable[..., Samples]:
    """`run(params, seed, index, condition, on_progress, x_init, t_start, on_moment) -> Samples`.

    Args:
      diffusion: of the chain, respaced if it is to be shorter than that of training.
      sampler, options: a row of SAMPLERS, and how the chain is run.
      apply, shape: the network, and the shape of one sample.
      gradient: guides every step: the gradient of log p(y | x_t) times its scale, as
        `guidance.guidance_gradient` makes it, with the arguments of `apply`.
      constraint: changes each new x, such as known pixels put back, made as noisy as x is.

    Arguments of `run`:
      params, condition: `apply` gets them as they are; a condition is a tree of arrays [B, ...].
      seed, index: one number, and int32 [B], the number of each sample.
      on_progress: `on_progress(n)` is called when n more steps are done, one slice of the chain
        behind, so that the device never waits for it.
      x_init, t_start: where the chain starts: x_t [B, ...] at the index t_start. By default noise
        at T-1. What `keep` asks for above t_start is 0.
      on_moment: `on_moment(k, x_t, pred_xstart)` shows the chain while it runs. It is called after
        each slice that took a step of `keep`, with the last of them, `keep[k]`; as often as the
        chain comes there. What it raises ends the chain, and so does what `on_progress` raises.

    B, not the values, decides whether `run` compiles: a scale that is an array of `condition`, the
    seed and t_start may change freely.
    """
    num_steps = diffusion.schedule.num_timesteps
    moves = chain_moves(num_steps, options.resampling)
    program = make_sampling_program(diffusion, sampler, apply, shape, options, gradient, constraint)

    @jax.jit
    def noise(seed: Array, index: Array) -> Array:
        return standard_normal(sample_keys(seed, index, options.stream), num_steps, shape)

    @jax.jit
    def start(x: Array) -> tuple[Samples, Memory]:
        kept = jnp.zeros((len(options.keep), *x.shape))
        return Samples(x.copy(), kept, kept.copy()), sampler.init(x)

    @jax.jit
    def moment_at(samples: Samples, k: Array) -> tuple[Array, Array]:
        return samples.kept_x[k], samples.kept_xstart[k]

    def run(
        params: Any,
        seed: int,
        index: Int[Array, " batch"],
        condition: Condition,
        on_progress: Callable[[int], None] | None = None,
        x_init: Float[Array, "batch *shape"] | None = None,
        t_start: int | None = None,
        on_moment: OnMoment | None = None,
    ) -> Samples:
        begin = num_steps - 1 if t_start is None else t_start
        if not 0 <= begin < num_steps:
            raise ValueError(f"t_start {begin}: must be in 0..{num_steps - 1}")
        x = noise(np.uint32(seed), index) if x_init is None else x_init
        run_slice = partial(program, params, np.uint32(seed), index, condition)

        def advance(state: Any, first: np.integer, last: np.integer) -> tuple[Any, Any]:
            state, done = run_slice(state, first, last)
            taken = moves[len(moves) - first : len(moves) - last]
            kept = [options.keep.index(t) for t in taken if t in options.keep]
            if on_moment is None or not kept:
                return state, (done, ())
            # The next slice is given the memory of this state, and so the moment is copied first.
            return state, (done, (kept[-1], *moment_at(state[0], kept[-1])))

        def on_slice(steps: int, done: Any) -> None:
            if on_progress is not None:
                on_progress(steps)
            if on_moment is not None and done[1]:
                on_moment(*done[1])

        watched = on_progress is not None or on_moment is not None
        left = len(moves) - moves.index(begin)
        return in_slices(advance, start(x), left, on_slice if watched else None)[0]

    return run


def make_sampling_program(
    diffusion: Diffusion,
    sampler: Sampler,
    apply: Apply,
    shape: tuple[int, ...],
    options: ChainOptions,
    gradient: Apply | None = None,
    constraint: Constraint | None = None,
) -> jax.stages.Wrapped:
    """`program(params, seed, index, condition, state, first, last) -> (state, last)`, jitted.

    It takes the steps from the index first - 1 down to last; with `options.resampling`, these count
    the steps that are left. The state is donated.
    """
    num_steps = diffusion.schedule.num_timesteps
    rises = Rises(diffusion.schedule, options.resampling, shape) if options.resampling else None

    @partial(jax.jit, donate_argnums=4)
    def program(
        params: Any,
        seed: Array,
        index: Array,
        condition: Condition,
        state: tuple[Samples, Memory],
        first: Array,
        last: Array,
    ) -> tuple[tuple[Samples, Memory], Array]:
        keys = sample_keys(seed, index, options.stream)
        denoise = bound_denoiser(
            diffusion, options, apply, gradient, sampler.guide, params, condition
        )

        def body(i: Array, carry: tuple[Samples, Memory]) -> tuple[Samples, Memory]:
            state, memory = carry
            t: Array = first - 1 - i
            number: Array | int = 0
            if rises is not None:
                x, t, rose, number = rises(state.x, t, keys)
                state = state._replace(x=x)
                memory = jax.tree.map(partial(jnp.where, rose), sampler.init(x), memory)
            noise = standard_normal(keys, number + t, shape)
            step, memory = sampler.step(
                diffusion, denoise, state.x, jnp.full(index.shape, t), noise, memory, options.eta
            )
            x = step.sample
            if constraint is not None:
                # Numbers 0..T are those of the steps and of x_T.
                other = standard_normal(keys, number + num_steps + 1 + t, shape)
                x = constraint(x, t - 1, other, condition)
            state = _kept(state, options.keep, num_steps, t, step.pred_xstart)
            return state._replace(x=x), memory

        return jax.lax.fori_loop(0, first - last, body, state), last

    return program


def bound_denoiser(
    diffusion: Diffusion,
    options: ChainOptions,
    apply: Apply,
    gradient: Apply | None,
    guide: Guide,
    params: Any,
    condition: Condition,
) -> GuidedDenoiser:
    """The guided denoiser of a network, and of a gradient, with these parameters and condition."""

    def bound(function: Apply) -> Denoiser:
        return lambda x, model_t: function(params, x, model_t, condition)

    return guided_denoiser(
        diffusion,
        bound(apply),
        options.clip,
        bound(gradient) if gradient else None,
        guide,
        options.clip_guided,
    )


def _kept(
    state: Samples, keep: Sequence[int], num_steps: int, t: Array, pred_xstart: Array
) -> Samples:
    """The state with its x and the predicted x_0 put where `keep` wants those of step t."""
    if not keep:
        return state
    # The place of each step among those kept; len(keep) is out of bounds and so dropped.
    slot = np.full(num_steps, len(keep), np.int32)
    slot[list(keep)] = np.arange(len(keep))
    place = jnp.asarray(slot)[t]
    return state._replace(
        kept_x=state.kept_x.at[place].set(state.x, mode="drop"),
        kept_xstart=state.kept_xstart.at[place].set(pred_xstart, mode="drop"),
    )


State = TypeVar("State")


def in_slices(
    advance: Callable[..., tuple[State, Any]],
    state: State,
    num_steps: int,
    on_slice: Callable[[int, Any], None] | None,
) -> State:
    """Runs a chain by `advance(state, first, last) -> (state, done)`, in up to PROGRESS_SLICES.

    `on_slice(n, done)` is called for each slice of n steps, while the device runs the next one.
    """
    slices = 1 if on_slice is None else min(num_steps, PROGRESS_SLICES)
    bounds = np.linspace(num_steps, 0, slices + 1).astype(np.int32)
    running = None
    for first, last in pairwise(bounds):
        state, done = advance(state, first, last)
        if on_slice is not None:
            if running is not None:
                on_slice(running[0], jax.block_until_ready(running[1]))
            running = int(first - last), done
    if on_slice is not None and running is not None:
        on_slice(running[0], jax.block_until_ready(running[1]))
    return state
