"""Metrics of samples, by features of them and of real images: one table, METRICS.

Another metric is a function here and a row of the table; the columns of evaluate.py and of the
guidance sweep follow.
"""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation import inception_score, kernel_distance, precision_recall
from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.frechet import distance_and_error
from ddpm_jax.evaluation.statistics import NOTHING, Statistics, fit

SUBSET_SIZE = kernel_distance.SUBSET_SIZE


class Reference(NamedTuple):
    """What is known of real images; nothing of what no chosen metric needs."""

    pool: Statistics = NOTHING
    spatial: Statistics = NOTHING
    features: np.ndarray = np.empty((0, 0), np.float32)  # [M, F]


class Samples(NamedTuple):
    """Samples as a metric sees them, beside real images."""

    features: Features
    real: Reference
    labels: np.ndarray = np.empty(0, int)  # [N], the classes asked for; none are known


class Estimate(NamedTuple):
    """A number, and the standard error due to the choice of the samples; NaN if unknown."""

    value: float
    standard_error: float = math.nan


class Metric(NamedTuple):
    """A function of samples, its title in pictures, and what it needs.

    Attributes:
      measure: samples -> an estimate.
      needs: what it needs besides the samples' own pool features: "labels" and "logits" of the
        samples, "pool", "spatial" and "features" of the real images.
      more_is_better: True for a score, False for a distance.
      inception: True if the name is that of features of Inception; False if other features only
        are meant; None for either.
    """

    measure: Callable[[Samples], Estimate]
    title: str
    needs: Collection[str] = ()
    inception: bool | None = None
    more_is_better: bool = False


def accuracy(samples: Samples) -> Estimate:
    """Share of samples in which the classifier sees the class asked for."""
    return _share(float((samples.features.classes == samples.labels).mean()), len(samples.labels))


def precision(samples: Samples) -> Estimate:
    """The share of samples among the real images."""
    real, found = samples.real.features, samples.features.pool
    return _share(precision_recall.share_among(real, found), len(found))


def recall(samples: Samples) -> Estimate:
    """The share of real images among the samples; its error is due to the choice of the former."""
    real, found = samples.real.features, samples.features.pool
    return _share(precision_recall.share_among(found, real), len(real))


def frechet(samples: Samples) -> Estimate:
    """The Frechet distance of the features to those of real images: FID with Inception."""
    return _frechet(samples.features.pool, samples.real.pool)


def spatial_frechet(samples: Samples) -> Estimate:
    """The same of features that know where things are (Nash et al. 2021): sFID."""
    return _frechet(samples.features.spatial, samples.real.spatial)


def kernel(samples: Samples) -> Estimate:
    """The kernel distance to real images: KID with Inception."""
    real, found = samples.real.features, samples.features.pool
    size = min(SUBSET_SIZE, len(real), len(found))
    subsets = 1 if size == len(real) == len(found) else kernel_distance.NUM_SUBSETS  # all the same
    value = kernel_distance.kernel_distances(found, real, subsets, size).mean()
    return Estimate(float(value), kernel_distance.standard_error(found, real))


def score(samples: Samples) -> Estimate:
    """The Inception Score, in splits of 5,000 as ADM's evaluator."""
    logits = samples.features.logits
    bounds = inception_score.consecutive_splits(len(logits))
    value = float(inception_score.inception_scores(logits, bounds).mean())
    # To first order an image moves log(score) by its own divergence over N.
    spread = inception_score.divergences(logits).std() / math.sqrt(len(logits))
    return Estimate(value, float(value * spread))


def _frechet(features: np.ndarray, real: Statistics) -> Estimate:
    return Estimate(*distance_and_error(features, fit(features), real))


def _share(value: float, num: int) -> Estimate:
    return Estimate(value, math.sqrt(value * (1 - value) / num))


METRICS: dict[str, Metric] = {
    "fid": Metric(frechet, "FID (less is better)", ["pool"], inception=True),
    "sfid": Metric(spatial_frechet, "sFID (less is better)", ["spatial"], inception=True),
    "is": Metric(score, "Inception Score", ["logits"], inception=True, more_is_better=True),
    "kid": Metric(kernel, "KID (less is better)", ["features"], inception=True),
    "accuracy": Metric(
        accuracy, "accuracy: the class asked for", ["labels", "logits"], False, more_is_better=True
    ),
    "precision": Metric(precision, "precision: looks real", ["features"], more_is_better=True),
    "recall": Metric(recall, "recall: the variety of the real", ["features"], more_is_better=True),
    "frechet": Metric(frechet, "Frechet distance (less is better)", ["pool"], inception=False),
    "kernel": Metric(kernel, "kernel distance (less is better)", ["features"], inception=False),
}


def measure(samples: Samples, names: Collection[str]) -> dict[str, Estimate]:
    """The metrics of these names in METRICS."""
    return {name: METRICS[name].measure(samples) for name in names}
