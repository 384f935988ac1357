"""Whole runs of the two bundled data sets, judged by measures that know nothing of the model.

Minutes long: `pytest -m slow`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits, make_s_curve
from sklearn.svm import SVC

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def sample(workdir: Path, *options: str) -> dict[str, np.ndarray]:
    out = tempfile.mkdtemp(dir=workdir)
    command = [sys.executable, "sample.py", "--workdir", str(workdir), "--out", out, *options]
    subprocess.run(command, check=True, cwd=ROOT)
    with np.load(Path(out) / "samples.npz") as files:
        return dict(files)


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|A - B| - E|A - A'| - E|B - B'|, without bias: 0 on average for the same distribution."""
    within = sum(cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (a, b))
    return 2 * cdist(a, b).mean() - within


def test_points_are_as_near_to_the_s_curve_as_real_ones(tmp_path):
    command = ["train.py", "--config", "configs/s_curve.py", "--workdir", str(tmp_path)]
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)
    samples = sample(tmp_path, "--num", "2000")["arr_0"]
    real = make_s_curve(10_000, noise=0.1, random_state=0)[0][:, [0, 2]] / 10
    rng = np.random.default_rng(0)

    def halves() -> tuple[np.ndarray, np.ndarray]:
        order = rng.permutation(len(real))
        return real[order[:2000]], real[order[2000:4000]]

    floor = [energy_distance(*halves()) for _ in range(50)]
    distance = np.mean([energy_distance(samples, halves()[0]) for _ in range(10)])
    gaussian = rng.multivariate_normal(real.mean(0), np.cov(real.T), 2000)
    worst = energy_distance(gaussian, real[:2000])
    print(f"samples {distance:.1e}, real halves at most {max(floor):.1e}, Gaussian {worst:.1e}")
    assert distance < 2 * max(floor) < worst / 4


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between Gaussians fitted to two sets of vectors."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0))
    shift = a.mean(0) - b.mean(0)
    return float(shift @ shift + np.trace(cov_a + cov_b) - 2 * roots.sum())


def coverage(points: np.ndarray, support: np.ndarray) -> float:
    """Share of points within the k-nearest-neighbour manifold of support (k = 3)."""
    among = cdist(support, support)
    radius = np.partition(among, 3, axis=1)[:, 3]  # the nearest is the point itself
    return (cdist(points, support) <= radius).any(1).mean()


def judge(samples: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures of 1,000 digits [N, 64] in [0, 1] against scikit-learn's 1,797."""
    digits = load_digits()
    real = digits.data / 16
    svm = SVC(C=10, gamma=0.3).fit(real, digits.target)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(real)) for _ in range(5)]
    # What 898 fresh digits score against the other 899, scaled to the sizes compared here.
    scale = (1 / len(samples) + 1 / 1797) / (1 / 898 + 1 / 899)
    floor = scale * np.mean([frechet(real[order[:898]], real[order[898:]]) for order in orders])
    some = real[orders[0][: len(samples)]]
    among = cdist(real, real) + np.diag(np.full(len(real), np.inf))
    return {
        "accuracy": (svm.predict(samples) == labels).mean(),
        "frechet_ratio": frechet(samples, real) / floor,
        "precision": coverage(samples, some),
        "recall": coverage(some, samples),
        "memorised": (cdist(samples, real).min(1) < np.percentile(among.min(1), 1)).mean(),
    }


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    subprocess.run([sys.executable, "train.py", "--workdir", str(workdir)], check=True, cwd=ROOT)
    return workdir


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", "50"), ("ddpm", "1000")])
def test_digits_have_their_class_and_the_spread_of_real_ones(digits_run, sampler, steps):
    files = sample(digits_run, "--num", "1000", "--sampler", sampler, "--steps", steps)
    found = judge(files["arr_0"].reshape(-1, 64) / 255, files["arr_1"])
    print(found)
    assert found["accuracy"] >= 0.93 and found["frechet_ratio"] <= 2
    assert found["precision"] >= 0.75 and found["recall"] >= 0.75 and found["memorised"] <= 0.05


@pytest.fixture(scope="module")
def guided_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model that knows no labels, and the classifier that guides it."""
    place = tmp_path_factory.mktemp("runs")
    runs = place / "digits_unconditional", place / "digits_classifier"
    for run in runs:
        command = ["train.py", "--config", f"configs/{run.name}.py", "--workdir", str(run)]
        subprocess.run([sys.executable, *command], check=True, cwd=ROOT)
    return runs


@pytest.mark.parametrize(
    "chain",
    ["--sampler ddpm --steps 250", "--sampler ddim --steps 50 --guidance-interval 0,0.9"],
    ids=["ddpm", "ddim"],
)
def test_guided_digits_are_those_asked_for(guided_runs, chain):
    """50 a class at scales 0 and 4: an SVM of real digits sees the digit in 10 % and in 95 %."""
    model, classifier = guided_runs
    options = ["--classifier", str(classifier), "--guidance-scale", "0,4", "--num", "500"]
    files = sample(model, *options, *chain.split())
    digits = load_digits()
    svm = SVC(C=10, gamma=0.3).fit(digits.data / 16, digits.target)
    seen = svm.predict(files["arr_0"].reshape(-1, 64) / 255) == files["arr_1"]
    unguided, guided = seen.reshape(2, 500).mean(axis=1)
    print(unguided, guided)
    assert 0.06 < unguided < 0.14 and guided >= 0.95  # three standard errors about a tenth
