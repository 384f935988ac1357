"""Inversion, known pixels and blends where the answer is known: on Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.process import Diffusion, q_sample
from ddpm_jax.diffusion.schedules import make_schedule, named_betas
from ddpm_jax.diffusion.spacing import respace
from ddpm_jax.sampling import SAMPLERS, ChainOptions, make_sampling_loop
from ddpm_jax.sampling.editing import known_pixels, make_inversion_loop, make_noising, slerp
from ddpm_jax.sampling.resampling import Resampling, chain_moves
from tests.sampling.test_loop import (
    COVARIANCE,
    FULL,
    MEAN,
    PARAMS,
    SHAPE,
    SHORT,
    cheap_model,
    compilations,
    gaussian_eps,
)

FREE = ChainOptions(clip=False)


def perfect(params, x, t, condition):
    return gaussian_eps(x, t)


def there_and_back(steps, corrections, apply=perfect, gradient=None):
    """The largest error of 64 points, inverted and drawn again by chains of that many steps."""
    diffusion = Diffusion(respace(FULL, str(steps)))
    x = jax.random.multivariate_normal(jax.random.key(0), MEAN, COVARIANCE, (64,))
    invert = make_inversion_loop(diffusion, apply, FREE, gradient, corrections)
    draw = make_sampling_loop(diffusion, SAMPLERS["ddim"], apply, (2,), FREE, gradient)
    index = np.arange(64, dtype=np.int32)
    return np.abs(draw((), 0, index, (), x_init=invert((), x, ())).x - x).max()


def test_inversion_then_sampling_is_the_identity():
    assert there_and_back(1000, corrections=1) < 1e-4


@pytest.mark.parametrize(("corrections", "order"), [(0, 1), (1, 2)])
def test_a_correction_raises_the_order_of_an_inversion(corrections, order):
    coarse, fine = (there_and_back(steps, corrections) for steps in (50, 200))
    assert np.log(coarse / fine) / np.log(4) > order - 0.2


def test_a_guided_inversion_is_that_of_the_guided_chain():
    def gradient(params, x, t, condition):  # of a Gaussian likelihood of x_t
        return -(x - 0.5) / 2

    assert there_and_back(1000, 1, gradient=gradient) < 1e-3
    unguided = make_inversion_loop(Diffusion(FULL), perfect, FREE)
    guided = make_inversion_loop(Diffusion(FULL), perfect, FREE, gradient)
    x = jnp.ones((1, 2))
    assert np.abs(unguided((), x, ()) - guided((), x, ())).max() > 0.1


def test_the_noise_of_an_inversion_is_normal():
    x = jax.random.multivariate_normal(jax.random.key(0), MEAN, COVARIANCE, (4096,))
    noise = np.asarray(make_inversion_loop(Diffusion(FULL), perfect, FREE)((), x, ()))
    assert np.all(np.abs(noise.mean(axis=0)) < 4 / 64)
    assert np.all(np.abs(np.cov(noise.T) - np.eye(2)) < 4 * np.sqrt(2) / 64)


@pytest.mark.parametrize("resampling", [None, Resampling(10, 10)], ids=["replaced", "repaint"])
def test_repaint_fills_in_the_conditional_mean_and_covariance(resampling):
    count, y = 2048, 0.2
    gain = COVARIANCE[0, 1] / COVARIANCE[0, 0]
    mean = MEAN[1] + gain * (y - MEAN[0])
    variance = COVARIANCE[1, 1] - gain * COVARIANCE[0, 1]
    # The larger fixed variance, which is that of a step of data of variance 1.
    diffusion = Diffusion(FULL, variance="fixed_large")
    run = make_sampling_loop(
        diffusion,
        SAMPLERS["ddpm"],
        perfect,
        (2,),
        FREE._replace(resampling=resampling),
        constraint=known_pixels(FULL),
    )
    unknown = jnp.broadcast_to(jnp.array([False, True]), (count, 2))
    condition = {"known": jnp.full((count, 2), y), "unknown": unknown}
    known, filled = np.asarray(run((), 0, np.arange(count, dtype=np.int32), condition).x).T
    np.testing.assert_array_equal(known, np.float32(y))
    far = abs(filled.mean() - mean) / np.sqrt(variance / count)
    if resampling is None:  # what putting pixels back alone does not reach
        assert far > 6
        return
    assert far < 4
    assert abs(filled.var() - variance) < 4 * variance * np.sqrt(2 / count)


def test_jumps_go_back_and_visit_every_step():
    assert chain_moves(5) == chain_moves(5, Resampling(1, 2)) == [4, 3, 2, 1, 0]
    # x_t at t = 2 and t = 0 goes back up by 2, once each: algorithm 1 with r = 2, j = 2.
    assert chain_moves(5, Resampling(2, 2)) == [4, 3, 4, 3, 2, 1, 2, 1, 0]
    moves = chain_moves(250, Resampling(10, 10))
    assert len(moves) == 250 + 24 * 9 * 10
    assert set(np.diff(moves)) == {-1, 9}


def test_a_chain_without_jumps_is_one_with_each_taken_once():
    index = np.arange(3, dtype=np.int32)
    plain, once = (
        make_sampling_loop(
            Diffusion(SHORT), SAMPLERS["ddpm"], cheap_model, SHAPE, ChainOptions(resampling=each)
        )(PARAMS, 0, index, index)
        for each in (None, Resampling(1, 4))
    )
    np.testing.assert_array_equal(plain.x, once.x)


def test_every_noise_of_a_chain_with_jumps_is_another_one():
    seen = []

    def spy(x, t, noise, condition):
        jax.debug.callback(lambda noise: seen.append(np.asarray(noise)), noise)
        return x

    run = make_sampling_loop(
        Diffusion(SHORT),
        SAMPLERS["ddpm"],
        cheap_model,
        SHAPE,
        ChainOptions(resampling=Resampling(3, 4)),
        constraint=spy,
    )
    index = np.arange(1, dtype=np.int32)
    run(PARAMS, 0, index, index).x.block_until_ready()
    jax.effects_barrier()
    assert len(seen) == len(chain_moves(24, Resampling(3, 4)))
    assert len({noise.tobytes() for noise in seen}) == len(seen)


def test_another_image_mask_or_start_compiles_nothing():
    def apply(params, x, t, condition):
        return cheap_model(params, x, t, 0 * t)

    known = known_pixels(SHORT)
    run = make_sampling_loop(Diffusion(SHORT), SAMPLERS["unipc"], apply, SHAPE, constraint=known)
    invert, index = make_inversion_loop(Diffusion(SHORT), apply), np.arange(2, dtype=np.int32)

    def edit(seed):
        rng = np.random.default_rng(seed)
        image = jnp.asarray(rng.uniform(-1, 1, (2, *SHAPE)), jnp.float32)
        unknown = jnp.asarray(rng.random((2, *SHAPE[:2], 1)) < 0.5)
        condition = {"known": image, "unknown": unknown}
        return run(PARAMS, seed, index, condition, None, invert(PARAMS, image, ()), 10 + seed)

    edit(0)
    with compilations() as compiled:
        edit(1)
    assert not compiled


def test_noising_is_q_sample_with_the_noise_of_each_sample():
    noised = make_noising(SHORT, SHAPE)
    index = np.arange(3, dtype=np.int32)
    x_start = np.random.default_rng(0).uniform(-1, 1, (3, *SHAPE)).astype(np.float32)
    x = noised(x_start, np.uint32(5), index, 10)
    noise = noised(0 * x_start, np.uint32(5), index, 23) / SHORT.sqrt_one_minus_alphas_cumprod[23]
    want = q_sample(SHORT, jnp.asarray(x_start), jnp.full(3, 10), noise)
    np.testing.assert_allclose(x, want, atol=1e-6)
    # A chain of that seed begins with the same noise.
    run = make_sampling_loop(
        Diffusion(SHORT), SAMPLERS["ddpm"], cheap_model, SHAPE, ChainOptions(keep=[23])
    )
    np.testing.assert_allclose(run(PARAMS, 5, index, index).kept_x[0], noise, atol=1e-5)


def test_slerp_ends_in_its_ends_and_keeps_the_norm():
    a, b = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_array_equal(slerp(a, b, 0.0), a)
    np.testing.assert_array_equal(slerp(a, b, 1.0), b)
    for weight in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(
            np.linalg.norm(slerp(a, b, weight)), np.linalg.norm(a), rtol=1e-5
        )
    np.testing.assert_allclose(slerp(a, a, 0.3), a, rtol=1e-5)
    half = slerp(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 0.5)
    np.testing.assert_allclose(half, np.sqrt([0.5, 0.5]), rtol=1e-6)


def test_the_schedule_of_a_mask_is_the_chains():
    chain = respace(make_schedule(named_betas("cosine", 100)), "10")
    constraint = known_pixels(chain)
    x = jnp.zeros((1, *SHAPE))
    condition = {"known": jnp.ones((1, *SHAPE)), "unknown": jnp.zeros((1, *SHAPE[:2], 1), bool)}
    np.testing.assert_allclose(constraint(x, jnp.int32(-1), x, condition), 1, rtol=1e-6)
    got = constraint(x, jnp.int32(4), x, condition)
    np.testing.assert_allclose(got, chain.sqrt_alphas_cumprod[4], rtol=1e-6)
