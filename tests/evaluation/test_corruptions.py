"""Real digits made worse are farther from other real ones, in the order that eyes would say."""

from functools import cache

import numpy as np

from benchmarks.corruptions import CORRUPTIONS
from ddpm_jax import data
from ddpm_jax.config import DataConfig
from ddpm_jax.evaluation.metrics import Reference, Samples, measure
from ddpm_jax.evaluation.statistics import fit
from tests.evaluation.pixels import flat
from tests.evaluation.test_metrics import Features


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    settings = DataConfig(name="digits", image_size=8, channels=1)
    images, labels = data.first_images(data.load_source(settings), settings, 1797)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]


def found(images: np.ndarray) -> dict[str, float]:
    """Metrics of images against the first half of the digits, by their pixels."""
    real = flat(digits()[0][:898])
    pool = flat(images)
    samples = Samples(Features(pool, pool, pool), Reference(fit(real), features=real))
    measured = measure(samples, ["frechet", "kernel", "precision", "recall"])
    return {name: estimate.value for name, estimate in measured.items()}


def test_worse_images_are_farther_away():
    others = digits()[0][898:1796]  # as many as the real ones: a kernel distance of one subset
    distance = {name: found(change(others)) for name, change in CORRUPTIONS.items()}
    for name in ("frechet", "kernel"):
        by = {kind: of[name] for kind, of in distance.items()}
        assert by["noise of 8 levels"] < by["noise of 32 levels"]
        assert by["blur of 0.5 pixels"] < by["blur of 1 pixel"]
        assert by["JPEG, quality 90"] < by["JPEG, quality 30"]
        assert by["other real images"] < by["noise of 32 levels"] < by["blur of 1 pixel"]
    assert distance["other real images"]["precision"] > distance["blur of 1 pixel"]["precision"]


def test_half_of_the_classes_keep_their_precision_and_lose_their_recall():
    images, labels = (of[898:1796] for of in digits())
    whole, half = found(images), found(images[labels < 5])
    assert half["frechet"] > 3 * whole["frechet"] and half["recall"] < 0.7 * whole["recall"]
    assert half["precision"] > whole["precision"] - 0.05
