"""The Inception Score of Salimans et al. 2016: exp of the mean KL(p(y | x) || p(y))."""

import itertools
from collections.abc import Sequence

import numpy as np

SPLIT_SIZE = 5000  # of ADM's evaluator; the last split may be shorter


def inception_scores(logits: np.ndarray, bounds: Sequence[int]) -> np.ndarray:
    """The score of each split, float64 [S], in 1..C.

    Args:
      logits: [N, C], without the bias, as all evaluators have it.
      bounds: S + 1 of them, as [0, 5000, 10000].
    """
    return np.array(
        [np.exp(divergences(logits[i:j]).mean()) for i, j in itertools.pairwise(bounds)]
    )


def divergences(logits: np.ndarray) -> np.ndarray:
    """KL(p(y | x) || p(y)) of each image, float64 [N]; p(y) is the mean over these images.

    The logarithms are taken before anything can underflow. ADM's evaluator takes them afterwards
    in float32, and answers NaN where a probability is below 1e-45.
    """
    log_p = logits.astype(np.float64)
    log_p -= log_p.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    log_mean = np.log(p.mean(0), where=p.any(0), out=np.zeros(p.shape[1]))
    return (p * (log_p - log_mean)).sum(1)


def consecutive_splits(num: int, size: int = SPLIT_SIZE) -> list[int]:
    """Bounds of splits of `size` images, as ADM's evaluator has them."""
    return [*range(0, num, size), num]
