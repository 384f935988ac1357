"""The samples of a sweep: a folder for each length of the chain and each scale, drawn once."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ddpm_jax.generation import output_folder
from ddpm_jax.generation.run import Plan
from ddpm_jax.generation.sample_batch import SampleBatch, Scales, save_arrays
from ddpm_jax.visualization.grids import MAX_COLUMNS
from ddpm_jax.visualization.images import save_png


def folders_of(plan: Plan, out: Path) -> dict[Scales, Path]:
    """The folders of the samples of one length, by their scales."""
    steps = plan.models[0].config.sample.steps
    return {
        scales: out / f"steps_{steps}_guidance_{scales.guidance:g}_cfg_{scales.cfg:g}"
        for scales in plan.guidance.scales
    }


def draw_missing(plan: Plan, out: Path) -> None:
    """Draws the samples of this length that `out` lacks, and a picture of all of them."""
    folders, (model,), (labels,) = folders_of(plan, out), plan.models, plan.labels
    missing = [scales for scales, at in folders.items() if not (at / "samples.npz").exists()]
    if missing:
        model = model._replace(guidance=plan.guidance._replace(scales=missing))
        drawn = replace(plan, models=[model]).generate(out / output_folder.UNFINISHED, 0)
        for i, scales in enumerate(missing):
            row = drawn.images[i * len(labels) : (i + 1) * len(labels)]
            save_arrays(SampleBatch(row, labels, [scales]), folders[scales])
        output_folder.drop_unfinished(out)
    first = [read_samples(folder)[:MAX_COLUMNS] for folder in folders.values()]
    shown = np.tile(labels[:MAX_COLUMNS], len(first))
    grid = SampleBatch(np.concatenate(first), shown, list(folders)).picture()
    save_png(grid, out / f"steps_{model.config.sample.steps}.png")


def read_samples(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as files:
        return files["arr_0"]
