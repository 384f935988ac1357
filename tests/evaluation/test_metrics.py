"""Metrics of samples: one table, from which columns and pictures follow."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import sweep_report
from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.metrics import METRICS, Metric, measure
from ddpm_jax.evaluation.run_metrics import RUN_METRICS, choose_metrics

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((60, 3)).astype(np.float32)
LABELS = np.arange(40) % 4


def test_real_features_in_the_place_of_samples_are_perfect():
    found = measure(Features(np.arange(60) % 4, REAL), np.arange(60) % 4, REAL)
    assert found == pytest.approx(
        {"accuracy": 1, "precision": 1, "recall": 1, "frechet": 0}, abs=1e-5
    )


def test_each_metric_falls_for_its_own_reason():
    samples = Features(np.where(np.arange(40) < 10, 9, LABELS), REAL[:40])
    assert measure(samples, LABELS, REAL)["accuracy"] == 0.75
    far = REAL[:40].copy()
    far[:20] += 100
    found = measure(Features(LABELS, far), LABELS, REAL)
    assert found["precision"] == 0.5 and found["frechet"] > 100
    alike = np.repeat(REAL[:1], 40, axis=0)
    found = measure(Features(LABELS, alike), LABELS, REAL)
    assert found["precision"] == 1 and found["recall"] < 0.1


def test_another_metric_is_a_function_and_a_row(tmp_path, monkeypatch):
    """Its column and its panel follow."""
    samples = Features(LABELS, REAL[:40])
    before = write_sweep(tmp_path, measure(samples, LABELS, REAL))
    metric = Metric(lambda samples: float(samples.features.features.mean()), "mean feature")
    monkeypatch.setitem(METRICS, "mean", metric)
    found = measure(samples, LABELS, REAL)
    assert found["mean"] == pytest.approx(REAL[:40].mean())
    assert write_sweep(tmp_path, found) > before
    header, _, row, real = (tmp_path / "sweep.md").read_text().splitlines()[2:]
    assert header.endswith("| frechet | mean |")
    assert row.endswith(f"| {found['mean']:.3g} |") and real.endswith(f"| {found['mean']:.3g} |")


def write_sweep(out, metrics) -> int:
    """The width of the picture of a sweep of one row."""
    row = {"steps": "4", "guidance": 1.0, "cfg": 1.0} | metrics
    sweep_report.write([row], metrics, 40, out)
    with Image.open(out / "sweep.png") as picture:
        return picture.width


def test_metrics_of_runs_are_chosen_by_name():
    assert choose_metrics("bpd, bpd") == [RUN_METRICS["bpd"]]
    with pytest.raises(UserError, match=r"metrics=bdp: bdp is no metric; did you mean bpd\?"):
        choose_metrics("bdp")
    with pytest.raises(UserError, match="metrics=bpd,: nothing is no metric; there are: bpd"):
        choose_metrics("bpd,")
