"""Importance sampling of timesteps by the second moment of their losses, against the original."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.timesteps import (
    draw_timesteps,
    empty_history,
    second_moment_weights,
    timestep_probabilities,
    update_history,
)
from tests.parity.golden import load

META = load("resample.npz").meta


def uniforms(seed, count):
    """The numbers in [0, 1) of which np.random.choice, seeded by `seed`, makes its draws."""
    return np.random.RandomState(seed).random_sample(count)


@pytest.mark.parametrize("name", META["cases"])
def test_history_weights_and_draws_are_the_originals(golden, name):
    file, case = golden("resample.npz"), META["cases"][name]
    probabilities = jax.jit(partial(timestep_probabilities, uniform_prob=case["uniform_prob"]))
    update = jax.jit(update_history)
    with jax.enable_x64(True):
        history = empty_history(case["T"], case["history_per_term"])
        history = history._replace(losses=history.losses.astype(jnp.float64))
        weights, warmed_up = [], []
        ts, losses = (file.array(f"in/{name}/{key}") for key in ("ts", "losses"))
        for t, loss in zip(ts, losses, strict=True):
            history = update(history, t, loss)
            warmed_up.append(np.all(history.counts == case["history_per_term"]))
            # Until it is warmed up the original's weights are ones, of no sum.
            weigh = probabilities if warmed_up[-1] else second_moment_weights
            weights.append(weigh(history))
        draws = file.array(f"out/{name}/sample_indices")
        u = uniforms(case["np_random_seed"], len(draws))
        t, weight = draw_timesteps(u, probabilities(history))
    file.check(f"out/{name}/weights", np.array(weights))
    file.check(f"out/{name}/warmed_up", np.array(warmed_up))
    file.check(f"out/{name}/loss_history", history.losses)
    file.check(f"out/{name}/loss_counts", history.counts)
    file.check(f"out/{name}/sample_indices", t)
    file.check(f"out/{name}/sample_weights", np.float32(weight), exact=True)


def test_uniform_draws_are_the_originals(golden):
    file, case = golden("resample.npz"), META["uniform"]
    u = uniforms(case["np_random_seed"], len(file.array("out/uniform/sample_indices")))
    with jax.enable_x64(True):
        t, weight = draw_timesteps(u, timestep_probabilities(empty_history(case["T"])))
    file.check("out/uniform/sample_indices", t)
    file.check("out/uniform/sample_weights", weight, exact=True)
