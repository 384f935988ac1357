"""FID, Inception Score, KID, precision and recall are those of the published evaluators."""

import re

import numpy as np
import pytest

from ddpm_jax.evaluation import inception_score, kernel_distance
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.precision_recall import neighbour_radii, share_among
from ddpm_jax.evaluation.statistics import Statistics, fit
from tests.parity.golden import GoldenFile, load

FID, SCORE, KID, PRC, ADM = (
    f"{name}.npz"
    for name in (
        "eval_metrics_fid",
        "eval_metrics_is",
        "eval_metrics_kid",
        "eval_metrics_prc",
        "evaluator",
    )
)


def cases(filename: str, pattern: str) -> list[str]:
    """The names in a file's inputs that match a pattern."""
    names = (key.split("/")[1] for key in load(filename).keys("in/"))
    return sorted({name for name in names if re.fullmatch(pattern, name)})


def own_rtol(file: GoldenFile, key: str, least: float) -> float:
    """20 times how far the implementation itself is from the exact value."""
    entry = file.tolerance(key)
    return max(20 * entry["group_rel"], least) if entry else least


@pytest.mark.parametrize("case", load(FID).meta["cases"])
def test_the_frechet_distance_is_that_of_every_implementation(golden, case):
    file = golden(FID)
    of = file.meta["cases"][case]
    x1, x2 = (file.array(f"in/{case}/{name}") for name in ("x1", "x2"))
    assert (*x1.shape, *x2.shape) == (of["n1"], of["dim"], of["n2"], of["dim"])
    dead = {"none": (), "x1": (x1,), "both": (x1, x2)}[of["dead_columns"]]
    assert all((x.std(0) == 0).any() for x in dead)
    a, b = fit(x1), fit(x2)
    out = f"out/{case}"
    shift = a.mean - b.mean
    file.check(f"{out}/mean_term", shift @ shift, rtol=1e-10)
    file.check(f"{out}/trace1", np.trace(a.cov), rtol=1e-10)
    file.check(f"{out}/trace2", np.trace(b.cov), rtol=1e-10)
    file.check(f"{out}/mu1", a.mean, rtol=1e-10)
    file.check(f"{out}/mu1_float32", a.mean, rtol=1e-5)
    file.check(f"{out}/sigma1_diag", np.diag(a.cov), rtol=1e-10)
    if f"{out}/sigma1_row0" in file.keys(out):
        row = a.cov[0]
        file.check(f"{out}/sigma1_row0", row, floor=np.full_like(row, 1e-13 * abs(a.cov).max()))
    found = frechet_distance(a, b)
    file.check(f"{out}/exact", found, rtol=1e-6)
    for name in file.meta["implementations"]:
        key = f"{out}/{name}"
        file.check(key, found, rtol=own_rtol(file, key, 1e-6))
    # Of rounding alone, relative to the traces.
    scale = file.tolerance(f"{out}/self")["scale"]
    floor = max(file.tolerance(f"{out}/self")["group_rel"], 1e-7 / 20) * scale
    file.check(f"{out}/self", frechet_distance(a, a), floor=np.array(floor))


@pytest.mark.parametrize("case", load(FID).meta["stats_cases"])
def test_given_statistics_are_handled_as_the_evaluators_do(golden, case):
    file = golden(FID)
    given = {name: file.array(f"in/stats_{case}/{name}") for name in ("mu1", "sigma1")}
    given |= {name: file.array(f"in/stats_{case}/{name}") for name in ("mu2", "sigma2")}
    try:
        found = frechet_distance(
            Statistics(given["mu1"], given["sigma1"]), Statistics(given["mu2"], given["sigma2"])
        )
    except ValueError as error:
        assert "negative eigenvalues" in str(error)
        found = np.nan  # what the file holds where the evaluators raise
    for name, path in file.meta["stats_paths"][case].items():
        assert bool(path["error"]) == bool(np.isnan(found))
        file.check(f"out/stats_{case}/{name}", found, rtol=1e-6)


@pytest.mark.parametrize("case", cases(ADM, r"fid_\w+"))
def test_the_frechet_distance_is_that_of_the_original_adm(golden, case):
    file = golden(ADM)
    a, b = (fit(file.array(f"in/{case}/act{i}")) for i in (1, 2))
    for i, statistics in ((1, a), (2, b)):
        # The original takes means in float32.
        file.check(f"out/{case}/mu{i}", statistics.mean, floor=np.full(a.mean.shape, 5e-8))
        file.check(f"out/{case}/sigma{i}_diag", np.diag(statistics.cov), rtol=1e-6)
    found = frechet_distance(a, b)
    file.check(f"out/{case}/fid", found, rtol=1e-6)
    file.check(f"out/{case}/fid_eig_check", found, rtol=1e-6)
    own = np.array(1e-8 * np.trace(a.cov))
    file.check(f"out/{case}/fid_self", frechet_distance(a, a), floor=own)


def bounds_of(name: str, num: int) -> list[int]:
    """The splits that a name such as "split64" or "splits10_shuffled" tells."""
    if found := re.search(r"splits(\d+)", name):
        count = int(found[1])
        return [i * num // count for i in range(count + 1)]
    found = re.search(r"split(\d+)", name)
    return inception_score.consecutive_splits(num, int(found[1])) if found else [0, num]


@pytest.mark.parametrize("key", load(SCORE).keys("out/"))
def test_the_inception_score_is_that_of_every_implementation(golden, key):
    file = golden(SCORE)
    of, name = key.split("/")[1:]
    logits = file.array("in/logits_nobias")
    if "with_bias" in name:
        logits = logits + file.array("in/bias")
    if "shuffled" in name:
        logits = logits[file.array("in/permutation_2020")]
    if "underflow" in name:
        logits = logits.copy()
        logits[0, :2] = 120, -60
    scores = inception_score.inception_scores(logits, bounds_of(name, len(logits)))
    found = np.array([scores.mean(), scores.std()])
    if "underflow" in name and of == "adm":
        assert np.isfinite(found).all()  # ours has a limit where float32 has 0 log 0
        found[:] = np.nan
    if of == "torch_fidelity":
        floor = np.array([1e-12, 1e-12]) * found[0]
        file.check(key, found, floor=floor / 20)
    elif of == "adm":
        file.check(key, found[0], rtol=own_rtol(file, key, 2e-6))
    else:
        file.check(key, found[0], rtol=1e-11)


@pytest.mark.parametrize("key", load(ADM).keys("out/is/"))
def test_the_inception_score_is_that_of_the_original_adm(golden, key):
    file = golden(ADM)
    logits = file.array("in/is/acts") @ file.array("in/is/softmax_W")
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, file.array("in/is/probs"), rtol=1e-4, atol=1e-7)
    scores = inception_score.inception_scores(logits, bounds_of(key, len(logits)))
    file.check(key, scores.mean(), rtol=2e-6)


def kernel_of(name: str):
    if found := re.fullmatch(r"rbf(\d+)", name):
        return lambda x, y: kernel_distance.rbf_kernel(x, y, float(found[1]))
    found = re.fullmatch(r"poly(\d)(?:_gamma([\d.]+)_coef([\d.]+))?", name)
    gamma, coef0 = (found[2] and float(found[2])), float(found[3] or 1)
    return lambda x, y: kernel_distance.polynomial_kernel(x, y, int(found[1]), gamma, coef0)


@pytest.mark.parametrize(
    "name",
    sorted({key.split("/")[1] for key in load(KID).keys("out/") if "poly" in key or "rbf" in key}),
)
def test_kernel_distances_are_those_of_torch_fidelity(golden, name, monkeypatch):
    file = golden(KID)
    x1, x2 = file.array("in/x1"), file.array("in/x2")
    num, size = file.meta["subsets"], file.meta["subset_size"]
    monkeypatch.setattr(kernel_distance, "SEED", file.meta["rng_seed"])
    found = kernel_distance.kernel_distances(x1, x2, num, size, kernel_of(name))
    given = zip(file.array("in/subset1"), file.array("in/subset2"), strict=True)
    subsets = [
        kernel_distance.squared_mmd(x1[i].astype(float), x2[j].astype(float), kernel_of(name))
        for i, j in given
    ]
    np.testing.assert_array_equal(found, subsets)  # the same rows, too
    file.check(f"out/{name}/per_subset", found, rtol=1e-8)
    both = np.array([found.mean(), found.std()])
    file.check(f"out/{name}/mean_std", both, rtol=1e-8)
    file.check(f"out/{name}/mean_std_float32", both, rtol=own_rtol(file, f"{name}/mean_std", 1e-8))


def test_kernel_distances_of_whole_sets_and_of_clean_fid(golden):
    file = golden(KID)
    x1, x2 = (file.array(f"in/{name}").astype(float) for name in ("x1", "x2"))
    subsets = zip(
        file.array("in/clean_fid_subset1"), file.array("in/clean_fid_subset2"), strict=True
    )
    found = np.mean([kernel_distance.squared_mmd(x1[i], x2[j]) for i, j in subsets])
    file.check("out/clean_fid/kernel_distance", found, rtol=1e-8)

    num = min(len(x1), len(x2))
    x, y = x1[:num], x2[:num]
    file.check("out/full_unbiased", kernel_distance.squared_mmd(x, y), rtol=1e-8)
    xx, yy, xy = (kernel_distance.polynomial_kernel(*pair) for pair in ((x, x), (y, y), (x, y)))
    file.check("out/full_biased", xx.mean() + yy.mean() - 2 * xy.mean(), rtol=1e-8)
    pairs = num * (num - 1)
    within = sum((k.sum() - np.trace(k)) / pairs for k in (xx, yy))
    across = 2 * (xy.sum() - np.trace(xy)) / pairs
    file.check("out/full_u-statistic", within - across, rtol=1e-8)


@pytest.mark.parametrize("case", cases(PRC, r"\w+"))
def test_precision_and_recall_are_those_of_torch_fidelity_and_near_to_adms(golden, case):
    file = golden(PRC)
    assert file.meta["decision_margin"][case] > 1e-7  # no distance is too close to call
    real, samples = (file.array(f"in/{case}/{name}") for name in ("ref", "sample"))
    for key in file.keys(f"out/{case}/"):
        if found := re.search(r"radii_(\w+)_k(\d)", key):
            x = {"ref": real, "sample": samples}[found[1]]
            rounding = 4 * np.finfo(np.float16).eps * (x**2).sum(1)  # theirs are float16
            file.check(key, neighbour_radii(x, int(found[2])), floor=rounding / 20)
            continue
        k = int(re.search(r"k(\d)$", key)[1])
        precision, recall = share_among(real, samples, k), share_among(samples, real, k)
        if "f_score" in key:
            file.check(key, 2 * precision * recall / (precision + recall), rtol=1e-7)
        elif "torch_fidelity" in key:
            file.check(key, np.array([precision, recall]), rtol=1e-7)  # stored as float32
        else:
            file.check(key, np.array([precision, recall]), floor=np.full(2, 0.03 / 20))


@pytest.mark.parametrize("case", cases(ADM, r"pr_\w+"))
def test_precision_recall_and_radii_are_those_of_the_original_adm(golden, case):
    file = golden(ADM)
    real, samples = (file.array(f"in/{case}/{name}") for name in ("ref", "sample"))
    of = file.meta["cases"][case]
    assert of["row_batch_size"] and of["col_batch_size"]  # blocks change nothing, here or there
    radii = {
        name: np.stack([neighbour_radii(x, k) for k in of["nhood_sizes"]], axis=1)
        for name, x in (("ref", real), ("sample", samples))
    }
    for name, found in radii.items():
        file.check(f"out/{case}/radii_{name}", found, rtol=1e-5)
    shares = {
        "precision": np.array([share_among(real, samples, k) for k in of["nhood_sizes"]]),
        "recall": np.array([share_among(samples, real, k) for k in of["nhood_sizes"]]),
    }
    for key in file.keys(f"out/{case}/"):
        if (name := key.split("/")[-1]) in shares:
            file.check(key, shares[name], floor=np.array(0.0015 if "tf16" in key else 0.0))
    if f"out/{case}/realism" in file.keys(f"out/{case}/"):
        squared = ((samples[:, None].astype(float) - real) ** 2).sum(-1)
        file.check(f"out/{case}/nearest", squared.argmin(1).astype(np.int32))
        realism = (radii["ref"][:, 0] / (squared + 1e-5)).max(1)
        file.check(f"out/{case}/realism", realism, rtol=1e-4)
