"""One step of each sampler, all of one signature.

    step(diffusion, denoise, x_t, t, noise, ...) -> Step

x_t, noise: float [B, ...]; t: int32 [B]; `denoise(x_t, model_t)` is the network. The optional
`guidance_gradient(x_t, model_t)`, the gradient of log p(y | x_t), already scaled, guides the step.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.process import (
    Denoiser,
    Diffusion,
    ReverseStep,
    eps_from_xstart,
    extract,
    model_timesteps,
    p_mean_variance,
)
from ddpm_jax.sampling.guidance import shift_mean, shift_score


class Step(NamedTuple):
    """x_{t-1} and the x_0 predicted on the way: each float [B, ...]."""

    sample: jax.Array
    pred_xstart: jax.Array


StepFn = Callable[[Diffusion, Denoiser, jax.Array, jax.Array, jax.Array], Step]


def ancestral_step(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_t: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    *,
    clip: bool = True,
    guidance_gradient: Denoiser | None = None,
) -> Step:
    """x_{t-1} ~ p(x_{t-1} | x_t) (DDPM, algorithm 2); no noise is added at t = 0."""
    reverse = _reverse(diffusion, denoise, x_t, t, clip)
    if guidance_gradient is not None:
        reverse = shift_mean(
            reverse, guidance_gradient(x_t, model_timesteps(diffusion.schedule, t))
        )
    noise = jnp.where(_column(t, x_t) > 0, noise, 0)
    return Step(reverse.mean + jnp.exp(0.5 * reverse.log_variance) * noise, reverse.pred_xstart)


def ddim_step(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_t: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    *,
    eta: float = 0.0,
    clip: bool = True,
    guidance_gradient: Denoiser | None = None,
) -> Step:
    """DDIM (Song et al. 2021), eq. 12: deterministic at eta 0, ancestral variance at eta 1."""
    schedule = diffusion.schedule
    alpha_bar, previous = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    # Eq. 16. The tables stay in float64 until they are read: 1 - previous - sigma^2 nearly cancels.
    sigma = eta * np.sqrt((1 - previous) / (1 - alpha_bar)) * np.sqrt(1 - alpha_bar / previous)
    direction = np.sqrt(np.maximum(1 - previous - sigma**2, 0))

    reverse = _reverse(diffusion, denoise, x_t, t, clip)
    if guidance_gradient is not None:
        gradient = guidance_gradient(x_t, model_timesteps(schedule, t))
        reverse = shift_score(diffusion, reverse, x_t, t, gradient)
    eps = eps_from_xstart(schedule, x_t, t, reverse.pred_xstart)
    mean = (
        extract(np.sqrt(previous), t, x_t) * reverse.pred_xstart + extract(direction, t, x_t) * eps
    )
    noise = jnp.where(_column(t, x_t) > 0, noise, 0)
    return Step(mean + extract(sigma, t, x_t) * noise, reverse.pred_xstart)


def ddim_reverse_step(
    diffusion: Diffusion, denoise: Denoiser, x_t: jax.Array, t: jax.Array, *, clip: bool = True
) -> Step:
    """x_{t+1} from x_t along DDIM's ODE at eta 0: encodes an image as noise."""
    schedule = diffusion.schedule
    pred_xstart = _reverse(diffusion, denoise, x_t, t, clip).pred_xstart
    eps = eps_from_xstart(schedule, x_t, t, pred_xstart)
    following = schedule.alphas_cumprod_next
    sample = (
        extract(np.sqrt(following), t, x_t) * pred_xstart
        + extract(np.sqrt(1 - following), t, x_t) * eps
    )
    return Step(sample, pred_xstart)


def _reverse(
    diffusion: Diffusion, denoise: Denoiser, x_t: jax.Array, t: jax.Array, clip: bool
) -> ReverseStep:
    output = denoise(x_t, model_timesteps(diffusion.schedule, t))
    return p_mean_variance(diffusion, output, x_t, t, clip)


def _column(t: jax.Array, like: jax.Array) -> jax.Array:
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))
