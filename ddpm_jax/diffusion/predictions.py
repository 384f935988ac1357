"""What a network may predict: the noise eps, x_0, the posterior mean or v; one table for all.

Each stands for the others, given x_t. Equation numbers are those of DDPM (Ho et al. 2020) unless a
line says otherwise.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule, extract
from ddpm_jax.diffusion.shapes import Array, Float, Int

Data = Float[Array, "batch *shape"]
Timesteps = Int[Array, " batch"]


class Prediction(NamedTuple):
    """One thing to predict, and how it relates to x_0."""

    to_xstart: Callable[[NoiseSchedule, Data, Timesteps, Data], Data]  # (schedule, x_t, t, output)
    # (schedule, x_start, x_t, t, noise) -> what a perfect network returns
    target: Callable[[NoiseSchedule, Data, Data, Timesteps, Data], Data]
    # The squared error of eps over that of this prediction, for the same predicted x_0: [T].
    eps_error_ratio: Callable[[NoiseSchedule], np.ndarray]
    is_mean: bool = False  # the output itself is the mean of p(x_{t-1} | x_t)


def posterior_mean(
    schedule: NoiseSchedule,
    x_start: Float[Array, "batch *shape"],
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
) -> Float[Array, "batch *shape"]:
    """The mean of q(x_{t-1} | x_t, x_0), eq. 7."""
    return (
        extract(schedule.posterior_mean_coef1, t, x_t) * x_start
        + extract(schedule.posterior_mean_coef2, t, x_t) * x_t
    )


def xstart_from_eps(
    schedule: NoiseSchedule,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    eps: Float[Array, "batch *shape"],
) -> Float[Array, "batch *shape"]:
    """Eq. 4 solved for x_0."""
    return (
        extract(schedule.sqrt_recip_alphas_cumprod, t, x_t) * x_t
        - extract(schedule.sqrt_recipm1_alphas_cumprod, t, x_t) * eps
    )


def eps_from_xstart(
    schedule: NoiseSchedule,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    x_start: Float[Array, "batch *shape"],
) -> Float[Array, "batch *shape"]:
    """Eq. 4 solved for the noise."""
    return (extract(schedule.sqrt_recip_alphas_cumprod, t, x_t) * x_t - x_start) / extract(
        schedule.sqrt_recipm1_alphas_cumprod, t, x_t
    )


def xstart_from_xprev(
    schedule: NoiseSchedule,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    x_prev: Float[Array, "batch *shape"],
) -> Float[Array, "batch *shape"]:
    """Eq. 7 solved for x_0, given the posterior mean `x_prev`."""
    return (
        extract(1 / schedule.posterior_mean_coef1, t, x_t) * x_prev
        - extract(schedule.posterior_mean_coef2 / schedule.posterior_mean_coef1, t, x_t) * x_t
    )


def xstart_from_v(
    schedule: NoiseSchedule,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    v: Float[Array, "batch *shape"],
) -> Float[Array, "batch *shape"]:
    """x_0 = alpha_t x_t - sigma_t v (Salimans and Ho 2022, appendix D)."""
    return (
        extract(schedule.sqrt_alphas_cumprod, t, x_t) * x_t
        - extract(schedule.sqrt_one_minus_alphas_cumprod, t, x_t) * v
    )


def v_target(
    schedule: NoiseSchedule,
    x_start: Float[Array, "batch *shape"],
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
) -> Float[Array, "batch *shape"]:
    """v = alpha_t noise - sigma_t x_0 (Salimans and Ho 2022, appendix D)."""
    return (
        extract(schedule.sqrt_alphas_cumprod, t, x_t) * noise
        - extract(schedule.sqrt_one_minus_alphas_cumprod, t, x_t) * x_start
    )


def signal_to_noise_ratio(schedule: NoiseSchedule) -> Float[np.ndarray, " T"]:
    """alpha_bar_t / (1 - alpha_bar_t)."""
    return schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)


PREDICTIONS = {
    "eps": Prediction(
        to_xstart=xstart_from_eps,
        target=lambda schedule, x_start, x_t, t, noise: noise,
        eps_error_ratio=lambda schedule: np.ones_like(schedule.betas),
    ),
    "x_start": Prediction(
        to_xstart=lambda schedule, x_t, t, output: output,
        target=lambda schedule, x_start, x_t, t, noise: x_start,
        eps_error_ratio=signal_to_noise_ratio,
    ),
    "x_prev": Prediction(
        to_xstart=xstart_from_xprev,
        target=lambda schedule, x_start, x_t, t, noise: posterior_mean(schedule, x_start, x_t, t),
        eps_error_ratio=lambda schedule: (
            signal_to_noise_ratio(schedule) / schedule.posterior_mean_coef1**2
        ),
        is_mean=True,
    ),
    "v": Prediction(
        to_xstart=xstart_from_v,
        target=v_target,
        eps_error_ratio=lambda schedule: schedule.alphas_cumprod,
    ),
}
