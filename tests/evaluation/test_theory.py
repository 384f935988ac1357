"""Metrics against what theory says of them. The evaluators' numbers are in tests/parity."""

import numpy as np
import pytest

from ddpm_jax.evaluation import kernel_distance, precision_recall, statistics
from ddpm_jax.evaluation.frechet import distance_and_error, frechet_distance
from ddpm_jax.evaluation.inception_score import divergences, inception_scores
from ddpm_jax.evaluation.kernel_distance import kernel_distances
from ddpm_jax.evaluation.precision_recall import neighbour_radii, share_among
from ddpm_jax.evaluation.statistics import Statistics, fit


def gaussian(count: int, mean: np.ndarray, root: np.ndarray, seed: int) -> np.ndarray:
    """Vectors whose mean and covariance are exactly `mean` and root^T root."""
    x = np.random.default_rng(seed).standard_normal((count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return mean + x @ root


def test_the_frechet_distance_of_gaussians_is_its_closed_form():
    mean_a, mean_b = np.array([1.0, 2, 0]), np.array([0.0, 2, 2])
    # Covariances that commute: |mu_a - mu_b|^2 + sum (sqrt(l_a) - sqrt(l_b))^2.
    a = fit(gaussian(50, mean_a, np.diag([1.0, 2, 3]), 0))
    b = fit(gaussian(70, mean_b, np.diag([2.0, 2, 0.5]), 1))
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 2.5**2, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="features of 3 and of 2 numbers"):
        frechet_distance(a, Statistics(b.mean[:2], b.cov[:2, :2]))


def test_the_bias_of_the_frechet_distance_falls_as_one_over_n():
    size, rng = 8, np.random.default_rng(0)
    truth = Statistics(np.zeros(size), np.eye(size))

    def bias(num: int) -> float:
        draws = [fit(rng.standard_normal((num, size))) for _ in range(100)]
        return float(np.mean([frechet_distance(draw, truth) for draw in draws]))

    biases = np.array([bias(num) for num in (50, 100, 200, 400)])
    # To first order: F / N of the mean and F (F + 1) / 4N of the covariance.
    expected = (size + size * (size + 1) / 4) / np.array([50, 100, 200, 400])
    np.testing.assert_allclose(biases, expected, rtol=0.12)


def test_its_standard_error_is_that_of_a_bootstrap():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((600, 5)) @ rng.standard_normal((5, 5)) + 0.3
    reference = fit(rng.standard_normal((900, 5)))
    again = [
        frechet_distance(fit(x[rng.integers(0, len(x), len(x))]), reference) for _ in range(400)
    ]
    distance, error = distance_and_error(x, fit(x), reference)
    assert error == pytest.approx(np.std(again), rel=0.15)
    assert distance == pytest.approx(frechet_distance(fit(x), reference), rel=1e-12)


def test_the_inception_score_counts_the_classes_of_sure_and_even_predictions():
    labels = np.arange(60) % 6
    sure = 200.0 * np.eye(8)[labels]  # two of eight classes are never seen
    assert inception_scores(sure, [0, 60])[0] == pytest.approx(6, rel=1e-9)
    assert inception_scores(np.zeros((60, 8)), [0, 60])[0] == pytest.approx(1)
    assert inception_scores(sure, [0, 30, 60]).shape == (2,)
    np.testing.assert_allclose(divergences(sure), np.log(6))


def test_the_kernel_distance_of_equal_distributions_is_nothing_within_its_error():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 2000, 16))
    found = kernel_distances(x, y, 100, 200)
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(10)  # some 10 subsets are independent
    assert kernel_distances(x, y + 0.3, 100, 200).mean() > 10 * found.std() / np.sqrt(10)
    assert abs(kernel_distance.squared_mmd(x, y)) < abs(kernel_distance.squared_mmd(x, 1.1 * y))
    with pytest.raises(ValueError, match="no subsets of 200 from 100 and 2000 images"):
        kernel_distances(x[:100], y, 100, 200)


@pytest.mark.slow  # many sets of samples
def test_its_standard_error_is_the_spread_over_sets_of_samples():
    rng = np.random.default_rng(4)
    y = rng.standard_normal((3000, 6))
    draws = [0.3 + 1.2 * rng.standard_normal((300, 6)) for _ in range(40)]
    spread = np.std([kernel_distance.squared_mmd(x, y) for x in draws])
    error = np.mean([kernel_distance.standard_error(x, y) for x in draws])
    assert error == pytest.approx(spread, rel=0.3)


def test_precision_and_recall_of_equal_sets_are_one_and_of_disjoint_ones_zero():
    x = np.random.default_rng(3).standard_normal((100, 4)).astype(np.float32)
    assert share_among(x, x) == 1 and share_among(x, x + 100) == share_among(x + 100, x) == 0


def test_precision_falls_by_strange_samples_and_recall_by_missing_ones():
    line = np.arange(100.0)[:, None]
    assert share_among(line, line + 0.4) == share_among(line + 0.4, line) == 1
    half = np.concatenate([line[:50], 1000 + 10 * line[:50]])
    assert share_among(line, half, k=1) == 0.5  # precision
    assert share_among(half, line, k=1) == 0.51  # recall; 50 is as far from 49 as 48 is
    with pytest.raises(ValueError, match="3 images have no 3-th neighbours"):
        neighbour_radii(line[:3], 3)


def test_blocks_of_rows_change_nothing(monkeypatch):
    a, b = np.random.default_rng(0).standard_normal((2, 90, 4))
    whole, radii, fitted = share_among(a, b + 1), neighbour_radii(a), fit(a)
    for module in (precision_recall, statistics):
        monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    assert share_among(a, b + 1) == whole
    np.testing.assert_allclose(neighbour_radii(a), radii, rtol=1e-12)
    np.testing.assert_allclose(fit(a).cov, fitted.cov, rtol=1e-12)
    np.testing.assert_allclose(fitted.cov, np.cov(a, rowvar=False), rtol=1e-12)


def test_features_that_are_not_numbers_have_no_statistics():
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        fit(np.ones((1, 3)))
    with pytest.raises(ValueError, match="NaN"):
        fit(np.full((3, 3), np.nan))
