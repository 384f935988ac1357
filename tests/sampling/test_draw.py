"""Batches around the chain: what each sample is told, and that nothing else reaches it."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import parallel
from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ParallelConfig, SampleConfig
from ddpm_jax.models import Network
from ddpm_jax.sampling.draw import make_drawer

PARAMS = {"scale": jnp.float32(0.3)}
LABELS = np.arange(11) % 3
SMALL = np.random.default_rng(0).integers(0, 256, (11, 2, 2, 3), np.uint8)


def larger(low_res):
    return jnp.repeat(jnp.repeat(low_res, 2, axis=1), 2, axis=2)


def told(params, x, t, labels, dropout_key, low_res):
    """Depends on all that it is told."""
    shift = (labels + t / 1000)[:, None, None, None]
    return params["scale"] * jnp.sin(x + shift) + larger(low_res)


def drawer(apply, low_res_size=2, batch_size=4, devices=1, prediction="eps"):
    config = Config(
        data=DataConfig(image_size=4, channels=3, low_res_size=low_res_size),
        diffusion=DiffusionConfig(timesteps=10, schedule="cosine", prediction=prediction),
        sample=SampleConfig(batch_size=batch_size),
    )
    mesh = parallel.make_mesh(ParallelConfig(data=devices), batch_size)
    return make_drawer(config, Network(None, apply, {}), mesh)


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (16, 1), (8, 4)])
def test_a_sample_is_the_same_in_every_batch(batch_size, devices):
    want = drawer(told)(PARAMS, 0, LABELS, low_res=SMALL)
    got = drawer(told, batch_size=batch_size, devices=devices)(PARAMS, 0, LABELS, low_res=SMALL)
    assert want.x.shape == (11, 4, 4, 3) and want.x.std() > 30
    np.testing.assert_array_equal(got.x, want.x)
    np.testing.assert_array_equal(got.labels, LABELS)


def test_an_image_to_enlarge_and_a_label_change_their_own_sample_alone():
    draw = drawer(told)
    plain = draw(PARAMS, 0, LABELS, low_res=SMALL).x.astype(int)
    other = SMALL.copy()
    other[6] = 255 - other[6]
    for labels, low_res in [(LABELS, other), (np.where(np.arange(11) == 6, 5, LABELS), SMALL)]:
        changed = np.abs(draw(PARAMS, 0, labels, low_res=low_res).x - plain).max(axis=(1, 2, 3))
        assert changed[6] > 5 and np.delete(changed, 6).max() == 0


def test_a_network_that_repeats_what_it_enlarges_draws_that():
    def repeat(params, x, t, labels, dropout_key, low_res):
        assert low_res.dtype == jnp.float32
        return larger(low_res)

    drawn = drawer(repeat, prediction="x_start")({}, 0, LABELS, low_res=SMALL)
    np.testing.assert_allclose(drawn.x[:, ::2, ::2].astype(int), SMALL, atol=1)


def test_other_networks_are_told_labels_alone():
    def plain(params, x, t, labels):
        return 0 * x + labels[:, None, None, None]

    assert drawer(plain, low_res_size=0)({}, 0, LABELS).x.shape == (11, 4, 4, 3)


@pytest.mark.parametrize("low_res", [None, SMALL[:5], SMALL[..., :1], np.repeat(SMALL, 2, axis=1)])
def test_images_to_enlarge_must_be_there_and_fit(low_res):
    with pytest.raises(ValueError, match=r"low_res must be \[11, 2, 2, 3\]"):
        drawer(told)(PARAMS, 0, LABELS, low_res=low_res)


def test_progress_counts_samples():
    heard = []
    drawer(told)(PARAMS, 0, LABELS, heard.append, SMALL)
    assert sum(heard) == pytest.approx(11) and len(heard) > 3
