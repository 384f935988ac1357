"""What holds of every noise schedule, and of the shorter chains made from it."""

import math
import typing

import numpy as np
import pytest

from ddpm_jax.config import DiffusionConfig
from ddpm_jax.diffusion.schedules import (
    alpha_bar_betas,
    cosine_alpha_bar,
    make_schedule,
    named_betas,
    rescaled,
    sigmoid_betas,
)
from ddpm_jax.diffusion.spacing import respace, space_timesteps

NAMES = typing.get_args(typing.get_type_hints(DiffusionConfig)["schedule"])
SPECS = ["250", "10,15,20", "ddim50", (1, 1), "1000", "999"]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.mark.parametrize("num_timesteps", [20, 100, 1000, 4000])
def test_betas_are_in_0_to_1_and_the_signal_to_noise_ratio_falls(name, num_timesteps):
    betas = named_betas(name, num_timesteps)
    assert betas.shape == (num_timesteps,) and betas.dtype == np.float64
    assert betas.min() > 0 and betas.max() <= 1
    alpha_bar = make_schedule(betas).alphas_cumprod
    assert np.all(np.diff(alpha_bar / (1 - alpha_bar)) < 0)


def test_alpha_bar_is_the_product_of_one_minus_beta(name):
    schedule = make_schedule(named_betas(name, 200))
    product = [math.prod(1 - schedule.betas[: t + 1]) for t in range(200)]
    np.testing.assert_allclose(schedule.alphas_cumprod, product, rtol=1e-12, atol=1e-300)
    np.testing.assert_array_equal(schedule.alphas_cumprod_prev[1:], schedule.alphas_cumprod[:-1])
    np.testing.assert_array_equal(schedule.alphas_cumprod_next[:-1], schedule.alphas_cumprod[1:])
    assert schedule.alphas_cumprod_prev[0] == 1 and schedule.alphas_cumprod_next[-1] == 0


def test_betas_of_an_alpha_bar_function_follow_it():
    num_timesteps = 1000
    alpha_bar = make_schedule(alpha_bar_betas(cosine_alpha_bar, num_timesteps)).alphas_cumprod
    times = np.arange(1, num_timesteps + 1) / num_timesteps
    want = np.array([cosine_alpha_bar(time) for time in times]) / cosine_alpha_bar(0)
    np.testing.assert_allclose(alpha_bar[:-1], want[:-1], rtol=1e-9)
    assert alpha_bar[-1] == pytest.approx(alpha_bar[-2] * (1 - 0.999))
    assert alpha_bar_betas(cosine_alpha_bar, num_timesteps, max_beta=0.3).max() == 0.3


def test_jsd_loses_equal_parts_of_the_signal():
    alpha_bar = make_schedule(named_betas("jsd", 50)).alphas_cumprod
    np.testing.assert_allclose(alpha_bar, 1 - np.arange(1, 51) / 50, atol=1e-12)


def test_linear_ends_in_noise_whatever_its_length():
    ends = [make_schedule(named_betas("linear", n)).alphas_cumprod[-1] for n in (50, 1000, 4000)]
    assert 0 < max(ends) < 1e-4


def test_given_bounds_are_the_first_and_last_beta():
    for name in ("linear", "quadratic", "warmup10", "warmup50"):
        betas = named_betas(name, 100, start=1e-3, end=0.05)
        np.testing.assert_allclose(betas[[0, -1]], [1e-3, 0.05], rtol=1e-12)
    assert set(named_betas("constant", 100, end=0.05)) == {0.05}


def test_warm_up_is_linear_and_then_constant():
    betas = named_betas("warmup10", 100)
    np.testing.assert_allclose(np.diff(betas[:10], 2), 0, atol=1e-15)
    assert betas[9] == 0.02 and set(betas[10:]) == {0.02}


def test_sigmoid_is_symmetric_and_nears_its_bounds():
    betas = sigmoid_betas(1000)
    np.testing.assert_allclose(betas + betas[::-1], 1e-5 + 5e-3, rtol=1e-12)
    part = (5e-3 - 1e-5) / (1 + math.exp(6))
    np.testing.assert_allclose(betas[[0, -1]], [1e-5 + part, 5e-3 - part], rtol=1e-12)


def test_sigmoid_of_a_wider_range_is_steeper():
    gentle, steep = (sigmoid_betas(1000, sigmoid_range=(-r, r)) for r in (3.0, 12.0))
    assert np.diff(steep).max() > 2 * np.diff(gentle).max()


def test_unknown_schedule_is_a_value_error():
    with pytest.raises(ValueError, match="unknown beta schedule: cubic"):
        named_betas("cubic", 10)


@pytest.mark.parametrize("betas", [[0.5, 1.2], [0.0, 0.5], [-0.1, 0.5], [0.1, math.nan]])
def test_betas_outside_0_to_1_are_a_value_error(betas):
    with pytest.raises(ValueError, match=r"betas must be in \(0, 1\], not"):
        make_schedule(np.array(betas))


@pytest.mark.parametrize("betas", [[0.1], [], [[0.1, 0.2]]])
def test_a_chain_of_fewer_than_two_steps_is_a_value_error(betas):
    with pytest.raises(ValueError, match="at least 2 timesteps"):
        make_schedule(np.array(betas))


@pytest.mark.parametrize("spec", SPECS)
def test_respacing_keeps_alphas_cumprod_at_the_kept_steps(name, spec):
    full = make_schedule(named_betas(name, 1000))
    short = respace(full, spec)
    steps = space_timesteps(1000, spec)
    assert list(short.timestep_map) == list(short.model_timesteps) == steps
    np.testing.assert_allclose(short.alphas_cumprod, full.alphas_cumprod[steps], rtol=1e-9)
    assert np.all(np.diff(short.alphas_cumprod) < 0)


def test_respacing_twice_maps_to_the_first_chain():
    full = rescaled(make_schedule(named_betas("cosine", 4000)))
    twice = respace(respace(full, "100"), "10")
    steps = np.array(space_timesteps(4000, "100"))[space_timesteps(100, "10")]
    np.testing.assert_array_equal(twice.timestep_map, steps)
    np.testing.assert_allclose(twice.model_timesteps, steps / 4)


def test_respacing_to_one_step_is_a_value_error():
    with pytest.raises(ValueError, match="at least 2 timesteps"):
        respace(make_schedule(named_betas("linear", 1000)), "1")


@pytest.mark.parametrize("spec", ["2", "7", "100", "3,5,8", "334,333,333", (5, 1, 20)])
def test_each_section_keeps_its_count_first_and_last_included(spec):
    counts = [int(c) for c in (spec.split(",") if isinstance(spec, str) else spec)]
    steps = np.array(space_timesteps(1000, spec))
    assert len(steps) == sum(counts) and np.all(np.diff(steps) > 0)
    start = 0
    for i, count in enumerate(counts):
        end = start + 1000 // len(counts) + (i < 1000 % len(counts))
        section = steps[(steps >= start) & (steps < end)]
        assert len(section) == count and section[0] == start
        assert count == 1 or section[-1] == end - 1
        start = end


@pytest.mark.parametrize("spec", ["1001", "ddim333", "500,501", "", "ten", "ddim"])
def test_impossible_respacings_are_value_errors(spec):
    with pytest.raises(ValueError):
        space_timesteps(1000, spec)


@pytest.mark.parametrize("num_timesteps", [100, 1000, 4000])
def test_rescaled_timesteps_run_to_1000_whatever_the_length(num_timesteps):
    schedule = make_schedule(named_betas("cosine", num_timesteps))
    np.testing.assert_array_equal(schedule.model_timesteps, np.arange(num_timesteps))
    told = rescaled(schedule).model_timesteps
    np.testing.assert_allclose(told, np.arange(num_timesteps) * 1000 / num_timesteps)
