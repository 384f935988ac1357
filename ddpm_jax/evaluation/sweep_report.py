"""A guidance sweep as files: sweep.json, the table sweep.md and the picture sweep.png.

Their metrics are those of `metrics.METRICS` that features of a classifier have.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.evaluation.markdown import markdown_table
from ddpm_jax.evaluation.metrics import METRICS
from ddpm_jax.generation.sample_batch import Scales
from ddpm_jax.runtime.files import replacing
from ddpm_jax.visualization.plots import save_sweep

SampleMetrics = dict[str, float]  # by the names in SWEEP_METRICS
Row = dict[str, Any]  # of the table: its `steps`, its scales and its metrics

SWEEP_METRICS = [name for name, metric in METRICS.items() if not metric.inception]


def write(rows: Sequence[Row], real: SampleMetrics, num: int, out: Path) -> None:
    """Writes the files of a guidance sweep. `real` has the metrics of real images."""
    write_tables(rows, real, ["steps", *Scales._fields], num, out)
    titles = {name: METRICS[name].title for name in SWEEP_METRICS}
    save_sweep(points(rows), real, titles, out / "sweep.png")


def write_tables(
    rows: Sequence[Row], real: SampleMetrics, settings: Sequence[str], num: int, out: Path
) -> None:
    """Writes sweep.json and sweep.md, whose first columns are these settings of each row."""
    with replacing(out / "sweep.json") as temporary:
        temporary.write_text(json.dumps({"rows": rows, "real": real}, indent=2) + "\n")
    with replacing(out / "sweep.md") as temporary:
        temporary.write_text(f"{num} samples in each row\n\n{table(rows, real, settings)}\n")


def table(rows: Sequence[Row], real: SampleMetrics, settings: Sequence[str]) -> str:
    """A Markdown table of settings and metrics, whose last row is that of real images."""
    columns = [*settings, *real]
    lines = [[_shown(row[name]) for name in columns] for row in rows]
    lines += [["real images", *[""] * (len(settings) - 1), *map(_shown, real.values())]]
    return markdown_table(columns, lines)


def points(rows: Sequence[Row]) -> list[Row]:
    """Adds to each row its guidance scale as `x`, and its `line`, the name of its curve.

    The scale is the first kind of guidance that varies. The others and the steps name the line.
    """
    varying = [name for name in Scales._fields if len({row[name] for row in rows}) > 1]
    scale, *others = varying or ["guidance"]
    return [
        row
        | {
            "x": row[scale],
            "line": " ".join([f"{row['steps']} steps", *(f"{k} {row[k]:g}" for k in others)]),
        }
        for row in rows
    ]


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
