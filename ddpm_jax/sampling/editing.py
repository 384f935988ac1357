"""From an image to noise and back: DDIM's chain inverted, blends of noise, known pixels."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.predictions import eps_from_xstart
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import NoiseSchedule, extract
from ddpm_jax.diffusion.shapes import Array, Float
from ddpm_jax.sampling.guidance import Condition, shift_score
from ddpm_jax.sampling.loop import Apply, ChainOptions, Constraint, bound_denoiser, in_slices
from ddpm_jax.sampling.noise import sample_keys, standard_normal


def make_inversion_loop(
    diffusion: Diffusion,
    apply: Apply,
    options: ChainOptions = ChainOptions(),
    gradient: Apply | None = None,
    corrections: int = 1,
) -> Callable[..., Float[Array, "batch *shape"]]:
    """`run(params, x_start, condition, on_progress) -> x_{T-1}`, which DDIM takes back to x_0.

    DDIM's step from t to t-1 (eta 0) takes eps at x_t. Its inverse is solved for x_t: first with
    eps at x_{t-1}, as usual, then `corrections` times with eps at the last guess. One correction
    makes the error of a chain of N steps fall as 1/N^2 instead of 1/N.

    The arguments are those of `make_sampling_loop`. The image's size does not have to be told.
    """
    schedule = diffusion.schedule
    alpha_bar, previous = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    scale = np.sqrt(alpha_bar / previous)
    slope = np.sqrt(1 - alpha_bar) - scale * np.sqrt(1 - previous)

    @partial(jax.jit, donate_argnums=1)
    def program(
        params: Any, x: Array, condition: Condition, first: Array, last: Array
    ) -> tuple[Array, Array]:
        denoise = bound_denoiser(
            diffusion, options, apply, gradient, shift_score, params, condition
        )

        def body(i: Array, x: Array) -> Array:
            t = jnp.full(len(x), schedule.num_timesteps - first + i)

            def solved(_: Array, guess: Array) -> Array:
                eps = eps_from_xstart(schedule, guess, t, denoise(guess, t).pred_xstart)
                return extract(scale, t, x) * x + extract(slope, t, x) * eps

            return jax.lax.fori_loop(0, corrections + 1, solved, x)

        return jax.lax.fori_loop(0, first - last, body, x), last

    def run(
        params: Any,
        x_start: Float[Array, "batch *shape"],
        condition: Condition,
        on_progress: Callable[[int], None] | None = None,
    ) -> Float[Array, "batch *shape"]:
        def advance(x: Array, first: Any, last: Any) -> tuple[Array, Array]:
            return program(params, x, condition, first, last)

        def on_slice(steps: int, done: Array) -> None:
            assert on_progress is not None
            on_progress(steps)

        start = jnp.copy(x_start)
        return in_slices(advance, start, schedule.num_timesteps, on_progress and on_slice)

    return run


def slerp(
    a: Float[np.ndarray, "*shape"], b: Float[np.ndarray, "*shape"], weight: float
) -> Float[np.ndarray, "*shape"]:
    """From `a` (weight 0) to `b` (1) along the arc between them, as a whole (Shoemake 1985).

    Noise of norm sqrt(D) stays so; between vectors of other norms the norm changes evenly.
    """
    if weight in (0, 1):
        return (b if weight else a).copy()
    norms = np.linalg.norm(a), np.linalg.norm(b)
    if min(norms) == 0:
        return (1 - weight) * a + weight * b
    cosine = np.clip(np.vdot(a, b) / (norms[0] * norms[1]), -1, 1)
    angle = np.arccos(cosine)
    norm = (1 - weight) * norms[0] + weight * norms[1]
    if angle < 1e-4:
        mixed = (1 - weight) * a / norms[0] + weight * b / norms[1]
    else:
        mixed = np.sin((1 - weight) * angle) * a / norms[0] + np.sin(weight * angle) * b / norms[1]
        mixed = mixed / np.sin(angle)
    return (norm * mixed).astype(a.dtype)


def known_pixels(schedule: NoiseSchedule) -> Constraint:
    """Puts known pixels back at each step, as noisy as the others (RePaint, eqs. 8a and 8c).

    The condition holds `known`, x_0 in [-1, 1], and `unknown`, true where pixels are to be filled.
    """
    levels = np.append(1.0, schedule.alphas_cumprod)

    def constraint(x: Array, t: Array, noise: Array, condition: Condition) -> Array:
        alpha_bar = jnp.asarray(levels, jnp.float32)[t + 1]
        known = jnp.sqrt(alpha_bar) * condition["known"] + jnp.sqrt(1 - alpha_bar) * noise
        return jnp.where(condition["unknown"], x, known)

    return constraint


def make_noising(
    schedule: NoiseSchedule, shape: tuple[int, ...], stream: int = 0
) -> Callable[..., Float[Array, "batch *shape"]]:
    """`noised(x_start, seed, index, t) -> x_t`, by each sample's own noise, the same at every t.

    It is the noise that a chain begins with at T-1; one that begins with x_t does not use it again.
    """

    @jax.jit
    def noised(x_start: Array, seed: Array, index: Array, t: Array) -> Array:
        keys = sample_keys(seed, index, stream)
        noise = standard_normal(keys, schedule.num_timesteps, shape)
        alpha_bar = jnp.asarray(schedule.alphas_cumprod, jnp.float32)[t]
        return jnp.sqrt(alpha_bar) * x_start + jnp.sqrt(1 - alpha_bar) * noise

    return noised
