"""How good samples are, by features of them and of real images."""

from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation.distances import frechet_distance, precision_recall
from ddpm_jax.evaluation.features import Features


class SampleMetrics(NamedTuple):
    """How many of some samples are of the class asked for, how good and how diverse they are."""

    accuracy: float  # share in which the judge sees that class
    precision: float  # share that lies among the real images
    recall: float  # share of the real images that lies among the samples
    frechet: float  # distance of their features to those of the real images


def compare(samples: Features, labels: np.ndarray, real: np.ndarray) -> SampleMetrics:
    """The verdict on samples of int [N] `labels`; `real` are features [M, F] of real images.

    Precision and recall are of sets of the same size, at k = 3: of the first ones.
    """
    size = min(len(real), len(samples.features))
    return SampleMetrics(
        float((samples.classes == labels).mean()),
        *precision_recall(real[:size], samples.features[:size]),
        frechet_distance(samples.features, real),
    )
