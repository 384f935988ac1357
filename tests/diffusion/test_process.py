"""The Gaussian algebra: q, its posterior, and what each prediction and variance stands for."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.predictions import PREDICTIONS, eps_from_xstart
from ddpm_jax.diffusion.process import (
    Diffusion,
    p_mean_variance,
    predict_xstart,
    prediction_target,
    q_mean_variance,
    q_posterior,
    q_sample,
)
from ddpm_jax.diffusion.schedules import make_schedule, named_betas, rescaled
from ddpm_jax.diffusion.spacing import respace

T = 50
SCHEDULES = {
    "linear": make_schedule(named_betas("linear", T)),
    "cosine": make_schedule(named_betas("cosine", T)),
    "respaced": respace(rescaled(make_schedule(named_betas("linear", 1000))), str(T)),
}


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES.keys())
def schedule(request):
    return request.param


@pytest.fixture
def batch(schedule):
    """x_start, x_t, t, noise: one example of every timestep."""
    x_key, noise_key = jax.random.split(jax.random.key(0))
    t = jnp.arange(T)
    x_start = jax.random.uniform(x_key, (T, 3, 2), minval=-1)
    noise = jax.random.normal(noise_key, x_start.shape)
    return x_start, q_sample(schedule, x_start, t, noise), t, noise


def test_one_step_kernels_compose_to_the_marginal(schedule):
    mean, variance = 1.0, 0.0
    x_start = jnp.ones((T, 1))
    q_mean, q_variance, q_log_variance = q_mean_variance(schedule, x_start, jnp.arange(T))
    for t, beta in enumerate(schedule.betas):
        mean, variance = mean * np.sqrt(1 - beta), (1 - beta) * variance + beta
        np.testing.assert_allclose(q_mean[t, 0], mean, rtol=1e-6)
        np.testing.assert_allclose(q_variance[t, 0], variance, rtol=1e-6)
        np.testing.assert_allclose(q_log_variance[t, 0], np.log(variance), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("t", [0, T // 2, T - 1])
def test_samples_of_q_have_its_mean_and_variance(schedule, t):
    count = 40_000
    x_start, steps = jnp.full((count, 1), 0.7), jnp.full(count, t)
    noise = jax.random.normal(jax.random.key(1), x_start.shape)
    samples = np.asarray(q_sample(schedule, x_start, steps, noise), np.float64)
    mean, variance, _ = (float(x[0, 0]) for x in q_mean_variance(schedule, x_start, steps))
    assert samples.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / count))
    assert samples.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / count))


def test_posterior_is_bayes_rule(schedule, batch):
    # q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0).
    x_start, x_t, t, _ = batch
    beta, previous = (
        table[1:, None, None] for table in (schedule.betas, schedule.alphas_cumprod_prev)
    )
    precision = (1 - beta) / beta + 1 / (1 - previous)
    weighted = np.sqrt(1 - beta) / beta * x_t[1:] + np.sqrt(previous) / (1 - previous) * x_start[1:]
    mean, variance, log_variance = q_posterior(schedule, x_start, x_t, t)
    np.testing.assert_allclose(mean[1:], weighted / precision, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance[1:, :1, :1], 1 / precision, rtol=1e-5)
    np.testing.assert_allclose(log_variance[1:, :1, :1], -np.log(precision), rtol=1e-5)


def test_posterior_at_the_last_step_is_x_start_itself(schedule, batch):
    x_start, x_t, t, _ = batch
    mean, variance, log_variance = q_posterior(schedule, x_start, x_t, t)
    np.testing.assert_allclose(mean[0], x_start[0], rtol=1e-6)
    assert not variance[0].any()
    np.testing.assert_array_equal(log_variance[0, 0, 0], log_variance[1, 0, 0])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_target_stands_for_x_start(schedule, batch, prediction):
    x_start, x_t, t, noise = batch
    diffusion = Diffusion(schedule, prediction)
    target = prediction_target(diffusion, x_start, x_t, t, noise)
    reverse = p_mean_variance(diffusion, target, x_t, t, clip=False)
    # Solving for x_0 divides by the signal that is left, which is small at the end of the chain.
    atol = 3e-6 / _signal(schedule, prediction)
    assert np.all(np.abs(reverse.pred_xstart - x_start) <= atol)
    want, _, _ = q_posterior(schedule, x_start, x_t, t)
    np.testing.assert_allclose(reverse.mean, want, atol=1e-5)


@pytest.mark.parametrize("source, other", list(product(PREDICTIONS, PREDICTIONS)))
def test_every_prediction_converts_to_every_other_and_back(schedule, batch, source, other):
    _, x_t, t, _ = batch

    def convert(output, source, target):
        x_start = predict_xstart(Diffusion(schedule, source), output, x_t, t)
        eps = eps_from_xstart(schedule, x_t, t, x_start)
        return prediction_target(Diffusion(schedule, target), x_start, x_t, t, eps)

    output = prediction_target(Diffusion(schedule, source), *batch)
    there = convert(output, source, other)
    want = prediction_target(Diffusion(schedule, other), *batch)
    # Near t = 0 the noise is a small difference of large numbers; near T-1 x_0 is.
    noise = schedule.sqrt_one_minus_alphas_cumprod[:, None, None]
    atol = 5e-6 / (_signal(schedule, source) * noise)
    assert np.all(np.abs(there - want) <= atol)
    atol = 5e-6 / np.minimum(_signal(schedule, source), _signal(schedule, other)) / noise
    assert np.all(np.abs(convert(there, other, source) - output) <= atol)


def _signal(schedule, prediction):
    """How much of x_0 a prediction holds, [T, 1, 1]: what solving for x_0 divides by."""
    table = {
        "eps": schedule.sqrt_alphas_cumprod,
        "x_start": np.ones(T),
        "x_prev": schedule.posterior_mean_coef1,
        "v": np.ones(T),
    }[prediction]
    return table[:, None, None]


def test_fixed_variances_are_the_posterior_and_beta_and_one_at_the_last_step(schedule, batch):
    _, x_t, t, noise = batch
    small, large = (
        p_mean_variance(Diffusion(schedule, variance=kind), noise, x_t, t)
        for kind in ("fixed_small", "fixed_large")
    )
    np.testing.assert_allclose(small.variance[:, 0, 0], schedule.posterior_variance, rtol=1e-6)
    np.testing.assert_allclose(large.variance[1:, 0, 0], schedule.betas[1:], rtol=1e-6)
    # The decoder's: the posterior has no variance at t = 0, so both take that of t = 1.
    first = np.log(schedule.posterior_variance[1])
    for step in (small, large):
        np.testing.assert_allclose(step.log_variance[0], first, rtol=1e-6)


@pytest.mark.parametrize("end, kind", [(-1, "fixed_small"), (1, "fixed_large")])
def test_learned_range_spans_the_fixed_variances(schedule, batch, end, kind):
    _, x_t, t, noise = batch
    ranged = p_mean_variance(
        Diffusion(schedule, variance="learned_range"),
        jnp.concatenate([noise, jnp.full_like(noise, end)], axis=-1),
        x_t,
        t,
    )
    fixed = p_mean_variance(Diffusion(schedule, variance=kind), noise, x_t, t)
    np.testing.assert_array_equal(ranged.mean, fixed.mean)
    # At t = 0 both fixed variances are the posterior's at t = 1; the upper bound is beta_0.
    np.testing.assert_allclose(ranged.log_variance[1:], fixed.log_variance[1:], rtol=1e-5)
    np.testing.assert_allclose(ranged.variance[1:], fixed.variance[1:], rtol=1e-5)
    log_first = schedule.posterior_log_variance_clipped[0] if end < 0 else np.log(schedule.betas[0])
    np.testing.assert_allclose(ranged.log_variance[0], log_first, rtol=1e-6)


def test_learned_range_is_linear_in_the_logarithm_and_not_clamped(schedule, batch):
    _, x_t, t, noise = batch
    diffusion = Diffusion(schedule, variance="learned_range")
    small, middle, large, beyond = (
        p_mean_variance(
            diffusion, jnp.concatenate([noise, jnp.full_like(noise, v)], axis=-1), x_t, t
        ).log_variance
        for v in (-1, 0, 1, 3)
    )
    np.testing.assert_allclose(middle, (small + large) / 2, rtol=1e-5)
    np.testing.assert_allclose(beyond - large, large - small, rtol=1e-3, atol=2e-6)


def test_learned_variance_is_the_second_half_of_the_last_axis(schedule, batch):
    _, x_t, t, noise = batch
    log_variance = jax.random.normal(jax.random.key(2), noise.shape)
    diffusion = Diffusion(schedule, variance="learned")
    got = p_mean_variance(diffusion, jnp.concatenate([noise, log_variance], axis=-1), x_t, t)
    np.testing.assert_array_equal(got.log_variance, log_variance)
    np.testing.assert_allclose(got.variance, np.exp(log_variance), rtol=1e-5)
    plain = p_mean_variance(Diffusion(schedule), noise, x_t, t)
    np.testing.assert_array_equal(got.pred_xstart, plain.pred_xstart)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_clipping_bounds_pred_xstart_and_spares_a_predicted_mean(schedule, batch, prediction):
    _, x_t, t, noise = batch
    diffusion, output = Diffusion(schedule, prediction), 5 * noise
    clipped = p_mean_variance(diffusion, output, x_t, t, clip=True)
    assert np.abs(clipped.pred_xstart).max() == 1
    if prediction == "x_prev":
        np.testing.assert_array_equal(clipped.mean, output)
    else:
        want, _, _ = q_posterior(schedule, clipped.pred_xstart, x_t, t)
        np.testing.assert_array_equal(clipped.mean, want)


def test_denoised_fn_comes_before_the_clip(schedule, batch):
    _, x_t, t, _ = batch
    got = p_mean_variance(
        Diffusion(schedule, "x_start"), x_t, x_t, t, denoised_fn=lambda x: jnp.full_like(x, 9)
    )
    np.testing.assert_array_equal(got.pred_xstart, 1)


def test_unknown_types_are_value_errors(schedule, batch):
    _, x_t, t, noise = batch
    with pytest.raises(ValueError, match="unknown prediction: score"):
        p_mean_variance(Diffusion(schedule, "score"), noise, x_t, t)
    with pytest.raises(ValueError, match="unknown variance: huge"):
        p_mean_variance(Diffusion(schedule, "eps", "huge"), noise, x_t, t)
    with pytest.raises(ValueError, match="unknown prediction: score"):
        prediction_target(Diffusion(schedule, "score"), noise, x_t, t, noise)
