"""Batches around the chain: each sample depends on its own condition, and on nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ParallelConfig, SampleConfig
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.guided_chain import GuidanceModels
from ddpm_jax.generation.sample_batch import UNGUIDED, Scales
from ddpm_jax.models import Network
from ddpm_jax.runtime.devices import make_mesh
from tests.sampling.test_loop import compilations

PARAMS = {"scale": jnp.float32(0.3)}
LABELS = np.arange(11) % 3
SMALL = np.random.default_rng(0).integers(0, 256, (11, 2, 2, 3), np.uint8)


def larger(low_res):
    return jnp.repeat(jnp.repeat(low_res, 2, axis=1), 2, axis=2)


def conditional(params, x, t, labels, dropout_key, low_res):
    """Depends on all of its arguments."""
    shift = (labels + t / 1000)[:, None, None, None]
    return params["scale"] * jnp.sin(x + shift) + larger(low_res)


def generator(apply, low_res_size=2, batch_size=4, devices=1, prediction="eps", **options):
    """The `generate` of a Generator."""
    config = Config(
        data=DataConfig(image_size=4, channels=3, low_res_size=low_res_size),
        diffusion=DiffusionConfig(timesteps=10, schedule="cosine", prediction=prediction),
        sample=SampleConfig(batch_size=batch_size),
    )
    mesh = make_mesh(ParallelConfig(data=devices), batch_size)
    return Generator(config, Network(None, apply, {}), mesh, **options).generate


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (16, 1), (8, 4)])
def test_a_sample_is_the_same_in_every_batch(batch_size, devices):
    want = generator(conditional)(PARAMS, 0, LABELS, low_res=SMALL)
    got = generator(conditional, batch_size=batch_size, devices=devices)(
        PARAMS, 0, LABELS, low_res=SMALL
    )
    assert want.images.shape == (11, 4, 4, 3) and want.images.std() > 30
    np.testing.assert_array_equal(got.images, want.images)
    np.testing.assert_array_equal(got.labels, LABELS)


def test_an_image_to_enlarge_and_a_label_change_only_their_own_sample():
    draw = generator(conditional)
    plain = draw(PARAMS, 0, LABELS, low_res=SMALL).images.astype(int)
    other = SMALL.copy()
    other[6] = 255 - other[6]
    for labels, low_res in [(LABELS, other), (np.where(np.arange(11) == 6, 5, LABELS), SMALL)]:
        changed = np.abs(draw(PARAMS, 0, labels, low_res=low_res).images - plain).max(
            axis=(1, 2, 3)
        )
        assert changed[6] > 5 and np.delete(changed, 6).max() == 0


def test_a_network_that_repeats_what_it_enlarges_draws_that():
    def repeat(params, x, t, labels, dropout_key, low_res):
        assert low_res.dtype == jnp.float32
        return larger(low_res)

    batch = generator(repeat, prediction="x_start")({}, 0, LABELS, low_res=SMALL)
    np.testing.assert_allclose(batch.images[:, ::2, ::2].astype(int), SMALL, atol=1)


def test_other_networks_get_labels_alone():
    def plain(params, x, t, labels):
        return 0 * x + labels[:, None, None, None]

    assert generator(plain, low_res_size=0)({}, 0, LABELS).images.shape == (11, 4, 4, 3)


@pytest.mark.parametrize("low_res", [None, SMALL[:5], SMALL[..., :1], np.repeat(SMALL, 2, axis=1)])
def test_images_to_enlarge_must_be_there_and_fit(low_res):
    with pytest.raises(ValueError, match=r"low_res must be \[11, 2, 2, 3\]"):
        generator(conditional)(PARAMS, 0, LABELS, low_res=low_res)


def test_progress_counts_samples():
    heard = []
    generator(conditional)(PARAMS, 0, LABELS, heard.append, SMALL)
    assert sum(heard) == pytest.approx(11) and len(heard) > 3


def test_moments_of_every_batch_are_those_of_its_chains():
    draw, seen = generator(conditional, frames=3), []
    batch = draw(PARAMS, 0, LABELS, low_res=SMALL, on_moment=seen.append)
    assert [moment.timestep for moment in seen] == 3 * [*batch.chain.timesteps]
    assert [len(moment.places) for moment in seen[::3]] == [4, 4, 3]
    for k, moment in enumerate(seen):
        np.testing.assert_array_equal(moment.x_t, batch.chain.x_t[k % 3, moment.places])
        np.testing.assert_array_equal(
            moment.pred_xstart, batch.chain.pred_xstart[k % 3, moment.places]
        )


def classify(params, x, t):
    """Logits that rise with the mean of a third of the image, each class with its own."""
    return params["sharpness"] * jnp.stack([x.mean(axis=(1, 2))[:, c] for c in range(3)], axis=1)


GUIDANCE = GuidanceModels(Network(None, classify, {}), {"sharpness": jnp.float32(40.0)})
SCALES = [UNGUIDED, Scales(guidance=1.0), Scales(cfg=3.0), Scales(2.0, 3.0), Scales(guidance=3.0)]


@pytest.fixture(scope="module")
def draw_guided():
    return generator(conditional, guidance=GUIDANCE)


def test_each_scale_draws_a_row_of_the_same_noise(draw_guided):
    batch = draw_guided(PARAMS, 0, LABELS, low_res=SMALL, scales=SCALES)
    np.testing.assert_array_equal(batch.labels, np.tile(LABELS, 5))
    assert batch.scales == SCALES
    rows = batch.images.reshape(5, 11, 4, 4, 3).astype(int)
    np.testing.assert_array_equal(
        rows[0], generator(conditional)(PARAMS, 0, LABELS, low_res=SMALL).images
    )
    for row, scale in zip(rows, SCALES, strict=True):
        alone = draw_guided(PARAMS, 0, LABELS, low_res=SMALL, scales=[scale])
        assert np.abs(row - alone.images).max() <= 1
    assert np.all(np.abs(np.diff(rows, axis=0)).max(axis=(2, 3, 4)) > 1)


def test_guided_samples_are_the_same_in_every_batch(draw_guided):
    want = draw_guided(PARAMS, 0, LABELS, low_res=SMALL, scales=SCALES[3:]).images.astype(int)
    for batch_size, devices in [(16, 1), (8, 4)]:
        draw = generator(conditional, batch_size=batch_size, devices=devices, guidance=GUIDANCE)
        got = draw(PARAMS, 0, LABELS, low_res=SMALL, scales=SCALES[3:]).images
        assert np.abs(got - want).max() <= 1


def test_a_classifier_guides_each_sample_to_its_label_and_minus_1_nowhere(draw_guided):
    free, guided = (
        draw_guided(PARAMS, 0, LABELS, low_res=SMALL, scales=[Scales(s)]).images.mean(axis=(1, 2))
        for s in (0, 4)
    )
    assert np.all((guided - free).argmax(axis=1) == LABELS)
    labels = np.where(np.arange(11) < 6, -1, LABELS)
    rows = draw_guided(PARAMS, 0, labels, low_res=SMALL, scales=[UNGUIDED, Scales(4)]).images
    changed = np.abs(rows[11:].astype(int) - rows[:11]).max(axis=(1, 2, 3))
    assert changed[:6].max() <= 1 and changed[6:].min() > 1


def test_an_interval_guides_part_of_the_chain():
    def draw(interval):
        run = generator(conditional, guidance=GUIDANCE._replace(interval=interval))
        return run(PARAMS, 0, LABELS, low_res=SMALL, scales=[SCALES[3]]).images.astype(int)

    whole, none = (
        draw((0.0, 1.0)),
        generator(conditional)(PARAMS, 0, LABELS, low_res=SMALL).images.astype(int),
    )
    # The timesteps of a chain of 10 steps are 0..9: t / T is 0.9 at most.
    for interval, same in [((0.0, 0.95), whole), ((0.95, 1.0), none)]:
        assert np.abs(draw(interval) - same).max() <= 1
    part = draw((0.2, 0.6))
    assert np.abs(part - whole).max() > 2 and np.abs(part - none).max() > 2


def test_other_labels_seeds_and_scales_compile_nothing(draw_guided):
    draw_guided(PARAMS, 0, LABELS, low_res=SMALL, scales=SCALES)
    with compilations() as later:
        draw_guided(PARAMS, 1, LABELS[::-1], low_res=SMALL, scales=SCALES[::-1])
        scales = [Scales(0.3), Scales(7.0), Scales(1, 0), Scales(0, 5.5), Scales(1.5, 1)]
        draw_guided(PARAMS, 2, LABELS * 0, low_res=SMALL, scales=scales)
    with compilations() as first:
        generator(conditional, guidance=GUIDANCE)(
            PARAMS, 0, LABELS, low_res=SMALL, scales=[Scales(1.0)]
        )
    assert first and not later


def test_the_chains_of_the_first_samples_of_each_scale_are_kept():
    draw = generator(conditional, frames=3, guidance=GUIDANCE, batch_size=16)
    labels, low_res = np.resize(LABELS, 40), np.resize(SMALL, (40, 2, 2, 3))
    scales = [Scales(guidance=3.0), UNGUIDED, Scales(guidance=1.0)]
    whole = draw(PARAMS, 0, labels, low_res=low_res, scales=scales)
    assert whole.chain.x_t.shape == whole.chain.pred_xstart.shape == (3, 3 * 21, 4, 4, 3)
    assert whole.chain.timesteps == [9, 4, 0]
    for row, scale in enumerate(scales):
        alone = draw(PARAMS, 0, labels, low_res=low_res, scales=[scale])
        assert alone.chain.x_t.shape == (3, 40, 4, 4, 3)
        for name in ("x_t", "pred_xstart"):
            of_row = getattr(whole.chain, name)[:, 21 * row : 21 * row + 21].astype(int)
            assert np.abs(of_row - getattr(alone.chain, name)[:, :21]).max() <= 1


def test_each_scale_may_enlarge_images_of_its_own():
    draw = generator(conditional)
    other = np.concatenate([SMALL, 255 - SMALL])
    rows = draw(PARAMS, 0, LABELS, low_res=other, scales=[UNGUIDED] * 2).images
    for row, low_res in [(rows[:11], SMALL), (rows[11:], 255 - SMALL)]:
        np.testing.assert_array_equal(row, draw(PARAMS, 0, LABELS, low_res=low_res).images)


def test_progress_counts_the_samples_of_every_scale(draw_guided):
    heard = []
    draw_guided(PARAMS, 0, LABELS, heard.append, SMALL, SCALES[:3])
    assert sum(heard) == pytest.approx(33)


def test_a_scale_without_a_classifier_is_an_error():
    with pytest.raises(ValueError, match="no classifier"):
        generator(conditional)(PARAMS, 0, LABELS, low_res=SMALL, scales=[Scales(1.0)])
