"""One step of a sampler, with the guided denoiser that the loop would give it."""

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.process import Denoiser, Diffusion
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.diffusion.spacing import log_ratio
from ddpm_jax.sampling.guidance import guided_denoiser
from ddpm_jax.sampling.one_step import reverse_ddim
from ddpm_jax.sampling.sampler import Step
from ddpm_jax.sampling.samplers import SAMPLERS


def one_step(
    name: str,
    diffusion: Diffusion,
    denoise: Denoiser,
    x_t: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    *,
    eta: float = 0.0,
    clip: bool = True,
    gradient: Denoiser | None = None,
    clip_guided: bool = True,
) -> Step:
    """A step of SAMPLERS[name], the first of its chain."""
    row = SAMPLERS[name]
    guided = guided_denoiser(diffusion, denoise, clip, gradient, row.guide, clip_guided)
    return row.step(diffusion, guided, x_t, t, noise, row.init(x_t), eta)[0]


def one_reverse_ddim_step(
    diffusion: Diffusion, denoise: Denoiser, x_t: jax.Array, t: jax.Array, *, clip: bool = True
) -> Step:
    return reverse_ddim(diffusion, guided_denoiser(diffusion, denoise, clip), x_t, t)


def alpha_bar_at(schedule: NoiseSchedule, t: jax.Array) -> jax.Array:
    """alpha_bar at timesteps of the full chain, or between two of them."""
    every = np.arange(schedule.num_timesteps, dtype=np.float32)
    ratio = jnp.interp(t.astype(jnp.float32), every, log_ratio(schedule).astype(np.float32))
    return jax.nn.sigmoid(-2 * ratio)
