"""The forward process q, its posterior, and the reverse step p(x_{t-1} | x_t).

x_start, x_t, noise: float [B, ...], x_start in [-1, 1]; t: int32 [B], indices into the schedule.
Equation numbers are those of DDPM (Ho et al. 2020) unless a line says otherwise.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule

Prediction = Literal["eps", "x_start", "x_prev", "v"]
Variance = Literal["fixed_small", "fixed_large", "learned", "learned_range"]
# A network at (x_t, what it is told of t: float32 [B]) -> [B, ...].
Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


class Diffusion(NamedTuple):
    """A schedule, and how to read the network's output: what it predicts, and which variance."""

    schedule: NoiseSchedule
    prediction: Prediction = "eps"
    variance: Variance = "fixed_small"


class ReverseStep(NamedTuple):
    """p(x_{t-1} | x_t): each float [B, ...] of the shape of x_t."""

    mean: jax.Array
    variance: jax.Array
    log_variance: jax.Array
    pred_xstart: jax.Array


def extract(table: np.ndarray, t: jax.Array, like: jax.Array) -> jax.Array:
    """table[t] as float32, shaped [B, 1, ...] to broadcast against `like`."""
    return jnp.asarray(table, jnp.float32)[t].reshape(t.shape + (1,) * (like.ndim - t.ndim))


def model_timesteps(schedule: NoiseSchedule, t: jax.Array) -> jax.Array:
    """What the network is told at index t: float32 [B]."""
    return extract(schedule.model_timesteps, t, t)


def q_mean_variance(
    schedule: NoiseSchedule, x_start: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, variance and log-variance of q(x_t | x_0), eq. 4, each of the shape of `x_start`."""
    mean = extract(schedule.sqrt_alphas_cumprod, t, x_start) * x_start
    variance = extract(1 - schedule.alphas_cumprod, t, x_start)
    log_variance = extract(schedule.log_one_minus_alphas_cumprod, t, x_start)
    shape = x_start.shape
    return mean, jnp.broadcast_to(variance, shape), jnp.broadcast_to(log_variance, shape)


def q_sample(
    schedule: NoiseSchedule, x_start: jax.Array, t: jax.Array, noise: jax.Array
) -> jax.Array:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, eq. 4."""
    signal = extract(schedule.sqrt_alphas_cumprod, t, x_start)
    sigma = extract(schedule.sqrt_one_minus_alphas_cumprod, t, x_start)
    return signal * x_start + sigma * noise


def q_posterior(
    schedule: NoiseSchedule, x_start: jax.Array, x_t: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, variance and clipped log-variance of q(x_{t-1} | x_t, x_0), eqs. 6 and 7."""
    mean = (
        extract(schedule.posterior_mean_coef1, t, x_t) * x_start
        + extract(schedule.posterior_mean_coef2, t, x_t) * x_t
    )
    variance = extract(schedule.posterior_variance, t, x_t)
    log_variance = extract(schedule.posterior_log_variance_clipped, t, x_t)
    shape = x_t.shape
    return mean, jnp.broadcast_to(variance, shape), jnp.broadcast_to(log_variance, shape)


def xstart_from_eps(
    schedule: NoiseSchedule, x_t: jax.Array, t: jax.Array, eps: jax.Array
) -> jax.Array:
    """Eq. 4 solved for x_0."""
    return (
        extract(schedule.sqrt_recip_alphas_cumprod, t, x_t) * x_t
        - extract(schedule.sqrt_recipm1_alphas_cumprod, t, x_t) * eps
    )


def eps_from_xstart(
    schedule: NoiseSchedule, x_t: jax.Array, t: jax.Array, x_start: jax.Array
) -> jax.Array:
    """Eq. 4 solved for the noise."""
    return (extract(schedule.sqrt_recip_alphas_cumprod, t, x_t) * x_t - x_start) / extract(
        schedule.sqrt_recipm1_alphas_cumprod, t, x_t
    )


def xstart_from_xprev(
    schedule: NoiseSchedule, x_t: jax.Array, t: jax.Array, x_prev: jax.Array
) -> jax.Array:
    """Eq. 7 solved for x_0, given the posterior mean `x_prev`."""
    return (
        extract(1 / schedule.posterior_mean_coef1, t, x_t) * x_prev
        - extract(schedule.posterior_mean_coef2 / schedule.posterior_mean_coef1, t, x_t) * x_t
    )


def xstart_from_v(schedule: NoiseSchedule, x_t: jax.Array, t: jax.Array, v: jax.Array) -> jax.Array:
    """x_0 = alpha_t x_t - sigma_t v (Salimans and Ho 2022, appendix D)."""
    return (
        extract(schedule.sqrt_alphas_cumprod, t, x_t) * x_t
        - extract(schedule.sqrt_one_minus_alphas_cumprod, t, x_t) * v
    )


def predict_xstart(
    diffusion: Diffusion, output: jax.Array, x_t: jax.Array, t: jax.Array
) -> jax.Array:
    """The x_0 that a network's `output` [B, ...] stands for, unclipped."""
    match diffusion.prediction:
        case "eps":
            return xstart_from_eps(diffusion.schedule, x_t, t, output)
        case "x_start":
            return output
        case "x_prev":
            return xstart_from_xprev(diffusion.schedule, x_t, t, output)
        case "v":
            return xstart_from_v(diffusion.schedule, x_t, t, output)
    raise ValueError(f"unknown prediction: {diffusion.prediction}")


def prediction_target(
    diffusion: Diffusion, x_start: jax.Array, x_t: jax.Array, t: jax.Array, noise: jax.Array
) -> jax.Array:
    """What a perfect network would return for x_t = q_sample(x_start, t, noise)."""
    schedule = diffusion.schedule
    match diffusion.prediction:
        case "eps":
            return noise
        case "x_start":
            return x_start
        case "x_prev":
            return q_posterior(schedule, x_start, x_t, t)[0]
        case "v":
            return (
                extract(schedule.sqrt_alphas_cumprod, t, x_t) * noise
                - extract(schedule.sqrt_one_minus_alphas_cumprod, t, x_t) * x_start
            )
    raise ValueError(f"unknown prediction: {diffusion.prediction}")


def p_mean_variance(
    diffusion: Diffusion,
    output: jax.Array,
    x_t: jax.Array,
    t: jax.Array,
    clip: bool = True,
    denoised_fn: Callable[[jax.Array], jax.Array] | None = None,
) -> ReverseStep:
    """p(x_{t-1} | x_t), eq. 1, from a network's `output` at (x_t, t).

    `output` is [B, ...] of the shape of x_t, its last axis twice as long for the learned variances.
    `denoised_fn`, then `clip` to [-1, 1], act on the predicted x_0.
    """
    output, learned = split_output(diffusion, output)
    variance, log_variance = _reverse_variance(diffusion, learned, x_t, t)
    pred_xstart = predict_xstart(diffusion, output, x_t, t)
    if denoised_fn is not None:
        pred_xstart = denoised_fn(pred_xstart)
    if clip:
        pred_xstart = jnp.clip(pred_xstart, -1, 1)
    if diffusion.prediction == "x_prev":
        mean = output  # the prediction is the mean: clipping touches pred_xstart only
    else:
        mean, _, _ = q_posterior(diffusion.schedule, pred_xstart, x_t, t)
    return ReverseStep(mean, variance, log_variance, pred_xstart)


def split_output(diffusion: Diffusion, output: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """The prediction, and what is learned of the variance: halves of the last axis, or None."""
    if diffusion.variance in ("learned", "learned_range"):
        prediction, learned = jnp.split(output, 2, axis=-1)
        return prediction, learned
    return output, None


def _reverse_variance(
    diffusion: Diffusion, learned: jax.Array | None, x_t: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The variance of p(x_{t-1} | x_t) and its log, given what is learned of it."""
    schedule = diffusion.schedule
    match diffusion.variance:
        case "fixed_small":
            variance = extract(schedule.posterior_variance, t, x_t)
            log_variance = extract(schedule.posterior_log_variance_clipped, t, x_t)
        case "fixed_large":
            # beta_t, but the posterior's at t = 0, for a better decoder likelihood.
            table = np.append(schedule.posterior_variance[1], schedule.betas[1:])
            variance, log_variance = extract(table, t, x_t), extract(np.log(table), t, x_t)
        case "learned":
            log_variance = learned
            variance = jnp.exp(log_variance)
        case "learned_range":
            # Improved DDPM, eq. 15; the fraction is not clamped.
            fraction = (learned + 1) / 2
            log_max = extract(np.log(schedule.betas), t, x_t)
            log_min = extract(schedule.posterior_log_variance_clipped, t, x_t)
            log_variance = fraction * log_max + (1 - fraction) * log_min
            variance = jnp.exp(log_variance)
        case _:
            raise ValueError(f"unknown variance: {diffusion.variance}")
    return jnp.broadcast_to(variance, x_t.shape), jnp.broadcast_to(log_variance, x_t.shape)
