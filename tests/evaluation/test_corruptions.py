"""Real images made worse are farther from other real ones, in the order that eyes would say."""

from functools import cache

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from benchmarks.corruptions import CORRUPTIONS, Args, extractor_of
from ddpm_jax import data
from ddpm_jax.config import DataConfig
from ddpm_jax.evaluation.metrics import Reference, Samples, measure
from ddpm_jax.evaluation.statistics import fit
from tests.evaluation.pixels import flat
from tests.evaluation.test_metrics import Features

ORDERED = {
    "noise": ("noise of 8 levels", "noise of 32 levels"),
    "blur": ("blur of 0.5 pixels", "blur of 1 pixel"),
}


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


@pytest.mark.slow  # two minutes: Inception at 299 pixels for 1,200 images
def test_even_inception_with_random_weights_orders_noise_and_blur_of_photographs():
    extract = extractor_of(Args(features="random")).extract
    photographs = load_sample_images().images
    squares = np.concatenate([squares_of(each, 32) for each in photographs])
    squares = squares[np.random.default_rng(0).permutation(len(squares))][:400]
    real, others = extract(squares[:200]).pool, squares[200:]
    reference = Reference(fit(real), features=real)
    distance = {}
    for name in ("other real images", *ORDERED["noise"], *ORDERED["blur"]):
        samples = Samples(extract(CORRUPTIONS[name](others)), reference)
        distance[name] = measure(samples, ["frechet", "kernel"])
    for weak, strong in ORDERED.values():
        for metric in ("frechet", "kernel"):
            values = [distance[name][metric].value for name in ("other real images", weak, strong)]
            assert values == sorted(values), (metric, values)


def squares_of(picture: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, C] -> [N, side, side, C], next to one another."""
    rows, columns = (length // side for length in picture.shape[:2])
    cut = picture[: rows * side, : columns * side]
    cut = cut.reshape(rows, side, columns, side, -1).swapaxes(1, 2)
    return cut.reshape(-1, *cut.shape[2:])
