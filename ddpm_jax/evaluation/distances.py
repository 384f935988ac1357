"""How far a set of samples is from a set of real examples, told from vectors of both.

Pure NumPy. The vectors are features of images, such as those of a classifier.
"""

from typing import NamedTuple

import numpy as np

BLOCK_ROWS = 1024  # of a matrix of distances, held at once


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of samples among the real ones, and of real ones among the samples."""

    precision: float
    recall: float


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to a [N, F] and b [M, F] (Heusel et al. 2017).

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), with unbiased covariances A and B, in float64. It
    has a bias that falls as 1/N + 1/M: compare sets of the same sizes alone.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root_a = vectors * np.sqrt(values.clip(0)) @ vectors.T
    # A^(1/2) B A^(1/2) has the eigenvalues of A B, and is symmetric.
    root_sum = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(0)).sum()
    shift = a.mean(0) - b.mean(0)
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * root_sum)


def precision_recall(real: np.ndarray, samples: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Of real [N, F] and samples [M, F], by neighbourhoods (Kynkaanniemi et al. 2019, eq. 1-2).

    A vector is among a set if it is no farther from one of its members than that member's k-th
    nearest neighbour in the set.
    """
    return PrecisionRecall(_share_among(real, samples, k), _share_among(samples, real, k))


def neighbour_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each x [N, F] to its k-th nearest neighbour among the others, [N]."""
    if len(x) <= k:
        raise ValueError(f"{len(x)} vectors have no {k}-th neighbours")
    blocks = (x[i : i + BLOCK_ROWS] for i in range(0, len(x), BLOCK_ROWS))
    return np.concatenate(  # the nearest of all is the vector itself
        [np.partition(_squared_distances(rows, x), k, axis=1)[:, k] for rows in blocks]
    )


def _share_among(members: np.ndarray, x: np.ndarray, k: int) -> float:
    radii = neighbour_radii(members, k)
    blocks = (x[i : i + BLOCK_ROWS] for i in range(0, len(x), BLOCK_ROWS))
    return float(
        np.concatenate(
            [(_squared_distances(rows, members) <= radii).any(1) for rows in blocks]
        ).mean()
    )


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, F], [M, F] -> [N, M], in float64, where |a|^2 - 2ab + |b|^2 cancels least."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    products = (a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1)
    return products.clip(0)
