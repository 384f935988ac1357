"""Distances between sets: against closed forms, and the numbers of the original evaluator."""

import re

import numpy as np
import pytest

from ddpm_jax.evaluation.distances import frechet_distance, neighbour_radii, share_among
from tests.parity.golden import load


def gaussian(count: int, mean: np.ndarray, root: np.ndarray, seed: int) -> np.ndarray:
    """Vectors whose mean and covariance are exactly `mean` and root^T root."""
    x = np.random.default_rng(seed).standard_normal((count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return mean + x @ root


def test_the_frechet_distance_of_gaussians_is_its_closed_form():
    mean_a, mean_b = np.array([1.0, 2, 0]), np.array([0.0, 2, 2])
    # Covariances that commute: |mu_a - mu_b|^2 + sum (sqrt(l_a) - sqrt(l_b))^2.
    a = gaussian(50, mean_a, np.diag([1.0, 2, 3]), 0)
    b = gaussian(70, mean_b, np.diag([2.0, 2, 0.5]), 1)
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 2.5**2, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a[:, :1], b[:, :1]) == pytest.approx(1 + 1, rel=1e-9)


def test_precision_falls_by_strange_samples_and_recall_by_missing_ones():
    line = np.arange(100.0)[:, None]
    assert share_among(line, line + 0.4) == share_among(line + 0.4, line) == 1
    half = np.concatenate([line[:50], 1000 + 10 * line[:50]])
    assert share_among(line, half, k=1) == 0.5  # precision
    assert share_among(half, line, k=1) == 0.51  # recall; 50 is as far from 49 as 48 is
    with pytest.raises(ValueError, match="no 3-th neighbours"):
        neighbour_radii(line[:3], 3)


def test_blocks_of_rows_change_nothing(monkeypatch):
    a, b = np.random.default_rng(0).standard_normal((2, 90, 4))
    whole = share_among(a, b + 1)
    monkeypatch.setattr("ddpm_jax.evaluation.distances.BLOCK_ROWS", 7)
    assert share_among(a, b + 1) == whole


def golden_cases(kind: str) -> list[str]:
    names = [re.match(rf"in/({kind}\w*)/", key) for key in load("evaluator.npz").keys("in/")]
    return sorted({name[1] for name in names if name})


@pytest.mark.parametrize("case", golden_cases("fid"))
def test_the_frechet_distance_is_the_original_fid(case):
    file = load("evaluator.npz")
    found = frechet_distance(file.array(f"in/{case}/act1"), file.array(f"in/{case}/act2"))
    # The original adds 1e-6 where a square root of a matrix fails, and takes means in float32.
    np.testing.assert_allclose(found, file.array(f"out/{case}/fid"), rtol=1e-6)
    np.testing.assert_allclose(found, file.array(f"out/{case}/fid_eig_check"), rtol=1e-6)


@pytest.mark.parametrize("case", golden_cases("pr"))
def test_precision_recall_and_radii_are_the_original_ones(case):
    file = load("evaluator.npz")
    real, samples = (file.array(f"in/{case}/{name}") for name in ("ref", "sample"))
    for i, k in enumerate(file.meta["cases"][case]["nhood_sizes"]):
        precision, recall = share_among(real, samples, k), share_among(samples, real, k)
        assert precision == file.array(f"out/{case}/f64/precision")[i]
        assert recall == file.array(f"out/{case}/f64/recall")[i]
        for name, x in (("ref", real), ("sample", samples)):
            radii = file.array(f"out/{case}/radii_{name}")[:, i]
            np.testing.assert_allclose(neighbour_radii(x, k), radii, rtol=1e-5)
