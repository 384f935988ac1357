"""The whole reverse chain as one jitted program.

Sample i is a function of (seed, i, its condition) alone: it has a key of its own, whatever the
batch it is drawn in. The bounds of the chain are arguments of the program, so the same executable
runs it whole, or in slices between which a progress bar moves.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.process import Denoiser, Diffusion
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.sampling.guidance import Condition
from ddpm_jax.sampling.samplers import StepFn

PROGRESS_SLICES = 50
# Keeps the noise of sampling apart from that of training with the same seed.
SAMPLING = 0x5A3B1E

# apply(params, x_t, model_t, condition) -> [B, ...]; params is any tree of arrays.
Apply = Callable[[Any, jax.Array, jax.Array, Condition], jax.Array]


class Samples(NamedTuple):
    """x_0 [B, ...], and x_t and the predicted x_0 at the K steps that were kept: [K, B, ...]."""

    x: jax.Array
    kept_x: jax.Array
    kept_xstart: jax.Array


def sample_keys(seed: int | jax.Array, index: jax.Array, stream: int = 0) -> jax.Array:
    """A key for each sample, of its own index [B] and the stream of random numbers alone."""
    key = jax.random.fold_in(jax.random.key(seed), SAMPLING + stream)
    return jax.vmap(partial(jax.random.fold_in, key))(index)


def make_sampling_loop(
    diffusion: Diffusion,
    step: StepFn,
    apply: Apply,
    shape: tuple[int, ...],
    keep: Sequence[int] = (),
    stream: int = 0,
    guidance_gradient: Apply | None = None,
) -> Callable[..., Samples]:
    """A function `run(params, seed, index, condition, on_progress=None) -> Samples`.

    `shape` is that of one sample; `index`: int32 [B]; `condition`: a tree of arrays [B, ...], which
    `apply` gets as it is. `keep` lists the distinct indices t, at most T-1, whose x_t and predicted
    x_0 come back, in its order. Chains of other streams use other random numbers of the same seed.
    `guidance_gradient`, with the arguments of `apply`, guides every step: the gradient of
    log p(y | x_t) times its scale, as `guidance.guidance_gradient` makes it.
    `on_progress(n)` hears that n more steps are done, one slice of the chain behind, so that the
    device never waits for it. B, not the values, decides whether `run` compiles; so a scale that
    is an array of `condition` may change freely.
    """
    num_steps = diffusion.schedule.num_timesteps
    # The place of each step's state among those kept; len(keep) is out of bounds and so dropped.
    slot = np.full(num_steps, len(keep), np.int32)
    slot[list(keep)] = np.arange(len(keep))

    @jax.jit
    def start(seed: jax.Array, index: jax.Array) -> Samples:
        keys = sample_keys(seed, index, stream)
        keys = jax.vmap(partial(jax.random.fold_in, data=num_steps))(keys)
        x = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        kept = jnp.zeros((len(keep), *x.shape))
        return Samples(x, kept, kept.copy())

    @partial(jax.jit, donate_argnums=1)
    def advance(params, state, seed, index, condition, first, last) -> tuple[Samples, jax.Array]:
        keys = sample_keys(seed, index, stream)

        def bound(function: Apply) -> Denoiser:
            return lambda x, model_t: function(params, x, model_t, condition)

        guided = step
        if guidance_gradient is not None:
            guided = partial(step, guidance_gradient=bound(guidance_gradient))

        def body(i: jax.Array, state: Samples) -> Samples:
            t = first - 1 - i
            step_keys = jax.vmap(partial(jax.random.fold_in, data=t))(keys)
            noise = jax.vmap(lambda key: jax.random.normal(key, shape))(step_keys)
            new = guided(diffusion, bound(apply), state.x, jnp.full(index.shape, t), noise)
            if not keep:
                return state._replace(x=new.sample)
            place = jnp.asarray(slot)[t]
            return Samples(
                new.sample,
                state.kept_x.at[place].set(state.x, mode="drop"),
                state.kept_xstart.at[place].set(new.pred_xstart, mode="drop"),
            )

        return jax.lax.fori_loop(0, first - last, body, state), last

    def run(
        params: Any,
        seed: int,
        index: jax.Array,
        condition: Condition,
        on_progress: Callable[[int], None] | None = None,
    ) -> Samples:
        seed = np.uint32(seed)
        state = start(seed, index)
        slices = 1 if on_progress is None else min(num_steps, PROGRESS_SLICES)
        bounds = np.linspace(num_steps, 0, slices + 1).astype(np.int32)
        running = None
        for first, last in pairwise(bounds):
            state, done = advance(params, state, seed, index, condition, first, last)
            if on_progress is not None:
                if running is not None:
                    running[0].block_until_ready()
                    on_progress(running[1])
                running = done, int(first - last)
        if running is not None:
            running[0].block_until_ready()
            on_progress(running[1])
        return state

    return run


def evenly_kept(num_timesteps: int, count: int) -> list[int]:
    """Up to `count` indices from T-1 down to 0, evenly spread, for `keep`."""
    count = min(count, num_timesteps)
    return sorted({round(t) for t in np.linspace(num_timesteps - 1, 0, count)}, reverse=True)


def kept_by_noise(schedule: NoiseSchedule, count: int) -> list[int]:
    """As `evenly_kept`, but evenly spread over the logarithm of the noise-to-signal ratio.

    For data much smaller than the noise, whose shape appears in the last steps alone.
    """
    ratio, count = (
        np.log(schedule.sqrt_recipm1_alphas_cumprod),
        min(count, 100 * len(schedule.betas)),
    )
    steps = np.interp(np.linspace(ratio[-1], ratio[0], count), ratio, np.arange(len(ratio)))
    return sorted({round(t) for t in steps}, reverse=True)
