"""Metrics of samples, by features of them and of real images: one table, METRICS.

Another metric is a function here and a row of the table; the columns and pictures of the guidance
sweep follow.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation import distances
from ddpm_jax.evaluation.features import Features

SampleMetrics = dict[str, float]  # by the names in METRICS


class Samples(NamedTuple):
    """Samples as a metric sees them, beside real images."""

    features: Features
    labels: np.ndarray  # int [N], the classes asked for
    real: np.ndarray  # float [M, F], features of real images


class Metric(NamedTuple):
    """A function of samples, and its title in pictures."""

    measure: Callable[[Samples], float]
    title: str


def accuracy(samples: Samples) -> float:
    """Share of samples in which the classifier sees the class asked for."""
    return float((samples.features.classes == samples.labels).mean())


def precision(samples: Samples) -> float:
    """The share of samples among the real images, with equal numbers of both."""
    found, real = _same_number(samples)
    return distances.share_among(real, found)


def recall(samples: Samples) -> float:
    """The share of real images among the samples, with equal numbers of both."""
    found, real = _same_number(samples)
    return distances.share_among(found, real)


def frechet(samples: Samples) -> float:
    """Distance of the samples' features to those of real images."""
    return distances.frechet_distance(samples.features.features, samples.real)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, "accuracy: the class asked for"),
    "precision": Metric(precision, "precision: looks real"),
    "recall": Metric(recall, "recall: the variety of the real"),
    "frechet": Metric(frechet, "Frechet distance (less is better)"),
}


def measure(features: Features, labels: np.ndarray, real: np.ndarray) -> SampleMetrics:
    """Every metric of samples drawn for the labels int [N]; `real` are features of real images."""
    samples = Samples(features, labels, real)
    return {name: metric.measure(samples) for name, metric in METRICS.items()}


def _same_number(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    size = min(len(samples.real), len(samples.features.features))
    return samples.features.features[:size], samples.real[:size]
