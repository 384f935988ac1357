"""Diffusion processes as pure functions of arrays: no network, no data, no devices."""

from ddpm_jax.diffusion.likelihood import Bound, variational_bound
from ddpm_jax.diffusion.losses import LOSSES, WEIGHTINGS, timestep_weights, training_losses
from ddpm_jax.diffusion.predictions import PREDICTIONS
from ddpm_jax.diffusion.process import (
    VARIANCES,
    Diffusion,
    p_mean_variance,
    q_mean_variance,
    q_posterior,
    q_sample,
)
from ddpm_jax.diffusion.schedules import (
    SCHEDULES,
    NoiseSchedule,
    make_schedule,
    named_betas,
    rescaled,
)
from ddpm_jax.diffusion.spacing import respace
from ddpm_jax.diffusion.timesteps import TIMESTEP_SAMPLERS

__all__ = [
    "LOSSES",
    "PREDICTIONS",
    "SCHEDULES",
    "TIMESTEP_SAMPLERS",
    "VARIANCES",
    "WEIGHTINGS",
    "Bound",
    "Diffusion",
    "NoiseSchedule",
    "make_schedule",
    "named_betas",
    "p_mean_variance",
    "q_mean_variance",
    "q_posterior",
    "q_sample",
    "rescaled",
    "respace",
    "timestep_weights",
    "training_losses",
    "variational_bound",
]
