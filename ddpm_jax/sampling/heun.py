"""Heun's method along the probability-flow ODE, and EDM's sampler that adds noise to it.

Algorithms 1 and 2 of Karras et al. (2022), in terms of x / alpha and sigma / alpha.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.predictions import eps_from_xstart
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import NoiseSchedule, extract, with_noise_raised
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.diffusion.spacing import alpha_bar_at, log_ratio
from ddpm_jax.sampling.guidance import GuidedDenoiser
from ddpm_jax.sampling.one_step import at_level
from ddpm_jax.sampling.sampler import Memory, Step


class Churn(NamedTuple):
    """How much noise algorithm 2 adds; the defaults are those of the paper for ImageNet 64x64."""

    amount: float = 40.0  # S_churn
    least: float = 0.05  # S_tmin, of sigma / alpha
    most: float = 50.0  # S_tmax
    noise: float = 1.003  # S_noise


CHURN = Churn()


def heun(
    diffusion: Diffusion,
    denoise: GuidedDenoiser,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
    memory: Memory,
    eta: float,
) -> tuple[Step, Memory]:
    """Algorithm 1: second order, but for the last step, which is Euler's."""
    return _heun(diffusion.schedule, denoise, x_t, t), memory


def churned(
    diffusion: Diffusion,
    denoise: GuidedDenoiser,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
    memory: Memory,
    eta: float,
    churn: Churn = CHURN,
) -> tuple[Step, Memory]:
    """Algorithm 2: the noise is raised to sigma (1 + gamma), then Heun's step to the next sigma."""
    raised = churned_schedule(diffusion, churn)
    kept = raised.alphas_cumprod / diffusion.schedule.alphas_cumprod
    added = churn.noise * np.sqrt(1 - kept)
    x_hat = extract(np.sqrt(kept), t, x_t) * x_t + extract(added, t, x_t) * noise
    return _heun(raised, denoise, x_hat, t, diffusion.schedule), memory


def churned_schedule(diffusion: Diffusion, churn: Churn) -> NoiseSchedule:
    """The chain with sigma / alpha raised as in algorithm 2, but not above that of training."""
    schedule, training = diffusion.schedule, diffusion.training or diffusion.schedule
    ratio, known = log_ratio(schedule), log_ratio(training)
    gamma = min(churn.amount / schedule.num_timesteps, np.sqrt(2) - 1)
    churns = (np.log(churn.least) <= ratio) & (ratio <= np.log(churn.most))
    higher = np.minimum(ratio + np.log1p(gamma), known[-1])
    ratio = np.where(churns, higher, ratio)
    embedded = np.interp(ratio, known, training.model_timesteps)
    embedded = np.where(churns, embedded, schedule.model_timesteps)
    alphas_cumprod = np.where(churns, alpha_bar_at(ratio), schedule.alphas_cumprod)
    return with_noise_raised(schedule, alphas_cumprod, embedded)


def _heun(
    start: NoiseSchedule,
    denoise: GuidedDenoiser,
    x_t: Array,
    t: Array,
    chain: NoiseSchedule | None = None,
) -> Step:
    """From the level t of `start` to the level t-1 of the chain; `chain` where they differ."""
    schedule = chain or start
    alpha_bar, previous = start.alphas_cumprod, start.alphas_cumprod_prev
    pred_xstart = denoise(x_t, t, start).pred_xstart
    eps = eps_from_xstart(start, x_t, t, pred_xstart)
    euler = at_level(previous, t, pred_xstart, eps)

    def corrected() -> Array:
        eps_there = eps_from_xstart(schedule, euler, t - 1, denoise(euler, t - 1).pred_xstart)
        # alpha' (sigma' / alpha' - sigma / alpha): the derivative of x / alpha is eps
        slope = np.sqrt(1 - previous) - np.sqrt(previous / alpha_bar * (1 - alpha_bar))
        return euler + extract(slope / 2, t, x_t) * (eps_there - eps)

    sample = jax.lax.cond(jnp.all(t > 0), corrected, lambda: euler)
    return Step(sample, pred_xstart)
