"""Distances between two sets of vectors, such as features of samples and of real images.

Pure NumPy.
"""

import numpy as np

BLOCK_ROWS = 1024  # of a matrix of distances in memory at once


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to a [N, F] and b [M, F] (Heusel et al. 2017).

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), with unbiased covariances A and B, in float64. It
    has a bias that falls as 1/N + 1/M: only compare sets of the same sizes.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root_a = vectors * np.sqrt(values.clip(0)) @ vectors.T
    # A^(1/2) B A^(1/2) has the eigenvalues of A B, and is symmetric.
    root_sum = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(0)).sum()
    shift = a.mean(0) - b.mean(0)
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * root_sum)


def share_among(members: np.ndarray, x: np.ndarray, k: int = 3) -> float:
    """Share of vectors x [M, F] that lie among `members` [N, F] (Kynkaanniemi et al. 2019, eq. 1).

    A vector lies among them if it is within the radius of any of them, the distance to that
    member's k-th nearest neighbour in the set. Precision is the share of samples among real images,
    recall the share of real images among samples (eq. 2).
    """
    radii = neighbour_radii(members, k)
    blocks = (x[i : i + BLOCK_ROWS] for i in range(0, len(x), BLOCK_ROWS))
    return float(
        np.concatenate(
            [(_squared_distances(rows, members) <= radii).any(1) for rows in blocks]
        ).mean()
    )


def neighbour_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each x [N, F] to its k-th nearest neighbour among the others, [N]."""
    if len(x) <= k:
        raise ValueError(f"{len(x)} vectors have no {k}-th neighbours")
    blocks = (x[i : i + BLOCK_ROWS] for i in range(0, len(x), BLOCK_ROWS))
    return np.concatenate(  # index k: the nearest, index 0, is the vector itself
        [np.partition(_squared_distances(rows, x), k, axis=1)[:, k] for rows in blocks]
    )


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, F], [M, F] -> [N, M], in float64, where |a|^2 - 2ab + |b|^2 cancels least."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    products = (a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1)
    return products.clip(0)
