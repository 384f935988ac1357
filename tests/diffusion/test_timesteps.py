"""How timesteps are distributed, and the history of losses that importance sampling uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.timesteps import (
    LossHistory,
    draw_batch_timesteps,
    draw_timesteps,
    empty_history,
    follows_loss,
    second_moment_weights,
    timestep_probabilities,
    update_history,
)


def sample_timesteps(key, batch_size, num_timesteps, kind="uniform"):
    return draw_batch_timesteps(kind, key, batch_size, num_timesteps, None)[0]


# 99.9th percentiles of chi-square, by degrees of freedom.
CHI_SQUARE_LIMIT = {7: 24.32, 9: 27.88}


def chi_square(values, probabilities):
    counts = np.bincount(np.asarray(values).ravel(), minlength=len(probabilities))
    assert len(counts) == len(probabilities)
    expected = counts.sum() * np.asarray(probabilities)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("kind", ["uniform", "antithetic", "stratified"])
def test_timesteps_are_uniform_at_every_place_of_the_batch(kind):
    keys = jax.random.split(jax.random.key(2), 4000)
    t = jax.jit(jax.vmap(lambda key: sample_timesteps(key, 5, 8, kind)))(keys)
    assert t.dtype == jnp.int32 and t.shape == (4000, 5)
    for place in range(5):
        assert chi_square(t[:, place], np.full(8, 1 / 8)) < CHI_SQUARE_LIMIT[7]


def test_uniform_timesteps_are_plain_random_integers():
    key = jax.random.key(3)
    np.testing.assert_array_equal(
        sample_timesteps(key, 64, 1000), jax.random.randint(key, (64,), 0, 1000)
    )


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_antithetic_timesteps_are_pairs(batch_size):
    t = np.asarray(sample_timesteps(jax.random.key(3), batch_size, 1000, "antithetic"))
    half = (batch_size + 1) // 2
    assert t.shape == (batch_size,) and t.min() >= 0 and t.max() < 1000
    np.testing.assert_array_equal(t[half:], 999 - t[: batch_size - half])


@pytest.mark.parametrize("batch_size, num_timesteps", [(1, 10), (8, 1000), (10, 1000), (64, 4000)])
def test_each_equal_part_of_the_chain_has_one_stratified_timestep(batch_size, num_timesteps):
    t = sample_timesteps(jax.random.key(4), batch_size, num_timesteps, "stratified")
    edges = np.arange(batch_size + 1) * num_timesteps / batch_size
    # A timestep t is the interval [t, t + 1) of the chain; those that an edge cuts have two parts.
    t = np.sort(t)
    assert np.all(t + 1 > edges[:-1]) and np.all(t < edges[1:])


def test_more_stratified_timesteps_than_there_are_repeat_evenly():
    t = sample_timesteps(jax.random.key(5), 300, 30, "stratified")
    np.testing.assert_array_equal(np.bincount(t, minlength=30), np.full(30, 10))


@pytest.mark.parametrize("kind, limit", [("antithetic", 0.01), ("stratified", 0.1)])
def test_even_timesteps_have_a_mean_of_less_spread(kind, limit):
    keys = jax.random.split(jax.random.key(5), 500)

    def spread(kind):
        return jax.vmap(lambda key: sample_timesteps(key, 16, 1000, kind).mean())(keys).std()

    assert spread(kind) < limit * spread("uniform")


def test_a_sampler_that_needs_a_history_asks_for_one():
    assert follows_loss("loss_second_moment") and not follows_loss("uniform")
    with pytest.raises(ValueError, match="loss_second_moment draws timesteps by a history"):
        sample_timesteps(jax.random.key(0), 4, 10, "loss_second_moment")


def test_an_unknown_sampler_of_timesteps_is_an_error():
    with pytest.raises(ValueError, match="unknown way to draw timesteps: even; there are: uniform"):
        sample_timesteps(jax.random.key(0), 4, 10, "even")


def one_after_the_other(history, t, losses):
    """What `update_history` is to equal: lists of Python numbers."""
    rows = [list(row[:n]) for row, n in zip(*map(np.asarray, history), strict=True)]
    length = history.losses.shape[1]
    for step, loss in zip(t, losses, strict=True):
        rows[step] = [*rows[step], loss][-length:]
    filled = [row + [0.0] * (length - len(row)) for row in rows]
    return LossHistory(np.array(filled, np.float32), np.array([len(row) for row in rows]))


@pytest.mark.parametrize("batch_size", [1, 6, 50])
def test_a_batch_updates_the_history_as_its_examples_would_one_by_one(batch_size):
    random = np.random.default_rng(batch_size)
    got = want = empty_history(5, length=3)
    update = jax.jit(update_history)
    for _ in range(6):
        t = random.integers(0, 5, batch_size) * random.integers(0, 2, batch_size)  # 0 is frequent
        losses = random.normal(size=batch_size).astype(np.float32)
        got, want = update(got, t, losses), one_after_the_other(want, t, losses)
        np.testing.assert_array_equal(got.losses, want.losses)
        np.testing.assert_array_equal(got.counts, want.counts)
    assert got.losses.dtype == jnp.float32 and got.counts.dtype == jnp.int32


def test_losses_that_would_spoil_the_history_are_not_recorded():
    history = update_history(empty_history(3, length=2), jnp.array([0, 1]), jnp.array([1.0, 2.0]))
    t, losses = jnp.array([0, 2, 1, 0, 1]), jnp.array([np.nan, np.inf, -np.inf, 3.0, 1e30])
    got = update_history(history, t, losses)
    np.testing.assert_array_equal(got.losses, [[1, 3], [2, 0], [0, 0]])
    np.testing.assert_array_equal(got.counts, [2, 1, 0])


def full_history(num_timesteps=10, length=4):
    losses = jnp.exp(jax.random.normal(jax.random.key(6), (num_timesteps, length)))
    return LossHistory(losses, jnp.full(num_timesteps, length))


def test_weights_are_ones_until_every_timestep_has_its_losses():
    history = full_history()
    lacking = history._replace(counts=history.counts.at[3].set(3))
    np.testing.assert_array_equal(second_moment_weights(lacking), np.ones(10))
    np.testing.assert_allclose(timestep_probabilities(lacking), np.full(10, 0.1), rtol=1e-6)
    want = np.sqrt(np.square(history.losses).mean(axis=1))
    np.testing.assert_allclose(second_moment_weights(history), want, rtol=1e-6)


def test_probabilities_follow_the_weights_and_leave_no_timestep_out():
    history = full_history()
    history = history._replace(losses=history.losses.at[5].set(0))
    probabilities = timestep_probabilities(history, uniform_prob=0.01)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-6)
    weights = second_moment_weights(history)
    np.testing.assert_allclose(probabilities, 0.99 * weights / weights.sum() + 0.001, rtol=1e-5)
    assert probabilities[5] > 0
    assert np.all(1 / (10 * probabilities) <= 1 / 0.01 * (1 + 1e-6))


def test_draws_have_the_probabilities_and_their_weights_undo_them():
    probabilities = timestep_probabilities(full_history())
    u = (np.arange(20_000) + 0.5) / 20_000
    t, weights = draw_timesteps(u, probabilities)
    assert t.dtype == jnp.int32
    np.testing.assert_allclose(np.bincount(t) / len(t), probabilities, atol=2e-4)
    # E_p[weight f(t)] = mean of f, for any f: of each t by itself, and so of all.
    f = np.linspace(-1, 3, 10) ** 2
    assert np.mean(weights * f[t]) == pytest.approx(f.mean(), rel=1e-3)
    of_each = 1 / (10 * probabilities)
    np.testing.assert_allclose(np.sum(probabilities * of_each * f), f.mean(), rtol=1e-5)

    drawn, _ = draw_timesteps(jax.random.uniform(jax.random.key(7), (20_000,)), probabilities)
    assert chi_square(drawn, probabilities) < CHI_SQUARE_LIMIT[9]


def test_draws_at_the_ends_stay_inside_the_chain():
    probabilities = jnp.array([0.0, 0.5, 0.5])
    t, _ = draw_timesteps(jnp.array([0.0, 0.5, np.nextafter(np.float32(1), 0)]), probabilities)
    np.testing.assert_array_equal(t, [1, 2, 2])
