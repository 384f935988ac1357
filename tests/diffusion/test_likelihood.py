"""The variational bound: divergences, the discretised likelihood, and what they sum to."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.likelihood import (
    approx_standard_normal_cdf,
    discretized_gaussian_log_likelihood,
    normal_kl,
    prior_bpd,
    variational_bound,
    variational_bound_term,
)
from ddpm_jax.diffusion.predictions import eps_from_xstart
from ddpm_jax.diffusion.process import Diffusion, model_timesteps, q_sample
from ddpm_jax.diffusion.schedules import linear_betas, make_schedule, named_betas, rescaled
from ddpm_jax.diffusion.spacing import respace

LEVELS = jnp.arange(256) / 127.5 - 1
RESPACED = respace(rescaled(make_schedule(named_betas("cosine", 400))), "20")
X_START = jax.random.choice(jax.random.key(0), LEVELS, (3, 4, 4, 2))


def noise_of(index):
    """noise(t), of each example its own function of (index, t)."""

    def draw(i, t):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), i), t)
        return jax.random.normal(key, X_START.shape[1:])

    return lambda t: jax.vmap(draw, in_axes=(0, None))(index, t)


def learned(x, model_t):
    """A network that returns a variance too."""
    shift = model_t[:, None, None, None] / 1000
    return jnp.concatenate([0.8 * x + 0.1 * shift, jnp.cos(2 * x + shift)], axis=-1)


@pytest.mark.parametrize(
    "first, second",
    [((0.0, 0.0), (0.0, 0.0)), ((1.0, -1.0), (-0.5, 0.7)), ((0.2, 2.0), (0.0, 0.0))],
)
def test_divergence_is_the_integral_of_the_log_ratio(first, second):
    def log_density(x, mean, log_variance):
        return -0.5 * (np.log(2 * np.pi) + log_variance + (x - mean) ** 2 / np.exp(log_variance))

    x = np.linspace(-40, 40, 400_001)
    p, q = log_density(x, *first), log_density(x, *second)
    want = np.sum(np.exp(p) * (p - q)) * (x[1] - x[0])
    got = normal_kl(*map(jnp.float32, (*first, *second)))
    assert float(got) == pytest.approx(want, rel=1e-5, abs=1e-7)


def test_divergence_of_near_gaussians_keeps_its_digits():
    # The prior's, of DDPM's schedule. In float32 exp(ratio) - 1 - ratio is rounding alone.
    mean, log_variance = 1e-4, np.log1p(-4e-5)
    want = 0.5 * (np.expm1(log_variance) - log_variance + mean**2)
    got = jax.jit(normal_kl)(jnp.float32(mean), jnp.float32(log_variance), 0.0, 0.0)
    assert float(got) == pytest.approx(want, rel=1e-2)


def test_cdf_is_the_normal_one_to_its_stated_accuracy():
    x = np.linspace(-8, 8, 4001)
    want = [0.5 * math.erfc(-v / math.sqrt(2)) for v in x]
    np.testing.assert_allclose(approx_standard_normal_cdf(x), want, atol=3e-4)


def test_discretised_likelihood_sums_to_one_over_the_levels():
    mean_key, scale_key = jax.random.split(jax.random.key(2))
    means = jax.random.uniform(mean_key, (50, 1), minval=-1.5, maxval=1.5)
    log_scales = jax.random.uniform(scale_key, (50, 1), minval=-7, maxval=1)
    log_likelihood = discretized_gaussian_log_likelihood(LEVELS, means, log_scales)
    assert log_likelihood.shape == (50, 256)
    np.testing.assert_allclose(np.exp(log_likelihood).sum(axis=1), 1, atol=1e-5)


def test_discretised_likelihood_is_the_density_times_the_width_of_a_level():
    inner, mean, log_scale = LEVELS[100:160], 0.1, -1.5
    density = np.exp(-0.5 * ((inner - mean) / np.exp(log_scale)) ** 2) / (
        np.exp(log_scale) * np.sqrt(2 * np.pi)
    )
    got = np.exp(discretized_gaussian_log_likelihood(inner, mean, log_scale))
    np.testing.assert_allclose(got, density * 2 / 255, rtol=0.01)


def test_gradients_are_finite_far_from_the_level():
    gradient = jax.grad(
        lambda mean, log_scale: discretized_gaussian_log_likelihood(LEVELS, mean, log_scale).sum(),
        argnums=(0, 1),
    )
    assert np.all(np.isfinite(gradient(1e3, -10.0)))


def test_terms_of_the_bound_sum_to_its_total():
    diffusion = Diffusion(RESPACED, "eps", "learned_range")
    bound = variational_bound(diffusion, learned, X_START, noise_of(jnp.arange(3)))
    assert bound.vb.shape == bound.xstart_mse.shape == bound.eps_mse.shape == (3, 20)
    np.testing.assert_array_equal(bound.prior_bpd, prior_bpd(RESPACED, X_START))
    total = np.sum(bound.vb, axis=1) + bound.prior_bpd
    np.testing.assert_allclose(bound.total_bpd, total, rtol=1e-6)


@pytest.mark.parametrize("step", [0, 7, 19])
def test_column_t_of_the_bound_is_the_term_at_t(step):
    diffusion = Diffusion(RESPACED, "eps", "learned_range")
    noise, t = noise_of(jnp.arange(3)), jnp.full(3, step)
    bound = variational_bound(diffusion, learned, X_START, noise)
    x_t = q_sample(RESPACED, X_START, t, noise(step))
    output = learned(x_t, model_timesteps(RESPACED, t))
    vb, pred_xstart = variational_bound_term(diffusion, output, X_START, x_t, t)
    np.testing.assert_allclose(bound.vb[:, step], vb, rtol=1e-4)
    xstart_mse = np.square(pred_xstart - X_START).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(bound.xstart_mse[:, step], xstart_mse, rtol=1e-4)
    pred_eps = eps_from_xstart(RESPACED, x_t, t, pred_xstart)
    eps_mse = np.square(pred_eps - noise(step)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(bound.eps_mse[:, step], eps_mse, rtol=1e-4, atol=1e-9)


def test_bound_of_an_example_does_not_depend_on_its_batch():
    diffusion = Diffusion(RESPACED, "eps", "learned_range")
    batch = variational_bound(diffusion, learned, X_START, noise_of(jnp.arange(3)))
    alone = variational_bound(diffusion, learned, X_START[1:2], noise_of(jnp.array([1])))
    np.testing.assert_allclose(alone.total_bpd, batch.total_bpd[1:2], rtol=1e-5)


def exact_reverse(schedule, std):
    """The network whose p(x_{t-1} | x_t) is q(x_{t-1} | x_t), for data of N(0, std^2).

    It predicts x_0 and learns the variance: that of the posterior, and of x_0 given x_t.
    """
    signal, noise = schedule.alphas_cumprod, 1 - schedule.alphas_cumprod
    gain = std**2 * np.sqrt(signal) / (std**2 * signal + noise)
    spread = std**2 * noise / (std**2 * signal + noise)
    variance = schedule.posterior_variance + schedule.posterior_mean_coef1**2 * spread
    gain, log_variance = (jnp.asarray(x, jnp.float32) for x in (gain, np.log(variance)))

    def denoise(x, model_t):
        t = model_t.astype(jnp.int32)[:, None]
        return jnp.concatenate([gain[t] * x, jnp.broadcast_to(log_variance[t], x.shape)], axis=-1)

    return Diffusion(schedule, "x_start", "learned"), denoise


def test_bound_of_the_exact_reverse_process_is_the_entropy_of_the_data():
    # E[bound] = H(x_0) + KL(q(x_T) || N(0, I)), whatever the number of steps.
    std, shape = 0.3, (256, 1024)
    x_start = std * jax.random.normal(jax.random.key(3), shape)
    x_start = jnp.round((x_start + 1) * 127.5) / 127.5 - 1
    diffusion, denoise = exact_reverse(make_schedule(linear_betas(50, 1e-3, 0.3)), std)

    def bits(diffusion, denoise):
        def noise(t):
            return jax.random.normal(jax.random.fold_in(jax.random.key(4), t), shape)

        return float(variational_bound(diffusion, denoise, x_start, noise, False).total_bpd.mean())

    entropy = math.log2(std * math.sqrt(2 * math.pi * math.e) * 127.5)
    assert bits(diffusion, denoise) == pytest.approx(entropy, abs=0.02)
    # Any other reverse process needs more bits.
    fixed = diffusion._replace(variance="fixed_small")
    assert bits(fixed, lambda *a: denoise(*a)[:, :1024]) > entropy + 0.05
    assert bits(diffusion, lambda *a: denoise(*a) * 1.05) > entropy + 0.05
