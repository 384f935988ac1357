"""Mean and covariance of features, in float64."""

from typing import NamedTuple

import numpy as np

BLOCK_ROWS = 4096  # features that are held in float64 at once


class Statistics(NamedTuple):
    """A Gaussian fitted to features: all that a Frechet distance needs of them."""

    mean: np.ndarray  # float64 [F]
    cov: np.ndarray  # float64 [F, F], unbiased


NOTHING = Statistics(np.empty(0), np.empty((0, 0)))  # of no features


def fit(features: np.ndarray) -> Statistics:
    """The statistics of features [N, F]; raises ValueError for fewer than two, or for NaN."""
    num, size = features.shape
    if num < 2:
        raise ValueError(f"a covariance needs at least 2 images, not {num}")
    mean = np.asarray(np.mean(features, axis=0, dtype=np.float64))
    if not np.isfinite(mean).all():
        raise ValueError("some features are NaN or infinite")
    cov: np.ndarray = np.zeros((size, size))
    for start in range(0, num, BLOCK_ROWS):
        centred = features[start : start + BLOCK_ROWS] - mean
        cov += centred.T @ centred
    return Statistics(mean, cov / (num - 1))
