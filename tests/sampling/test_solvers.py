"""Solvers where the answer is known: a Gaussian's ODE, its moments, and EDM's paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.solver_order import DEVIATIONS, FULL, ORDERS, chain_of, independent_eps, ode_error
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import extract, make_schedule, named_betas
from ddpm_jax.diffusion.spacing import SPACINGS, log_ratio, respace
from ddpm_jax.sampling import SAMPLERS, ChainOptions, make_sampling_loop
from ddpm_jax.sampling.guidance import guided_denoiser
from ddpm_jax.sampling.heun import Churn, churned, churned_schedule
from ddpm_jax.sampling.noise import sample_keys, standard_normal
from tests.sampling.edm_by_the_paper import sample as edm_sample
from tests.sampling.steps import alpha_bar_at
from tests.sampling.test_loop import COVARIANCE, MEAN, gaussian_eps

NOISY = {"ddpm": 1000, "edm": 200, "euler_ancestral": 250, "dpmpp_2m_sde": 200}


@pytest.mark.parametrize("name", ORDERS)
def test_the_error_of_a_solver_falls_with_its_order(name):
    order, few, many = ORDERS[name]
    errors = [ode_error(name, steps) for steps in (few, many)]
    slope = np.log(errors[0] / errors[1]) / np.log(many / few)
    assert slope > order - 0.3, errors


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_returns_the_mean_and_covariance(name):
    count, steps = 4096, NOISY.get(name, 100)
    run = make_sampling_loop(
        chain_of(name, steps),
        SAMPLERS[name],
        lambda params, x, t, condition: gaussian_eps(x, t),
        (2,),
        ChainOptions(clip=False),
    )
    x = np.asarray(run((), 0, np.arange(count, dtype=np.int32), ()).x, np.float64)
    variances = np.diag(COVARIANCE)
    assert np.all(np.abs(x.mean(axis=0) - MEAN) < 4 * np.sqrt(variances / count))
    error = 4 * np.sqrt((np.outer(variances, variances) + COVARIANCE**2) / count)
    # Solvers of first order are off by a multiple of the step; the others by less than the noise.
    bias = 0.05 if name in ("ddim", "euler", "euler_ancestral") else 0.005
    assert np.all(np.abs(np.cov(x.T) - COVARIANCE) < error + bias)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_returns_the_predicted_x_start(name):
    run = make_sampling_loop(
        chain_of(name, 12),
        SAMPLERS[name],
        independent_eps,
        (2,),
        ChainOptions(keep=[0]),
    )
    found = run((), 0, np.arange(4, dtype=np.int32), ())
    if name == "pndm":  # mixes the last four predictions of eps to the end
        return
    np.testing.assert_allclose(found.x, found.kept_xstart[0], atol=1e-6)


def exploding_denoiser(x, sigma):
    """E[x_0 | x_0 + sigma n] of the independent data, float64."""
    gain = DEVIATIONS**2 / (DEVIATIONS**2 + sigma**2)
    return 0.3 + gain * (x - 0.3)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("churn", [None, Churn(4.0, 0.05, 50.0, 1.003), Churn(40.0, 0.01, 80.0, 1)])
def test_heun_and_churn_are_algorithms_1_and_2_of_the_paper(churn, schedule):
    full, steps, seed = make_schedule(named_betas(schedule, 1000)), 12, 5
    diffusion = Diffusion(respace(full, str(steps), "karras"), training=full)

    def apply(params, x, t, condition):
        alpha_bar = alpha_bar_at(full, t)[:, None]
        variance = alpha_bar * DEVIATIONS**2 + 1 - alpha_bar
        return jnp.sqrt(1 - alpha_bar) * (x - jnp.sqrt(alpha_bar) * 0.3) / variance

    def step(*arguments):
        return churned(*arguments, churn)

    sampler = SAMPLERS["heun"] if churn is None else SAMPLERS["edm"]._replace(step=step)
    options = ChainOptions(clip=False, keep=range(steps - 1, -1, -1))
    run = make_sampling_loop(diffusion, sampler, apply, (2,), options)
    index = np.arange(8, dtype=np.int32)
    found = run((), seed, index, ())
    got = np.asarray([*found.kept_x, found.x], np.float64)

    alphas = np.append(1.0, diffusion.schedule.sqrt_alphas_cumprod)[::-1]
    sigmas = np.append(0.0, np.exp(log_ratio(diffusion.schedule)))[::-1]
    keys = sample_keys(seed, index)
    noises = [np.asarray(standard_normal(keys, t, (2,)), float) for t in range(steps - 1, -1, -1)]
    settings = () if churn is None else churn
    want = edm_sample(exploding_denoiser, got[0] / alphas[0], sigmas, noises, *settings)
    want = np.asarray(want) * alphas[:, None, None]
    scale = np.maximum(1, np.abs(want).max(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(got / scale, want / scale, atol=2e-5)


def test_noise_is_never_raised_above_that_of_training():
    chain = chain_of("edm", 50)
    raised = churned_schedule(chain, Churn(most=1e9))
    assert raised.alphas_cumprod.min() >= FULL.alphas_cumprod[-1] * (1 - 1e-12)
    assert raised.model_timesteps.max() <= 999
    assert np.all(raised.alphas_cumprod <= chain.schedule.alphas_cumprod * (1 + 1e-12))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_spacing_keeps_the_levels_of_training_and_the_timestep_of_each(spacing):
    chain = respace(FULL, "20", spacing)
    assert chain.num_timesteps == 20
    ratio = log_ratio(FULL)
    want = np.interp(log_ratio(chain), ratio, np.arange(1000.0))
    np.testing.assert_allclose(chain.model_timesteps, want, atol=1e-6)
    if spacing in ("log_snr", "karras"):  # from the least noise to the most, but for useless levels
        most = min(ratio[-1], {"karras": np.log(80), "log_snr": 5.1}[spacing])
        np.testing.assert_allclose(log_ratio(chain)[[0, -1]], [ratio[0], most], rtol=1e-9)
    steps = np.diff(log_ratio(chain) if spacing == "log_snr" else np.exp(log_ratio(chain) / 7))
    if spacing in ("log_snr", "karras"):
        np.testing.assert_allclose(steps, steps[0], rtol=1e-8)


@pytest.mark.parametrize("steps", ["1", "1001", "ddim20", "10,10", "x", "-3"])
def test_a_spacing_between_timesteps_takes_a_number(steps):
    with pytest.raises(ValueError, match="must be a number from 2 to 1000"):
        respace(FULL, steps, "karras")


@pytest.mark.parametrize("name", ["unipc", "dpmpp_3m", "heun", "pndm"])
def test_every_slice_of_a_chain_goes_on_with_the_memory_of_the_last(name):
    index = np.arange(4, dtype=np.int32)
    run = make_sampling_loop(chain_of(name, 12), SAMPLERS[name], independent_eps, (2,))
    whole, sliced = run((), 0, index, ()), run((), 0, index, (), lambda n: None)
    np.testing.assert_array_equal(whole.x, sliced.x)


def test_a_raised_level_is_guided_at_its_own_timestep():
    seen = []

    def gradient(x, t):
        seen.append(t)
        return 0 * x

    chain = chain_of("edm", 20)
    raised = churned_schedule(chain, Churn())
    x, t = jnp.ones((1, 2)), jnp.array([10])
    denoise = guided_denoiser(chain, lambda x, t: independent_eps((), x, t, ()), True, gradient)
    denoise(x, t, raised)
    np.testing.assert_array_equal(seen[0], extract(raised.model_timesteps, t, t))
    assert jax.device_get(seen[0]) > chain.schedule.model_timesteps[10]
