"""The forward process q, its posterior, and the reverse step p(x_{t-1} | x_t).

x_start is in [-1, 1]; t are indices into the schedule. Equation numbers are those of DDPM (Ho et
al. 2020) unless a line says otherwise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.predictions import PREDICTIONS, posterior_mean
from ddpm_jax.diffusion.schedules import NoiseSchedule, extract
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.diffusion.tables import look_up

# A network at (x_t, the timestep that it embeds: float32 [B]) -> [B, ...].
Denoiser = Callable[[Float[Array, "batch *shape"], Float[Array, " batch"]], Array]


class Diffusion(NamedTuple):
    """A schedule, and how to read a network's output: rows of PREDICTIONS and VARIANCES."""

    schedule: NoiseSchedule
    prediction: str = "eps"
    variance: str = "fixed_small"
    training: NoiseSchedule | None = None  # the whole chain, where `schedule` is a shorter one


class ReverseStep(NamedTuple):
    """p(x_{t-1} | x_t), and the x_0 that it was predicted from."""

    mean: Float[Array, "batch *shape"]
    variance: Float[Array, "batch *shape"]
    log_variance: Float[Array, "batch *shape"]
    pred_xstart: Float[Array, "batch *shape"]


def model_timesteps(schedule: NoiseSchedule, t: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The timesteps that the network embeds at the indices t."""
    return extract(schedule.model_timesteps, t, t)


Moments = tuple[
    Float[Array, "batch *shape"], Float[Array, "batch *shape"], Float[Array, "batch *shape"]
]


def q_mean_variance(
    schedule: NoiseSchedule, x_start: Float[Array, "batch *shape"], t: Int[Array, " batch"]
) -> Moments:
    """Mean, variance and log-variance of q(x_t | x_0), eq. 4."""
    mean = extract(schedule.sqrt_alphas_cumprod, t, x_start) * x_start
    variance = extract(1 - schedule.alphas_cumprod, t, x_start)
    log_variance = extract(schedule.log_one_minus_alphas_cumprod, t, x_start)
    shape = x_start.shape
    return mean, jnp.broadcast_to(variance, shape), jnp.broadcast_to(log_variance, shape)


def q_sample(
    schedule: NoiseSchedule,
    x_start: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
) -> Float[Array, "batch *shape"]:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, eq. 4."""
    signal = extract(schedule.sqrt_alphas_cumprod, t, x_start)
    sigma = extract(schedule.sqrt_one_minus_alphas_cumprod, t, x_start)
    return signal * x_start + sigma * noise


def q_posterior(
    schedule: NoiseSchedule,
    x_start: Float[Array, "batch *shape"],
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
) -> Moments:
    """Mean, variance and clipped log-variance of q(x_{t-1} | x_t, x_0), eqs. 6 and 7."""
    variance = extract(schedule.posterior_variance, t, x_t)
    log_variance = extract(schedule.posterior_log_variance_clipped, t, x_t)
    shape = x_t.shape
    mean = posterior_mean(schedule, x_start, x_t, t)
    return mean, jnp.broadcast_to(variance, shape), jnp.broadcast_to(log_variance, shape)


class Variance(NamedTuple):
    """`log_variance(schedule, learned, x_t, t)` of p(x_{t-1} | x_t), and whether it is learned.

    A fixed variance also has its own table `variance`: exp(log_variance) would round differently.
    """

    log_variance: Callable[[NoiseSchedule, Any, Array, Array], Array]
    variance: Callable[[NoiseSchedule], np.ndarray] | None = None

    @property
    def learned(self) -> bool:
        """True if the network returns twice the channels: the prediction's, then the variance's."""
        return self.variance is None


def _fixed(
    variance: Callable[[NoiseSchedule], np.ndarray],
    log_variance: Callable[[NoiseSchedule], np.ndarray],
) -> Variance:
    return Variance(
        lambda schedule, learned, x_t, t: extract(log_variance(schedule), t, x_t), variance
    )


def fixed_large_variance(schedule: NoiseSchedule) -> Float[np.ndarray, " T"]:
    """beta_t, but the posterior's at t = 0, for a better decoder likelihood."""
    return np.append(schedule.posterior_variance[1], schedule.betas[1:])


def learned_range_log_variance(
    schedule: NoiseSchedule,
    learned: Float[Array, "batch *shape"],
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
) -> Float[Array, "batch *shape"]:
    """Improved DDPM, eq. 15: between those of beta_t and of the posterior; not clamped."""
    fraction = (learned + 1) / 2
    log_max = extract(np.log(schedule.betas), t, x_t)
    log_min = extract(schedule.posterior_log_variance_clipped, t, x_t)
    return fraction * log_max + (1 - fraction) * log_min


VARIANCES = {
    "fixed_small": _fixed(
        lambda schedule: schedule.posterior_variance,
        lambda schedule: schedule.posterior_log_variance_clipped,
    ),
    "fixed_large": _fixed(
        fixed_large_variance, lambda schedule: np.log(fixed_large_variance(schedule))
    ),
    "learned": Variance(lambda schedule, learned, x_t, t: learned),
    "learned_range": Variance(learned_range_log_variance),
}


def reverse_variance(
    diffusion: Diffusion,
    learned: Float[Array, "batch *shape"] | None,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
) -> tuple[Float[Array, "batch *shape"], Float[Array, "batch *shape"]]:
    """The variance of p(x_{t-1} | x_t) and its logarithm, given the network's output `learned`."""
    row = look_up(VARIANCES, diffusion.variance, "variance")
    log_variance = row.log_variance(diffusion.schedule, learned, x_t, t)
    if row.variance is None:
        variance = jnp.exp(log_variance)
    else:
        variance = extract(row.variance(diffusion.schedule), t, x_t)
    return jnp.broadcast_to(variance, x_t.shape), jnp.broadcast_to(log_variance, x_t.shape)


def split_output(
    diffusion: Diffusion, output: Float[Array, "batch *shape"]
) -> tuple[Float[Array, "batch *half"], Float[Array, "batch *half"] | None]:
    """The prediction, and what is learned of the variance: halves of the last axis, or None."""
    if look_up(VARIANCES, diffusion.variance, "variance").learned:
        prediction, learned = jnp.split(output, 2, axis=-1)
        return prediction, learned
    return output, None


def predict_xstart(
    diffusion: Diffusion,
    output: Float[Array, "batch *shape"],
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
) -> Float[Array, "batch *shape"]:
    """The x_0, not clipped, that a network's prediction stands for."""
    prediction = look_up(PREDICTIONS, diffusion.prediction, "prediction")
    return prediction.to_xstart(diffusion.schedule, x_t, t, output)


def prediction_target(
    diffusion: Diffusion,
    x_start: Float[Array, "batch *shape"],
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
) -> Float[Array, "batch *shape"]:
    """What a perfect network returns for x_t = q_sample(x_start, t, noise)."""
    prediction = look_up(PREDICTIONS, diffusion.prediction, "prediction")
    return prediction.target(diffusion.schedule, x_start, x_t, t, noise)


def p_mean_variance(
    diffusion: Diffusion,
    output: Float[Array, "batch *output_shape"],
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    clip: bool = True,
    denoised_fn: Callable[[Float[Array, "batch *shape"]], Float[Array, "batch *shape"]]
    | None = None,
) -> ReverseStep:
    """p(x_{t-1} | x_t), eq. 1, from a network's `output` at (x_t, t).

    `output` has the shape of x_t, its last axis twice as long for the learned variances.
    `denoised_fn`, then `clip` to [-1, 1], act on the predicted x_0.
    """
    output, learned = split_output(diffusion, output)
    variance, log_variance = reverse_variance(diffusion, learned, x_t, t)
    pred_xstart = predict_xstart(diffusion, output, x_t, t)
    if denoised_fn is not None:
        pred_xstart = denoised_fn(pred_xstart)
    if clip:
        pred_xstart = jnp.clip(pred_xstart, -1, 1)
    if PREDICTIONS[diffusion.prediction].is_mean:
        mean = output  # clipping touches pred_xstart only
    else:
        mean = posterior_mean(diffusion.schedule, pred_xstart, x_t, t)
    return ReverseStep(mean, variance, log_variance, pred_xstart)
