"""The kernel distance of Binkowski et al. 2018: KID, an unbiased squared MMD of features."""

from collections.abc import Callable
from functools import partial

import numpy as np

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 2020  # torch-fidelity's, so that both choose the same subsets

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # [N, F], [M, F] -> [N, M]


def polynomial_kernel(
    x: np.ndarray, y: np.ndarray, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
) -> np.ndarray:
    """(gamma x.y + coef0)^degree; gamma is 1 / F by default."""
    return ((1 / x.shape[1] if gamma is None else gamma) * (x @ y.T) + coef0) ** degree


def rbf_kernel(x: np.ndarray, y: np.ndarray, sigma: float = 10.0) -> np.ndarray:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    squared = (x * x).sum(1)[:, None] - 2 * x @ y.T + (y * y).sum(1)
    return np.exp(-squared / (2 * sigma**2))


def squared_mmd(x: np.ndarray, y: np.ndarray, kernel: Kernel = polynomial_kernel) -> float:
    """The unbiased squared maximum mean discrepancy of x [N, F] and y [M, F]."""
    within = (_mean_of_pairs(kernel(each, each)) for each in (x, y))
    return float(sum(within) - 2 * kernel(x, y).mean())


def _mean_of_pairs(k: np.ndarray) -> float:
    """The mean of a matrix [N, N] without its diagonal."""
    return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))


def kernel_distances(
    x: np.ndarray,
    y: np.ndarray,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
    kernel: Kernel = polynomial_kernel,
) -> np.ndarray:
    """The squared MMD of random subsets of x and y, float64 [num_subsets]; KID is their mean.

    Raises ValueError if there are fewer vectors than a subset has, or the subset has only one.
    """
    if not 1 < subset_size <= min(len(x), len(y)):
        raise ValueError(f"no subsets of {subset_size} from {len(x)} and {len(y)} images")
    random = np.random.RandomState(SEED)
    choose = partial(random.choice, size=subset_size, replace=False)
    return np.array(
        [
            squared_mmd(x[choose(len(x))].astype(float), y[choose(len(y))].astype(float), kernel)
            for _ in range(num_subsets)
        ]
    )


def standard_error(x: np.ndarray, y: np.ndarray, most: int = SUBSET_SIZE) -> float:
    """The standard error of the squared MMD, due to the choice of the samples x.

    To first order a sample x_i moves it by 2 psi(x_i) / N, where psi is the mean kernel with other
    samples minus that with y. `most` vectors of each tell how psi varies.
    """
    random = np.random.RandomState(SEED)
    few, real = (
        each[random.choice(len(each), min(most, len(each)), replace=False)].astype(float)
        for each in (x, y)
    )
    within = polynomial_kernel(few, few)
    psi = (within.sum(1) - np.diag(within)) / (len(few) - 1) - polynomial_kernel(few, real).mean(1)
    return float(2 * psi.std() / np.sqrt(len(x)))
