"""Training a classifier of noisy images, and validating on what was held out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    TrainConfig,
    build_diffusion,
)
from ddpm_jax.data import hold_out, load_source
from ddpm_jax.models import Network
from ddpm_jax.runtime import devices
from ddpm_jax.training.objectives import classification
from ddpm_jax.training.validation import EarlyStop, make_validator

CONFIG = Config(
    data=DataConfig(name="digits", image_size=8, channels=1, held_out="10%"),
    model=ModelConfig(kind="classifier", num_classes=10),
    diffusion=DiffusionConfig(timesteps=40),
    train=TrainConfig(batch_size=16),
)
DIFFUSION = build_diffusion(CONFIG.diffusion)


def network_of(logits) -> Network:
    """A classifier by formula: `logits(params, x, t)`."""
    return Network(
        init=lambda key: {},
        apply=lambda params, x, t, labels=None, key=None: logits(params, x, t),
        abstract={},
    )


def examples(labels: list[int]) -> dict[str, jax.Array]:
    count = len(labels)
    shape = (count, 8, 8, 1)
    return {
        "x": jnp.zeros(shape),
        "label": jnp.array(labels),
        "t": jnp.arange(count),
        "noise": jnp.ones(shape),
        "weight": jnp.ones(count),
    }


def test_the_loss_is_the_cross_entropy_and_accuracy_counts_the_likeliest():
    logits = jnp.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    config = Config(model=ModelConfig(kind="classifier", num_classes=3))
    numbers = classification(config, DIFFUSION, network_of(lambda p, x, t: logits))
    found = numbers({}, examples([0, 1]), None)
    other = np.log(np.exp(2) + 2)
    np.testing.assert_allclose(found["loss"], [other - 2, other], rtol=1e-6)
    np.testing.assert_array_equal(found["accuracy"], [1, 0])
    assert "accuracy_top5" not in found


def test_top_five_is_counted_where_there_are_more_than_ten_classes():
    config = Config(model=ModelConfig(kind="classifier", num_classes=12))
    logits = jnp.arange(12.0) * jnp.ones((3, 1))
    numbers = classification(config, DIFFUSION, network_of(lambda p, x, t: logits))
    found = numbers({}, examples([11, 7, 6]), None)
    np.testing.assert_array_equal(found["accuracy"], [1, 0, 0])
    np.testing.assert_array_equal(found["accuracy_top5"], [1, 1, 0])


def test_the_classifier_sees_the_noisy_image_and_its_time():
    seen = []

    def logits(params, x, t):
        seen.append((x, t))
        return jnp.zeros((len(x), 10))

    classification(CONFIG, DIFFUSION, network_of(logits))({}, examples([1, 2, 3]), None)
    (x, t), schedule = seen[0], DIFFUSION.schedule
    np.testing.assert_array_equal(t, [0, 1, 2])
    np.testing.assert_allclose(x[:, 0, 0, 0], schedule.sqrt_one_minus_alphas_cumprod[:3], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 8])
def test_validation_counts_each_held_out_example_once(count):
    _, held_out = hold_out(load_source(CONFIG.data), CONFIG.data)
    mesh = devices.make_mesh(devices.ParallelConfig(data=count), 16)

    def always_three(params, x, t):
        return jnp.zeros((len(x), 10)).at[:, 3].set(params["sure"])

    validate = make_validator(CONFIG, DIFFUSION, network_of(always_three), mesh, held_out)
    labels = np.array([held_out.records[i]["label"] for i in range(len(held_out))])
    numbers = validate({"sure": jnp.array(5.0)})
    assert numbers["held_out_accuracy"] == pytest.approx((labels == 3).mean(), rel=1e-5)
    assert {f"held_out_accuracy_q{q}" for q in range(4)} < set(numbers)
    assert validate({"sure": jnp.array(5.0)}) == numbers
    assert validate({"sure": jnp.array(0.0)})["held_out_loss"] == pytest.approx(np.log(10))


def test_early_stopping_counts_validations_since_the_lowest_loss():
    early_stop = EarlyStop(2)
    assert [early_stop.add(loss) for loss in (3.0, 2.0, 2.5)] == [3.0, 2.0, None]
    assert not early_stop.over
    assert early_stop.add(1.0) == 1.0  # a lower one starts the count anew
    assert early_stop.add(1.0) is None and not early_stop.over
    assert early_stop.add(float("nan")) is None and early_stop.over


def test_early_stopping_goes_on_from_the_log_and_may_be_off():
    losses = [3.0, 2.0, 2.5, None]  # None is what the log makes of NaN
    records = [{"step": i, "held_out_loss": loss} for i, loss in enumerate(losses)]
    records.insert(1, {"step": 0, "loss": 0.1})
    assert EarlyStop(2, records).over and not EarlyStop(3, records).over
    off = EarlyStop(0, records)
    assert off.add(0.5) is None and not off.over
