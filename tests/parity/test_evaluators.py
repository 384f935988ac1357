"""From images to FID, sFID, Inception Score, KID, precision and recall, as the evaluators do."""

from functools import cache

import numpy as np
import pytest

from ddpm_jax.config import ParallelConfig
from ddpm_jax.evaluation import kernel_distance, precision_recall
from ddpm_jax.evaluation.features import Features, inception_on
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.inception_score import consecutive_splits, inception_scores
from ddpm_jax.evaluation.statistics import fit
from ddpm_jax.runtime.devices import make_mesh
from tests.parity.golden import load
from tests.parity.test_inception import PROTOCOL, params
from tests.slow import slow_but

FILE = "eval_e2e.npz"
SETS = ("ref", "sample")


@cache
def features(convention: str) -> dict[str, Features]:
    """Of the real images and of the samples, by our own extractor."""
    file, mesh = load(FILE), make_mesh(ParallelConfig(data=1), 64)
    real, samples = (file.array(f"in/{name}") for name in SETS)
    size = len(real) + len(samples)
    extract = inception_on(mesh, params(), PROTOCOL[convention], size)
    found = extract(np.concatenate([real, samples]))
    return {
        "ref": Features(*(of[: len(real)] for of in found)),
        "sample": Features(*(of[len(real) :] for of in found)),
    }


def fid(convention: str, kind: str = "pool") -> float:
    real, samples = (fit(getattr(features(convention)[name], kind)) for name in SETS)
    return frechet_distance(samples, real)


# Of each, on every run: the network's features, in test_inception.py.
@pytest.mark.parametrize("convention", slow_but(["tf1"], PROTOCOL))
def test_fid_is_that_of_the_evaluators_of_each_protocol(golden, convention):
    file = golden(FILE)
    found = fid(convention)
    file.check(f"out/exact_fid/{convention}", found, rtol=2e-5)
    theirs = {"tf1": ("adm", "torch_fidelity"), "pfid": ("pytorch_fid",), "clean": ("clean_fid",)}
    for name in theirs[convention]:
        key = f"out/{name}/fid"  # how far the root of a matrix is from exact, and float32
        file.check(key, found, rtol=20 * file.tolerance(key)["group_rel"] + 2e-5)


def test_sfid_and_mean_features_are_those_of_adm(golden):
    file = golden(FILE)
    found = fid("tf1", "spatial")
    file.check("out/exact_fid/sfid", found, rtol=2e-5)
    rtol = 20 * file.tolerance("out/adm/sfid")["group_rel"] + 2e-5
    file.check("out/adm/sfid", found, rtol=rtol)
    for key in file.keys("out/features/"):
        kind, name, _ = key.rpartition("/")[2].split("_")
        mean = getattr(features("tf1")[name], kind).mean(0)
        file.check(key, mean, floor=np.full(mean.shape, 1e-6 * np.abs(mean).max()))


def test_the_inception_score_is_that_of_adm_and_torch_fidelity(golden):
    file = golden(FILE)
    logits = features("tf1")["sample"].logits
    for key in file.keys("out/adm/inception_score"):
        size = int(key.rpartition("split")[2]) if "split" in key else 5000
        scores = inception_scores(logits, consecutive_splits(len(logits), size))
        file.check(key, scores.mean(), rtol=1e-5)
    [key] = file.keys("out/torch_fidelity/isc_splits")
    count, num = int(key.rpartition("splits")[2]), len(logits)
    shuffled = logits[np.random.RandomState(2020).permutation(num)]
    scores = inception_scores(shuffled, [i * num // count for i in range(count + 1)])
    both = np.array([scores.mean(), scores.std()])
    file.check(key, both, floor=np.full(2, 1e-5 * scores.mean() / 20))


def test_kid_precision_and_recall_are_theirs(golden):
    file = golden(FILE)
    real, samples = (features("tf1")[name].pool for name in SETS)
    [key] = file.keys("out/torch_fidelity/kid_")
    num, size = map(int, key.rpartition("_")[2].split("x"))
    found = kernel_distance.kernel_distances(samples, real, num, size)
    # Theirs are differences of sums of float32 kernels.
    rounding = 1e-6 * kernel_distance.polynomial_kernel(samples, real).max()
    file.check(key, np.array([found.mean(), found.std()]), floor=np.full(2, rounding / 20))

    assert file.meta["decision_margin"] > 1e-5  # far above the error of the features
    precision = precision_recall.share_among(real, samples)
    recall = precision_recall.share_among(samples, real)
    file.check("out/exact_prc", np.array([precision, recall]), rtol=1e-7)
    f = 2 * precision * recall / (precision + recall)
    file.check("out/torch_fidelity/prc", np.array([precision, recall, f]), rtol=1e-7)
    # ADM's distances are float16, steps of 2 where squared norms are some 2,600 as here: two of
    # the 48 samples and one of the 40 real images fall on the other side.
    file.check("out/adm/precision_recall", np.array([precision, recall]), floor=np.full(2, 0.0025))
