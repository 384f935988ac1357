"""Samplers that look at x_t alone: DDPM's own, DDIM, and DDIM in reverse."""

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.predictions import eps_from_xstart
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import extract
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.sampling.guidance import GuidedDenoiser
from ddpm_jax.sampling.sampler import Memory, Step


def ancestral(
    diffusion: Diffusion,
    denoise: GuidedDenoiser,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
    memory: Memory,
    eta: float,
) -> tuple[Step, Memory]:
    """x_{t-1} ~ p(x_{t-1} | x_t) (DDPM, algorithm 2), whatever eta; without noise at t = 0."""
    reverse = denoise(x_t, t)
    sample = reverse.mean + jnp.exp(0.5 * reverse.log_variance) * _but_at_0(noise, t)
    return Step(sample, reverse.pred_xstart), memory


def ddim(
    diffusion: Diffusion,
    denoise: GuidedDenoiser,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
    memory: Memory,
    eta: float,
) -> tuple[Step, Memory]:
    """DDIM (Song et al. 2021), eq. 12: deterministic at eta 0, ancestral variance at eta 1."""
    schedule = diffusion.schedule
    alpha_bar, previous = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    # Eq. 16. The tables stay in float64 until they are read: 1 - previous - sigma^2 nearly cancels.
    sigma = eta * np.sqrt((1 - previous) / (1 - alpha_bar)) * np.sqrt(1 - alpha_bar / previous)
    direction = np.sqrt(np.maximum(1 - previous - sigma**2, 0))

    pred_xstart = denoise(x_t, t).pred_xstart
    eps = eps_from_xstart(schedule, x_t, t, pred_xstart)
    mean = extract(np.sqrt(previous), t, x_t) * pred_xstart + extract(direction, t, x_t) * eps
    sample = mean + extract(sigma, t, x_t) * _but_at_0(noise, t)
    return Step(sample, pred_xstart), memory


def reverse_ddim(
    diffusion: Diffusion,
    denoise: GuidedDenoiser,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
) -> Step:
    """x_{t+1} from x_t along DDIM's ODE at eta 0: encodes an image as noise."""
    schedule = diffusion.schedule
    pred_xstart = denoise(x_t, t).pred_xstart
    eps = eps_from_xstart(schedule, x_t, t, pred_xstart)
    return Step(at_level(schedule.alphas_cumprod_next, t, pred_xstart, eps), pred_xstart)


def at_level(
    alphas_cumprod: np.ndarray,
    t: Int[Array, " batch"],
    x_start: Float[Array, "batch *shape"],
    eps: Float[Array, "batch *shape"],
) -> Float[Array, "batch *shape"]:
    """x at the level alphas_cumprod[t], of this x_0 and this noise: a step of DDIM at eta 0."""
    signal, sigma = np.sqrt(alphas_cumprod), np.sqrt(1 - alphas_cumprod)
    return extract(signal, t, x_start) * x_start + extract(sigma, t, x_start) * eps


def _but_at_0(noise: Array, t: Array) -> Array:
    """The noise, and 0 for the examples whose t is 0."""
    return jnp.where(t.reshape(t.shape + (1,) * (noise.ndim - t.ndim)) > 0, noise, 0)
