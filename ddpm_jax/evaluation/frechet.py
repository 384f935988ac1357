"""The Frechet distance between Gaussians: FID, and sFID on spatial features.

|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), Heusel et al. 2017. The evaluators take the root of the
matrix A B, which takes minutes and fails for some singular covariances. Only its trace is needed,
and that follows from eigenvalues: those of A B are those of B^(1/2) A B^(1/2), which is symmetric.
"""

import math
import warnings

import numpy as np

from ddpm_jax.evaluation.statistics import BLOCK_ROWS, Statistics

EPS = 1e-6  # what the evaluators add to both diagonals where their root is not finite


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The Frechet distance; it falls as 1/N towards its value for infinitely many images.

    Raises ValueError for covariances of other sizes, or with negative eigenvalues.
    """
    _check_sizes(a, b)
    return _distance(a, b, trace_of_root(a.cov, b.cov))


def _distance(a: Statistics, b: Statistics, root: float) -> float:
    shift = a.mean - b.mean
    return float(shift @ shift + np.trace(a.cov) + np.trace(b.cov) - 2 * root)


def trace_of_root(a: np.ndarray, b: np.ndarray) -> float:
    """tr (A B)^(1/2) of two covariances [F, F]."""
    if not (_symmetric(a) and _symmetric(b)):
        return _trace_of_general_root(a, b)
    root = root_of(b)
    values = np.linalg.eigvalsh(root @ a @ root)
    return float(np.sqrt(_without_rounding(values)).sum())


def root_of(cov: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance [F, F]; it may be singular."""
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(_without_rounding(values))) @ vectors.T


def distance_and_error(
    features: np.ndarray, samples: Statistics, reference: Statistics
) -> tuple[float, float]:
    """The distance of samples, and its standard error due to the choice of these samples.

    To first order a sample x moves the distance by psi(x) / N, with
    psi(x) = 2 (mu - mu_r) (x - mu) + (x - mu)^T (I - T) (x - mu) and
    T = R (R A R)^(-1/2) R, R = B^(1/2). The standard deviation of psi over sqrt(N) is what a
    bootstrap estimates, without its hundreds of matrix roots. Raises as `frechet_distance`.
    """
    if not (_symmetric(samples.cov) and _symmetric(reference.cov)):
        return frechet_distance(samples, reference), math.nan
    _check_sizes(samples, reference)
    root = root_of(reference.cov)
    values, vectors = np.linalg.eigh(root @ samples.cov @ root)
    values = _without_rounding(values)
    distance = _distance(samples, reference, np.sqrt(values).sum())

    shift = samples.mean - reference.mean
    kept = values > 0
    scaled = root @ vectors[:, kept] * values[kept] ** -0.25  # T = scaled scaled^T
    psi = np.empty(len(features))
    for start in range(0, len(features), BLOCK_ROWS):
        x = features[start : start + BLOCK_ROWS] - samples.mean
        psi[start : start + BLOCK_ROWS] = x @ (2 * shift) + (x * x).sum(1)
        psi[start : start + BLOCK_ROWS] -= ((x @ scaled) ** 2).sum(1)
    return distance, float(psi.std() / np.sqrt(len(features)))


def _check_sizes(a: Statistics, b: Statistics) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} numbers")


def _symmetric(matrix: np.ndarray) -> bool:
    return np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-9 * abs(matrix).max(initial=0))


def _without_rounding(values: np.ndarray) -> np.ndarray:
    """Eigenvalues of a covariance, with 0 for what is rounding; raises ValueError below that."""
    largest = abs(values).max(initial=0)
    if values.min(initial=0) < -1e-3 * largest:
        raise ValueError("a covariance has negative eigenvalues")
    return np.where(values > len(values) * np.finfo(float).eps * largest, values, 0)


def _trace_of_general_root(a: np.ndarray, b: np.ndarray) -> float:
    """As the evaluators do it, for matrices in a file that are no covariances."""
    import scipy.linalg  # 50 ms, and rarely needed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)  # of a singular product
        root = scipy.linalg.sqrtm(a @ b)
    if not np.isfinite(root).all():
        shift = EPS * np.eye(len(a))
        root = scipy.linalg.sqrtm((a + shift) @ (b + shift))
    return float(np.trace(root).real)
