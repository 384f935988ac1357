"""Metrics of samples: one table, from which columns and pictures follow."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import sweep_report
from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.metrics import METRICS, Estimate, Metric, Reference, Samples, measure
from ddpm_jax.evaluation.run_metrics import RUN_METRICS, check_features, choose_metrics
from ddpm_jax.evaluation.statistics import fit
from ddpm_jax.evaluation.sweep_report import SWEEP_METRICS

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((60, 3)).astype(np.float32)
LABELS = np.arange(40) % 4


def found_of(classes: np.ndarray, pool: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of a sweep, of samples with these classes and features."""
    logits, nothing = np.eye(10, dtype=np.float32)[classes], np.empty((len(pool), 0))
    real = Reference(fit(REAL), features=REAL)
    found = measure(Samples(Features(pool, logits, nothing), real, labels), SWEEP_METRICS)
    assert all(estimate.standard_error >= 0 for estimate in found.values())
    return {name: estimate.value for name, estimate in found.items()}


def test_real_features_in_the_place_of_samples_are_perfect():
    found = found_of(np.arange(60) % 4, REAL, np.arange(60) % 4)
    # The pairs of an image with itself count across the sets alone: below 0 for the same images.
    assert -0.5 < found.pop("kernel") < 0
    assert found == pytest.approx(
        {"accuracy": 1, "precision": 1, "recall": 1, "frechet": 0}, abs=1e-5
    )


def test_each_metric_falls_for_its_own_reason():
    classes = np.where(np.arange(40) < 10, 9, LABELS)
    assert found_of(classes, REAL[:40], LABELS)["accuracy"] == 0.75
    far = REAL[:40].copy()
    far[:20] += 100
    found = found_of(LABELS, far, LABELS)
    assert found["precision"] == 0.5 and found["frechet"] > 100 and found["kernel"] > 100
    alike = np.repeat(REAL[:1], 40, axis=0)
    found = found_of(LABELS, alike, LABELS)
    assert found["precision"] == 1 and found["recall"] < 0.1


def test_another_metric_is_a_function_and_a_row(tmp_path, monkeypatch):
    """Its column and its panel follow."""
    before = write_sweep(tmp_path, found_of(LABELS, REAL[:40], LABELS))
    metric = Metric(lambda samples: Estimate(float(samples.features.pool.mean()), 0.1), "mean")
    monkeypatch.setitem(METRICS, "mean", metric)
    monkeypatch.setattr(sweep_report, "SWEEP_METRICS", [*SWEEP_METRICS, "mean"])
    found = found_of(LABELS, REAL[:40], LABELS)
    found |= {
        "mean": measure(Samples(Features(REAL, REAL, REAL), Reference()), ["mean"])["mean"].value
    }
    assert write_sweep(tmp_path, found) > before
    header, _, row, real = (tmp_path / "sweep.md").read_text().splitlines()[2:]
    assert header.endswith("| kernel | mean |")
    assert row.endswith(f"| {found['mean']:.3g} |") and real.endswith(f"| {found['mean']:.3g} |")


def write_sweep(out, metrics) -> int:
    """The width of the picture of a sweep of one row."""
    row = {"steps": "4", "guidance": 1.0, "cfg": 1.0} | metrics
    sweep_report.write([row], metrics, 40, out)
    with Image.open(out / "sweep.png") as picture:
        return picture.width


def test_metrics_are_chosen_by_name():
    assert choose_metrics("bpd, fid,bpd") == ([RUN_METRICS["bpd"]], ["fid"])
    with pytest.raises(UserError, match=r"metrics=fdi: fdi is no metric; did you mean fid\?"):
        choose_metrics("fdi")
    with pytest.raises(UserError, match="metrics=bpd,: nothing is no metric; there are: bpd, fid"):
        choose_metrics("bpd,")


def test_a_distance_of_other_features_is_never_called_fid():
    check_features(["fid", "precision"], inception=True)
    check_features(["frechet", "precision"], inception=False)
    with pytest.raises(
        UserError, match=r"metrics=fid takes features of Inception; .* ask for frec"
    ):
        check_features(["fid"], inception=False)
    with pytest.raises(
        UserError, match=r"metrics=kernel takes features of a classifier .* for kid"
    ):
        check_features(["kernel"], inception=True)
