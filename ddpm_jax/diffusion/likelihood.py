"""The variational bound on the likelihood, in bits per dimension.

x_start is in [-1, 1], on 256 levels. Equation numbers are those of DDPM (Ho et al. 2020).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.predictions import eps_from_xstart
from ddpm_jax.diffusion.process import (
    Denoiser,
    Diffusion,
    model_timesteps,
    p_mean_variance,
    q_mean_variance,
    q_posterior,
    q_sample,
)
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.diffusion.shapes import Array, Float, Int

HALF_LEVEL = 1 / 255  # half the distance of neighbours among the 256 levels of [-1, 1]
SMALLEST = 1e-12  # probabilities are clamped here before their logarithm


class Bound(NamedTuple):
    """The bound on -log2 p(x_0) of each example, and its terms; column t is timestep t.

    total_bpd = prior_bpd + the sum of vb over t, all in bits per dimension. xstart_mse and eps_mse
    are the mean squared errors of the predicted x_0 and of the noise that it implies.
    """

    total_bpd: Float[Array, " batch"]
    prior_bpd: Float[Array, " batch"]
    vb: Float[Array, "batch T"]
    xstart_mse: Float[Array, "batch T"]
    eps_mse: Float[Array, "batch T"]


def mean_flat(x: Float[Array, "batch *shape"]) -> Float[Array, " batch"]:
    """Mean over all axes but the first."""
    return jnp.mean(x.reshape(len(x), -1), axis=1)


def normal_kl(
    mean1: Array, log_variance1: Array, mean2: Array | float, log_variance2: Array | float
) -> Array:
    """KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2))), elementwise, in nats."""
    # expm1: exp(ratio) - 1 is rounding alone for two almost equal Gaussians, as at the prior.
    ratio = log_variance1 - log_variance2
    distance = jnp.square(mean1 - mean2) * jnp.exp(-log_variance2)
    return 0.5 * (jnp.expm1(ratio) - ratio + distance)


def approx_standard_normal_cdf(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """P(N(0, 1) <= x), to 3e-4, by the tanh of GELU (Hendrycks and Gimpel 2016)."""
    return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def discretized_gaussian_log_likelihood(
    x: Array, means: Array | float, log_scales: Array | float
) -> Array:
    """log P(x), in nats, of a Gaussian rounded to the 256 levels of [-1, 1]; eq. 13, elementwise.

    x: levels; means, log_scales: of the Gaussian and of its standard deviation. The bins of the
    first and the last level reach to infinity.
    """
    precision = jnp.exp(-log_scales)
    cdf_above = approx_standard_normal_cdf(precision * (x - means + HALF_LEVEL))
    cdf_below = approx_standard_normal_cdf(precision * (x - means - HALF_LEVEL))
    probability = jnp.where(
        x < -0.999, cdf_above, jnp.where(x > 0.999, 1 - cdf_below, cdf_above - cdf_below)
    )
    return jnp.log(jnp.maximum(probability, SMALLEST))


def variational_bound_term(
    diffusion: Diffusion,
    output: Float[Array, "batch *output_shape"],
    x_start: Float[Array, "batch *shape"],
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    clip: bool = True,
) -> tuple[Float[Array, " batch"], Float[Array, "batch *shape"]]:
    """One term of the bound, eq. 5, in bits per dimension, and the predicted x_0.

    `output`: of the network at (x_t, t). L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t));
    at t = 0 it is L_0 = -log p(x_0 | x_1). `clip` bounds the predicted x_0 to [-1, 1].
    """
    mean, _, log_variance = q_posterior(diffusion.schedule, x_start, x_t, t)
    reverse = p_mean_variance(diffusion, output, x_t, t, clip)
    kl = mean_flat(normal_kl(mean, log_variance, reverse.mean, reverse.log_variance))
    decoder_nll = -mean_flat(
        discretized_gaussian_log_likelihood(x_start, reverse.mean, 0.5 * reverse.log_variance)
    )
    return jnp.where(t == 0, decoder_nll, kl) / math.log(2), reverse.pred_xstart


def prior_bpd(
    schedule: NoiseSchedule, x_start: Float[Array, "batch *shape"]
) -> Float[Array, " batch"]:
    """L_T of eq. 5: KL(q(x_T | x_0) || N(0, I)) in bits per dimension; nothing is learned."""
    t = jnp.full(len(x_start), schedule.num_timesteps - 1)
    mean, _, log_variance = q_mean_variance(schedule, x_start, t)
    return mean_flat(normal_kl(mean, log_variance, 0.0, 0.0)) / math.log(2)


def variational_bound(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_start: Float[Array, "batch *shape"],
    noise: Callable[[Array], Float[Array, "batch *shape"]],
    clip: bool = True,
    timesteps: Int[Array, " K"] | None = None,
) -> Bound:
    """The whole bound, eq. 5, of a batch; to be jitted. The network is evaluated T times.

    `noise(t)`, at an int32 scalar, is the noise of x_t. `timesteps` choose the terms, a column
    each, if not all T are wanted at once.
    """
    schedule = diffusion.schedule

    def terms(step: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        t, eps = jnp.full(len(x_start), step), noise(step)
        x_t = q_sample(schedule, x_start, t, eps)
        output = denoise(x_t, model_timesteps(schedule, t)).astype(jnp.float32)
        vb, pred_xstart = variational_bound_term(diffusion, output, x_start, x_t, t, clip)
        pred_eps = eps_from_xstart(schedule, x_t, t, pred_xstart)
        xstart_mse = mean_flat(jnp.square(pred_xstart - x_start))
        return vb, xstart_mse, mean_flat(jnp.square(pred_eps - eps))

    rows = jax.lax.map(
        terms, jnp.arange(schedule.num_timesteps) if timesteps is None else timesteps
    )
    vb, xstart_mse, eps_mse = (row.T for row in rows)
    prior = prior_bpd(schedule, x_start)
    return Bound(prior + jnp.sum(vb, axis=1), prior, vb, xstart_mse, eps_mse)
