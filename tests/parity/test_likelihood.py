"""Divergences, the discretised likelihood and bits per dimension, against the original code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.likelihood import (
    approx_standard_normal_cdf,
    discretized_gaussian_log_likelihood,
    normal_kl,
    variational_bound,
)
from tests.parity.cases import diffusion_of, fake_model
from tests.parity.golden import load, to_nhwc


def test_divergence_of_gaussians_is_the_originals(golden):
    file = golden("losses.npz")
    mean1, log_variance1, *second = (
        file.array(f"in/{key}") for key in ("mean1", "logvar1", "mean2", "logvar2")
    )
    file.check("out/normal_kl", normal_kl(mean1, log_variance1, *second))
    file.check("out/normal_kl_std", normal_kl(mean1, log_variance1, 0.0, 0.0))


def test_discretised_likelihood_is_the_originals(golden):
    file = golden("losses.npz")
    # The floors are single rounding errors, some of them 0 by luck. What they are is an absolute
    # error of probabilities; in their logarithms it grows as 1 / probability.
    floor = file.array("floor/approx_cdf")
    got = approx_standard_normal_cdf(file.array("in/cdf_x"))
    file.check("out/approx_cdf", got, floor=np.full_like(floor, floor.max()))

    inputs = (file.array(f"in/{key}") for key in ("x", "means", "log_scales"))
    probability = np.exp(file.array("out/disc_loglik"))
    floor = np.max(file.array("floor/disc_loglik") * probability) / probability
    file.check("out/disc_loglik", discretized_gaussian_log_likelihood(*inputs), floor=floor)


def tape_model(file, name, diffusion):
    """Returns the output recorded for its timestep: call i of the original was at T-1-i."""
    keys = [f"in/{name}/{key}" for key in ("tape_mean", "tape_var")]
    tapes = [file.array(key) for key in keys if file.keys(key)]
    outputs = jnp.concatenate([to_nhwc(tape) for tape in tapes], axis=-1)[::-1]
    told = jnp.asarray(diffusion.schedule.model_timesteps, jnp.float32)
    return lambda x, model_t: outputs[jnp.argmin(jnp.abs(told - model_t[0]))]


@pytest.mark.parametrize("name", load("bpd.npz").meta["cases"])
def test_bits_per_dimension_and_every_term_are_the_originals(golden, name):
    file = golden("bpd.npz")
    case = file.meta["cases"][name]
    diffusion = diffusion_of(case, case["mean"], case["var"])
    tape = case.get("tape", False)
    denoise = tape_model(file, name, diffusion) if tape else fake_model(file, case["var"])
    noises = jnp.asarray(to_nhwc(file.array(f"in/{name}/noises"))[::-1])  # by timestep

    @jax.jit
    def bound(x_start):
        return variational_bound(diffusion, denoise, x_start, lambda t: noises[t], case["clip"])

    got = bound(to_nhwc(file.array(f"in/{name}/x_start")))
    file.check(f"out/{name}/total_bpd", got.total_bpd)
    file.check(f"out/{name}/prior_bpd", got.prior_bpd)
    # The original's columns run from T-1 down to 0.
    file.check(f"out/{name}/vb", got.vb[:, ::-1])
    file.check(f"out/{name}/xstart_mse", got.xstart_mse[:, ::-1])
    file.check(f"out/{name}/mse", got.eps_mse[:, ::-1])
