"""The evaluators of a run: when they are due, and what each returns."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import build_diffusion
from ddpm_jax.data import load_source
from ddpm_jax.models import build_network
from ddpm_jax.runtime import devices
from ddpm_jax.training.evaluators import OFF, due, picture_evaluator, validation_evaluator
from tests.models.helpers import random_params
from tests.run_folders import tiny
from tests.training.fakes import first_state


def test_an_evaluator_is_due_on_every_nth_step_and_on_the_last_one():
    assert [s for s in range(11) if due(s, 4, 10)] == [4, 8, 10]
    assert [s for s in range(11) if due(s, 5, 10)] == [5, 10]
    assert not any(due(s, 0, 10) for s in range(11))


@pytest.fixture(scope="module")
def small():
    """A small config with its network, a mesh, a source of images and a state."""
    config = tiny(num_classes=0)
    network = build_network(config)
    mesh = devices.make_mesh(devices.ParallelConfig(data=1), 4)
    params = random_params(network)
    state = first_state()._replace(params=params, ema=params)
    return config, network, mesh, load_source(config.data), state


def test_a_picture_is_a_file_and_a_result_and_is_missing_until_it_is_drawn(small, tmp_path):
    config, network, mesh, source, state = small
    pictures = picture_evaluator(config, network, mesh, source, tmp_path / "samples")
    assert pictures.every_steps == config.train.sample_every_steps and not pictures.before_save
    assert pictures.missing(5)
    results = pictures.evaluate(5, state)
    file = np.asarray(Image.open(tmp_path / "samples" / "step_00000005.png"))
    np.testing.assert_array_equal(results["samples"], file.reshape(results["samples"].shape))
    assert not pictures.missing(5) and pictures.missing(6)


def test_validation_runs_before_the_save_and_is_never_missing(small):
    config, network, mesh, source, state = small
    diffusion = build_diffusion(config.diffusion)
    validation = validation_evaluator(config, diffusion, network, mesh, source)
    assert validation.every_steps == config.train.validate_every_steps
    assert validation.before_save and not validation.missing(5)
    results = validation.evaluate(5, state)
    assert np.isfinite(results["held_out_loss"]) and "held_out_loss_q0" in results


def test_without_held_out_examples_and_for_classifiers_there_is_nothing_to_do(small, tmp_path):
    config, network, mesh, source, _ = small
    diffusion = build_diffusion(config.diffusion)
    assert validation_evaluator(config, diffusion, network, mesh, None) is OFF
    classifier = tiny(kind="classifier", pool="adaptive", num_classes=10)
    assert picture_evaluator(classifier, network, mesh, source, tmp_path) is OFF
