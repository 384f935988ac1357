"""Measures sets of samples against real images, and reports it: a table and metrics.json."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import FeatureExtractor, features_of
from ddpm_jax.evaluation.images import ImageSet
from ddpm_jax.evaluation.markdown import markdown_table
from ddpm_jax.evaluation.metrics import METRICS, Estimate, Reference, Samples, measure
from ddpm_jax.evaluation.reference import RealImages
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.history import versions
from ddpm_jax.runtime import signals
from ddpm_jax.runtime.files import replacing
from ddpm_jax.runtime.progress import progress

ENOUGH = 10_000  # images for a number that says something; papers have 50,000
FEW = ("fid", "sfid", "frechet")  # whose bias is large with few images


class Subject(NamedTuple):
    """Samples to measure: a row of the table."""

    name: str
    images: ImageSet
    labels: np.ndarray  # int [N], the classes asked for; empty if not known
    folder: Path  # where its features are kept
    sampling: Mapping[str, Any]  # how they were drawn; empty if that is not known


class Row(NamedTuple):
    """What was measured of a subject."""

    name: str
    num: int
    digest: str  # of the images
    estimates: dict[str, Estimate]
    sampling: Mapping[str, Any]


def needs_of(names: Collection[str]) -> set[str]:
    """What these metrics need, as in `Metric.needs`."""
    return {need for name in names for need in METRICS[name].needs}


def measure_subject(
    subject: Subject, known: Reference, extractor: FeatureExtractor, names: Sequence[str]
) -> Row:
    """Measures a set of samples; raises UserError if that makes no sense."""
    digest = subject.images.digest()
    folder = subject.folder / f"{digest}_{extractor.digest}"
    with progress(subject.images.num, 0, "image", f"features of {subject.name}", 3) as bar:
        features = features_of(
            subject.images, extractor, folder, signals.with_stop_check(bar.update)
        )
    samples = Samples(features, known, subject.labels)
    estimates = checked_measure(samples, names, subject.name)
    return Row(subject.name, subject.images.num, digest, estimates, subject.sampling)


def checked_measure(samples: Samples, names: Sequence[str], whose: str) -> dict[str, Estimate]:
    """Measures samples, called `whose`; raises UserError for metrics that they do not allow."""
    needs = needs_of(names)
    if "labels" in needs and not len(samples.labels):
        raise UserError(f"metrics=accuracy: it is not known which classes {whose} has")
    if "logits" in needs and not samples.features.logits.size:
        raise UserError(f"metrics={','.join(names)}: these features have no scores of classes")
    try:
        return measure(samples, names)
    except ValueError as error:
        raise UserError(f"{whose}: {error}") from error


def warnings_of(rows: Sequence[Row], size: int) -> list[str]:
    """A line for each row with too few images for features of `size` numbers."""
    return [
        f"{row.name}: {', '.join(few)} of {row.num:,} images mean little, for there are {size:,} "
        f"features: measure {max(ENOUGH, size):,} or more, and 50,000 to compare with papers"
        for row in rows
        if (few := [name for name in row.estimates if name in FEW]) and row.num < size
    ]


def describe(
    real: RealImages | None, extractor: FeatureExtractor, rows: Sequence[Row]
) -> dict[str, Any]:
    """All that the numbers are of, and the numbers, as JSON has it."""
    return {
        "features": extractor.name,
        "features_digest": extractor.digest,
        "reference": real and real.name,
        "reference_images": real.images.num if real and real.images else None,
        "reference_statistics": "stored in the file" if real and real.stored else "of these images",
        "rows": [
            {
                "name": row.name,
                "images": row.num,
                "images_digest": row.digest,
                "sampling": dict(row.sampling),
                **{name: _number(estimate) for name, estimate in row.estimates.items()},
            }
            for row in rows
        ],
        "versions": versions(),
    }


def write(out: Path, results: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Writes metrics.json and metrics.md."""
    with replacing(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n")
    with replacing(out / "metrics.md") as temporary:
        temporary.write_text(f"{heading(results)}\n\n{table(rows)}\n")


def heading(results: Mapping[str, Any]) -> str:
    """What a table is of, in a line."""
    against = f", against {results['reference']}" if results["reference"] else ""
    return f"by features of {results['features']}{against}"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table with a row for each set of samples."""
    names = list(rows[0].estimates)
    lines = [
        [row.name, f"{row.num:,}", *(_shown(row.estimates[name]) for name in names)] for row in rows
    ]
    return markdown_table(["samples", "images", *names], lines)


def settings_digest(results: Mapping[str, Any]) -> str:
    """Of what the numbers are of, without the numbers themselves."""
    rows = [(row["name"], row["images_digest"]) for row in results["rows"]]
    given = [results["features_digest"], results["reference"], rows]
    return sha256(sha256([json.dumps(given)]))[:8]


def _number(estimate: Estimate) -> dict[str, float | None]:
    return {
        name: None if math.isnan(value) else value for name, value in estimate._asdict().items()
    }


def _shown(estimate: Estimate) -> str:
    error = estimate.standard_error
    return f"{estimate.value:.4g}" + ("" if math.isnan(error) else f" ± {error:.2g}")
