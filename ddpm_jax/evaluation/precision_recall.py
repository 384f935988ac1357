"""Improved precision and recall of Kynkaanniemi et al. 2019.

ADM's evaluator takes distances in float16, which moves its values by about 0.001. These are in
float32, which torch-fidelity shows to be enough.
"""

from collections.abc import Iterator

import numpy as np

K = 3
BLOCK_ROWS = 1500  # of a matrix of distances at once; columns of 4096 take five times as long


def share_among(members: np.ndarray, x: np.ndarray, k: int = K) -> float:
    """Share of vectors x [M, F] that lie among `members` [N, F] (eq. 1).

    A vector lies among them if it is within the radius of any of them, the distance to that
    member's k-th nearest neighbour in the set. Precision is the share of samples among real images,
    recall the share of real images among samples (eq. 2).
    """
    centre = members.mean(0)
    members, x = members - centre, x - centre
    radii, inside = neighbour_radii(members, k), np.zeros(len(x), bool)
    for i, j in _blocks(len(x)):
        for m, n in _blocks(len(members)):
            inside[i:j] |= (_squared_distances(x[i:j], members[m:n]) <= radii[m:n]).any(1)
    return float(inside.mean())


def neighbour_radii(x: np.ndarray, k: int = K) -> np.ndarray:
    """Squared distance of each x [N, F] to its k-th nearest neighbour among the others, [N].

    Raises ValueError if there are no k others.
    """
    if len(x) <= k:
        raise ValueError(f"{len(x)} images have no {k}-th neighbours")
    x = x - x.mean(0)
    nearest = np.full((len(x), k + 1), np.inf, x.dtype)  # each one itself is the nearest, 0 away
    for i, j in _blocks(len(x)):
        for m, n in _blocks(len(x)):
            if m < i:
                continue  # the matrix is symmetric
            squared = _squared_distances(x[i:j], x[m:n])
            nearest[i:j] = _smallest(nearest[i:j], squared)
            if m > i:
                nearest[m:n] = _smallest(nearest[m:n], squared.T)
    return nearest.max(1).clip(0)


def _smallest(nearest: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The smallest k + 1 of each row of both."""
    size = nearest.shape[1]
    few = np.partition(more, size - 1, axis=1)[:, :size] if more.shape[1] > size else more
    return np.partition(np.concatenate([nearest, few], axis=1), size - 1, axis=1)[:, :size]


def _blocks(num: int) -> Iterator[tuple[int, int]]:
    return ((i, min(i + BLOCK_ROWS, num)) for i in range(0, num, BLOCK_ROWS))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, F], [M, F] -> [N, M], in the precision of the vectors; by rounding, some are below 0."""
    squared = (-2 * a) @ b.T
    squared += (a * a).sum(1)[:, None]  # in place: passes over memory take as long as products
    squared += (b * b).sum(1)
    return squared
