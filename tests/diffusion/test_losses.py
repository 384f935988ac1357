"""The simple loss and the distribution of its timesteps."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.losses import sample_timesteps, simple_loss
from ddpm_jax.diffusion.process import Diffusion, Prediction, prediction_target, q_sample
from ddpm_jax.diffusion.schedules import make_schedule, named_betas, rescaled

SCHEDULE = rescaled(make_schedule(named_betas("cosine", 200)))
T_STEPS = jnp.array([0, 10, 100, 199])
X_START = jax.random.uniform(jax.random.key(0), (4, 5, 5, 2), minval=-1)
NOISE = jax.random.normal(jax.random.key(1), X_START.shape)
X_T = q_sample(SCHEDULE, X_START, T_STEPS, NOISE)
# 99.9th percentiles of chi-square, by degrees of freedom.
CHI_SQUARE_LIMIT = {7: 24.32, 9: 27.88}


@pytest.mark.parametrize("kind", ["l2", "l1"])
@pytest.mark.parametrize("prediction", typing.get_args(Prediction))
def test_a_perfect_network_has_no_loss(prediction, kind):
    diffusion = Diffusion(SCHEDULE, prediction)

    def denoise(x_t, model_t):
        return prediction_target(diffusion, X_START, x_t, T_STEPS, NOISE)

    np.testing.assert_array_equal(
        simple_loss(diffusion, denoise, X_START, T_STEPS, NOISE, kind), np.zeros(4)
    )


@pytest.mark.parametrize("kind, want", [("l2", [0.25, 1, 4, 9]), ("l1", [0.5, 1, 2, 3])])
def test_each_example_has_the_mean_distance_of_its_own(kind, want):
    offset = jnp.array([0.5, -1, 2, -3])[:, None, None, None]
    loss = simple_loss(
        Diffusion(SCHEDULE), lambda x, t: NOISE + offset, X_START, T_STEPS, NOISE, kind
    )
    assert loss.shape == (4,) and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_network_sees_x_t_and_its_own_timesteps():
    seen = {}

    def denoise(x, t):
        seen.update(x=x, t=t)
        return x

    simple_loss(Diffusion(SCHEDULE), denoise, X_START, T_STEPS, NOISE)
    np.testing.assert_array_equal(seen["x"], X_T)
    np.testing.assert_array_equal(seen["t"], T_STEPS * 5)


def test_points_have_a_loss_as_images_do():
    x, noise = X_START[:, 0, 0], NOISE[:, 0, 0]
    loss = simple_loss(Diffusion(SCHEDULE), lambda x, t: noise + 1, x, T_STEPS, noise)
    np.testing.assert_allclose(loss, np.ones(4), rtol=1e-5)


def test_loss_is_float32_when_the_network_is_not():
    loss = simple_loss(
        Diffusion(SCHEDULE), lambda x, t: x.astype(jnp.bfloat16), X_START, T_STEPS, NOISE
    )
    assert loss.dtype == jnp.float32


def chi_square(values, num_bins):
    counts = np.bincount(np.asarray(values).ravel(), minlength=num_bins)
    assert len(counts) == num_bins
    expected = counts.sum() / num_bins
    return float(((counts - expected) ** 2 / expected).sum())


def test_timesteps_are_uniform():
    t = sample_timesteps(jax.random.key(2), 20_000, 10)
    assert t.dtype == jnp.int32
    assert chi_square(t, 10) < CHI_SQUARE_LIMIT[9]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_antithetic_timesteps_are_pairs(batch_size):
    t = np.asarray(sample_timesteps(jax.random.key(3), batch_size, 1000, antithetic=True))
    half = (batch_size + 1) // 2
    assert t.shape == (batch_size,) and t.min() >= 0 and t.max() < 1000
    np.testing.assert_array_equal(t[half:], 999 - t[: batch_size - half])


def test_each_antithetic_timestep_is_uniform_by_itself():
    keys = jax.random.split(jax.random.key(4), 4000)
    t = jax.vmap(lambda key: sample_timesteps(key, 5, 8, antithetic=True))(keys)
    for position in range(5):
        assert chi_square(t[:, position], 8) < CHI_SQUARE_LIMIT[7]


def test_antithetic_timesteps_spread_more_evenly():
    keys = jax.random.split(jax.random.key(5), 500)
    spread = {
        antithetic: jax.vmap(lambda key, a=antithetic: sample_timesteps(key, 16, 1000, a).mean())(
            keys
        ).std()
        for antithetic in (False, True)
    }
    assert spread[True] < 0.01 * spread[False]
