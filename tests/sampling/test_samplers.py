"""What holds of a single step of each sampler, and of samplers among one another."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.predictions import eps_from_xstart
from ddpm_jax.diffusion.process import (
    Diffusion,
    model_timesteps,
    p_mean_variance,
    q_posterior,
    q_sample,
)
from ddpm_jax.diffusion.schedules import extract, make_schedule, named_betas, rescaled
from ddpm_jax.diffusion.spacing import respace
from ddpm_jax.sampling.guidance import shift_mean, shift_score
from ddpm_jax.sampling.samplers import SAMPLERS, sampler_name
from tests.sampling.steps import one_reverse_ddim_step, one_step

T = 60
SCHEDULES = {
    "linear": make_schedule(named_betas("linear", T)),
    "cosine": rescaled(make_schedule(named_betas("cosine", T))),
    "respaced": respace(make_schedule(named_betas("linear", 1000)), str(T)),
}
STEPS = {
    "ancestral": partial(one_step, "ddpm"),
    "ddim_0": partial(one_step, "ddim"),
    "ddim_half": partial(one_step, "ddim", eta=0.5),
    "ddim_1": partial(one_step, "ddim", eta=1.0),
}
ALL_T = jnp.arange(T)
X_T = jax.random.normal(jax.random.key(0), (T, 4, 2))
NOISE = jax.random.normal(jax.random.key(1), X_T.shape)


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES.keys())
def diffusion(request):
    return Diffusion(request.param)


@pytest.fixture(params=STEPS.values(), ids=STEPS.keys())
def step(request):
    return request.param


def denoise(x, model_t):
    return jnp.tanh(x + model_t[:, None, None] / 100)


def test_noise_is_not_added_at_the_last_step(diffusion, step):
    noisy, quiet = (step(diffusion, denoise, X_T, ALL_T, n).sample for n in (NOISE, 0 * NOISE))
    np.testing.assert_array_equal(noisy[0], quiet[0])


def test_clipping_bounds_the_predicted_x_start(diffusion, step):
    clipped, free = (step(diffusion, denoise, X_T, ALL_T, NOISE, clip=c) for c in (True, False))
    assert np.abs(clipped.pred_xstart).max() == 1 < np.abs(free.pred_xstart).max()


def test_a_zero_gradient_guides_nowhere(diffusion, step):
    guided = step(diffusion, denoise, X_T, ALL_T, NOISE, gradient=lambda x, t: 0 * x)
    free = step(diffusion, denoise, X_T, ALL_T, NOISE)
    np.testing.assert_array_equal(guided.sample, free.sample)
    np.testing.assert_array_equal(guided.pred_xstart, free.pred_xstart)


def test_model_and_gradient_see_the_same_timesteps(diffusion, step):
    seen = []

    def spy(x, t):
        seen.append(t)
        return 0 * x

    step(diffusion, spy, X_T, ALL_T, NOISE, gradient=spy)
    assert len(seen) == 2
    for t in seen:
        np.testing.assert_array_equal(t, model_timesteps(diffusion.schedule, ALL_T))


def test_ancestral_guidance_moves_the_mean_by_variance_times_gradient(diffusion):
    run = partial(one_step, "ddpm", diffusion, denoise, X_T, ALL_T, NOISE, clip_guided=False)
    free, guided = run(), run(gradient=lambda x, t: jnp.full_like(x, 3))
    variance = extract(diffusion.schedule.posterior_variance, ALL_T, X_T)
    shift = np.broadcast_to(3 * variance, X_T.shape)
    np.testing.assert_allclose(guided.sample - free.sample, shift, atol=2e-6)
    np.testing.assert_array_equal(guided.pred_xstart, free.pred_xstart)


def test_ddim_guidance_moves_eps_against_the_gradient(diffusion):
    def gradient(x, t):
        return jnp.full_like(x, 0.5)

    def guided_eps(x, model_t):
        sigma = extract(diffusion.schedule.sqrt_one_minus_alphas_cumprod, ALL_T, x)
        return denoise(x, model_t) - sigma * gradient(x, model_t)

    step = partial(one_step, "ddim")
    guided = step(diffusion, denoise, X_T, ALL_T, NOISE, clip=False, gradient=gradient)
    want = step(diffusion, guided_eps, X_T, ALL_T, NOISE, clip=False)
    scale = extract(diffusion.schedule.sqrt_recip_alphas_cumprod, ALL_T, X_T)
    for got, expected in zip(guided, want, strict=True):
        assert np.all(np.abs(got - expected) <= 1e-5 * scale)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_samples_have_the_reverse_mean_and_variance(diffusion, variance):
    diffusion = diffusion._replace(variance=variance)
    reverse = p_mean_variance(
        diffusion, denoise(X_T, model_timesteps(diffusion.schedule, ALL_T)), X_T, ALL_T
    )
    quiet, noisy = (
        one_step("ddpm", diffusion, denoise, X_T, ALL_T, jnp.full_like(X_T, n)).sample
        for n in (0, 1)
    )
    np.testing.assert_array_equal(quiet, reverse.mean)
    np.testing.assert_allclose((noisy - quiet)[1:] ** 2, reverse.variance[1:], rtol=1e-3, atol=1e-9)


def test_ddim_at_eta_1_is_ancestral_sampling(diffusion):
    ddim, ancestral = (
        step(diffusion, denoise, X_T, ALL_T, NOISE)
        for step in (STEPS["ddim_1"], STEPS["ancestral"])
    )
    np.testing.assert_array_equal(ddim.pred_xstart, ancestral.pred_xstart)
    np.testing.assert_allclose(ddim.sample, ancestral.sample, atol=5e-5)


def test_ddim_at_eta_1_has_the_posterior_mean_and_variance(diffusion):
    quiet, noisy = (
        one_step("ddim", diffusion, denoise, X_T, ALL_T, jnp.full_like(X_T, n), eta=1.0)
        for n in (0, 1)
    )
    mean, variance, _ = q_posterior(diffusion.schedule, quiet.pred_xstart, X_T, ALL_T)
    np.testing.assert_allclose(quiet.sample, mean, atol=5e-5)
    deviation = noisy.sample - quiet.sample
    np.testing.assert_allclose(deviation[1:] ** 2, variance[1:], rtol=1e-3, atol=1e-9)


def test_ddim_noise_grows_with_eta_and_the_marginal_stays(diffusion):
    # If the network knows x_0, a step takes a draw of q(x_t | x_0) to one of q(x_{t-1} | x_0).
    x_start = jnp.full(X_T.shape, 0.5)
    x_t = q_sample(diffusion.schedule, x_start, ALL_T, X_T)
    exact = diffusion._replace(prediction="x_start")
    previous = diffusion.schedule.alphas_cumprod_prev[1:, None, None]
    spreads = []
    for eta in (0.0, 0.5, 1.0):
        run = partial(one_step, "ddim", exact, lambda x, t: x_start, x_t, ALL_T, eta=eta)
        quiet, noisy = (run(jnp.full_like(x_t, n)).sample[1:] for n in (0, 1))
        kept = (quiet - np.sqrt(previous) * x_start[1:]) / X_T[1:]
        total = np.broadcast_to(1 - previous, kept.shape)
        np.testing.assert_allclose(kept**2 + (noisy - quiet) ** 2, total, rtol=2e-3)
        spreads.append(noisy - quiet)
    assert not spreads[0].any()
    np.testing.assert_allclose(spreads[1], spreads[2] / 2, rtol=1e-3, atol=1e-6)


def test_reverse_ddim_undoes_ddim_where_eps_is_the_same(diffusion):
    eps = jax.random.normal(jax.random.key(2), X_T.shape)
    x, t = X_T[:-1], ALL_T[:-1]
    up = one_reverse_ddim_step(diffusion, lambda x, t: eps[:-1], x, t, clip=False)
    step = partial(one_step, "ddim", diffusion, lambda x, t: eps[:-1])
    down = step(up.sample, t + 1, 0 * x, clip=False)
    # x at T-1 holds little of x_0, and dividing by it brings up the rounding error.
    lost = diffusion.schedule.sqrt_alphas_cumprod[:-1] / diffusion.schedule.sqrt_alphas_cumprod[1:]
    assert np.all(np.abs(down.sample - x) <= 1e-5 * lost[:, None, None])


def test_reverse_ddim_ends_in_pure_eps(diffusion):
    x, t = X_T[-1:], ALL_T[-1:]
    up = one_reverse_ddim_step(diffusion, denoise, x, t)
    eps = eps_from_xstart(diffusion.schedule, x, t, up.pred_xstart)
    np.testing.assert_array_equal(up.sample, eps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_clipping_after_guidance_keeps_a_sample_in_the_range_of_the_data(diffusion, name):
    # At the last step of the chain x is the guided x_0. A gradient that would carry it far away:
    push = partial(
        one_step, name, diffusion, denoise, X_T, 0 * ALL_T, NOISE, gradient=lambda x, t: 1e6 + 0 * x
    )
    diffusion = diffusion._replace(variance="fixed_large")
    clipped, original = push().sample, push(clip_guided=False).sample
    assert np.abs(clipped).max() <= 1 + 1e-6
    if name == "ddim":  # the variance of the ancestral step is 0 there, and so is its guidance
        assert np.abs(original).max() > 10


@pytest.mark.parametrize("name", SAMPLERS)
def test_clipping_after_guidance_changes_nothing_inside_the_range(diffusion, name):
    # x_0 is predicted as 0.3 throughout; the gradients move it by less than 0.7, also where the
    # noise is raised.
    exact = diffusion._replace(prediction="x_start")
    schedule = exact.schedule
    reach = {
        shift_mean: schedule.posterior_variance / schedule.posterior_mean_coef1,
        shift_score: (1 - schedule.alphas_cumprod) * schedule.sqrt_recip_alphas_cumprod,
    }[SAMPLERS[name].guide]
    size = jnp.asarray(0.3 / np.maximum(reach, 1e-12), jnp.float32)[:, None, None]
    run = partial(one_step, name, exact, lambda x, t: jnp.full_like(x, 0.3), X_T, ALL_T, NOISE)
    gradient = lambda x, t: size * jnp.sin(40 * x)  # noqa: E731
    clipped, original = run(gradient=gradient), run(gradient=gradient, clip_guided=False)
    np.testing.assert_allclose(clipped.sample, original.sample, rtol=1e-5, atol=1e-5)
    assert np.abs(original.sample - run().sample).max() > 0.01


@pytest.mark.parametrize("word", ["DDIM", "ddim", " d-d-i-m "])
def test_a_sampler_is_known_by_every_spelling(word):
    assert sampler_name(word) == "ddim"
    assert sampler_name("Ancestral") == sampler_name("p_sample") == "ddpm"


def test_an_unknown_sampler_is_an_error_that_says_what_was_meant():
    with pytest.raises(ValueError, match=r"unknown sampler: ddimm.*did you mean ddim"):
        sampler_name("ddimm")
