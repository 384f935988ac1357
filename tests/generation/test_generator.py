"""Batches around the chain: what each sample is told, and that nothing else reaches it."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ParallelConfig, SampleConfig
from ddpm_jax.generation.generator import UNGUIDED, GuidanceModels, Scales, make_drawer
from ddpm_jax.models import Network
from tests.sampling.test_loop import compilations

PARAMS = {"scale": jnp.float32(0.3)}
LABELS = np.arange(11) % 3
SMALL = np.random.default_rng(0).integers(0, 256, (11, 2, 2, 3), np.uint8)


def larger(low_res):
    return jnp.repeat(jnp.repeat(low_res, 2, axis=1), 2, axis=2)


def told(params, x, t, labels, dropout_key, low_res):
    """Depends on all that it is told."""
    shift = (labels + t / 1000)[:, None, None, None]
    return params["scale"] * jnp.sin(x + shift) + larger(low_res)


def drawer(apply, low_res_size=2, batch_size=4, devices=1, prediction="eps", **options):
    config = Config(
        data=DataConfig(image_size=4, channels=3, low_res_size=low_res_size),
        diffusion=DiffusionConfig(timesteps=10, schedule="cosine", prediction=prediction),
        sample=SampleConfig(batch_size=batch_size),
    )
    mesh = devices.make_mesh(ParallelConfig(data=devices), batch_size)
    return make_drawer(config, Network(None, apply, {}), mesh, **options)


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


def judge(params, x, t):
    """Logits that rise with the mean of a third of the image, each class with its own."""
    return params["sharpness"] * jnp.stack([x.mean(axis=(1, 2))[:, c] for c in range(3)], axis=1)


GUIDANCE = GuidanceModels(Network(None, judge, {}), {"sharpness": jnp.float32(40.0)})
SCALES = [UNGUIDED, Scales(guidance=1.0), Scales(cfg=3.0), Scales(2.0, 3.0), Scales(guidance=3.0)]


@pytest.fixture(scope="module")
def guided_drawer():
    return drawer(told, guidance=GUIDANCE)


def test_each_scale_draws_a_row_of_the_same_noise(guided_drawer):
    drawn = guided_drawer(PARAMS, 0, LABELS, low_res=SMALL, scales=SCALES)
    np.testing.assert_array_equal(drawn.labels, np.tile(LABELS, 5))
    assert drawn.scales == SCALES
    rows = drawn.x.reshape(5, 11, 4, 4, 3).astype(int)
    np.testing.assert_array_equal(rows[0], drawer(told)(PARAMS, 0, LABELS, low_res=SMALL).x)
    for row, scale in zip(rows, SCALES, strict=True):
        alone = guided_drawer(PARAMS, 0, LABELS, low_res=SMALL, scales=[scale])
        assert np.abs(row - alone.x).max() <= 1
    assert np.all(np.abs(np.diff(rows, axis=0)).max(axis=(2, 3, 4)) > 1)


def test_guided_samples_are_the_same_in_every_batch(guided_drawer):
    want = guided_drawer(PARAMS, 0, LABELS, low_res=SMALL, scales=SCALES[3:]).x.astype(int)
    for batch_size, devices in [(16, 1), (8, 4)]:
        draw = drawer(told, batch_size=batch_size, devices=devices, guidance=GUIDANCE)
        got = draw(PARAMS, 0, LABELS, low_res=SMALL, scales=SCALES[3:]).x
        assert np.abs(got - want).max() <= 1


def test_a_classifier_guides_each_sample_to_its_label_and_minus_1_nowhere(guided_drawer):
    free, guided = (
        guided_drawer(PARAMS, 0, LABELS, low_res=SMALL, scales=[Scales(s)]).x.mean(axis=(1, 2))
        for s in (0, 4)
    )
    assert np.all((guided - free).argmax(axis=1) == LABELS)
    labels = np.where(np.arange(11) < 6, -1, LABELS)
    rows = guided_drawer(PARAMS, 0, labels, low_res=SMALL, scales=[UNGUIDED, Scales(4)]).x
    changed = np.abs(rows[11:].astype(int) - rows[:11]).max(axis=(1, 2, 3))
    assert changed[:6].max() <= 1 and changed[6:].min() > 1


def test_an_interval_guides_part_of_the_chain():
    def draw(interval):
        run = drawer(told, guidance=GUIDANCE._replace(interval=interval))
        return run(PARAMS, 0, LABELS, low_res=SMALL, scales=[SCALES[3]]).x.astype(int)

    whole, none = draw((0.0, 1.0)), drawer(told)(PARAMS, 0, LABELS, low_res=SMALL).x.astype(int)
    # A chain of 10 steps is told 0..9: t / T is 0.9 at most.
    for interval, same in [((0.0, 0.95), whole), ((0.95, 1.0), none)]:
        assert np.abs(draw(interval) - same).max() <= 1
    part = draw((0.2, 0.6))
    assert np.abs(part - whole).max() > 2 and np.abs(part - none).max() > 2


def test_other_labels_seeds_and_scales_compile_nothing(guided_drawer):
    guided_drawer(PARAMS, 0, LABELS, low_res=SMALL, scales=SCALES)
    with compilations() as later:
        guided_drawer(PARAMS, 1, LABELS[::-1], low_res=SMALL, scales=SCALES[::-1])
        scales = [Scales(0.3), Scales(7.0), Scales(1, 0), Scales(0, 5.5), Scales(1.5, 1)]
        guided_drawer(PARAMS, 2, LABELS * 0, low_res=SMALL, scales=scales)
    with compilations() as first:
        drawer(told, guidance=GUIDANCE)(PARAMS, 0, LABELS, low_res=SMALL, scales=[Scales(1.0)])
    assert first and not later


def test_the_chains_of_the_first_samples_of_each_scale_are_kept():
    draw = drawer(told, frames=3, guidance=GUIDANCE, batch_size=16)
    labels, low_res = np.resize(LABELS, 40), np.resize(SMALL, (40, 2, 2, 3))
    scales = [Scales(guidance=3.0), UNGUIDED, Scales(guidance=1.0)]
    whole = draw(PARAMS, 0, labels, low_res=low_res, scales=scales)
    assert whole.kept_x.shape == whole.kept_xstart.shape == (3, 3 * 21, 4, 4, 3)
    assert whole.timesteps == [9, 4, 0]
    for row, scale in enumerate(scales):
        alone = draw(PARAMS, 0, labels, low_res=low_res, scales=[scale])
        assert alone.kept_x.shape == (3, 40, 4, 4, 3)
        for name in ("kept_x", "kept_xstart"):
            of_row = getattr(whole, name)[:, 21 * row : 21 * row + 21].astype(int)
            assert np.abs(of_row - getattr(alone, name)[:, :21]).max() <= 1


def test_each_scale_may_enlarge_images_of_its_own():
    draw = drawer(told)
    other = np.concatenate([SMALL, 255 - SMALL])
    rows = draw(PARAMS, 0, LABELS, low_res=other, scales=[UNGUIDED] * 2).x
    for row, low_res in [(rows[:11], SMALL), (rows[11:], 255 - SMALL)]:
        np.testing.assert_array_equal(row, draw(PARAMS, 0, LABELS, low_res=low_res).x)


def test_progress_counts_the_samples_of_every_scale(guided_drawer):
    heard = []
    guided_drawer(PARAMS, 0, LABELS, heard.append, SMALL, SCALES[:3])
    assert sum(heard) == pytest.approx(33)


def test_a_scale_without_a_classifier_is_an_error():
    with pytest.raises(ValueError, match="no classifier"):
        drawer(told)(PARAMS, 0, LABELS, low_res=SMALL, scales=[Scales(1.0)])
