"""What evaluate.py measures: samples of runs, drawn here, or those in files."""

from collections.abc import Sequence
from pathlib import Path

from ddpm_jax.evaluation.images import of_array, read_images
from ddpm_jax.evaluation.sample_suite import Subject
from ddpm_jax.generation import GenerationOptions, Run, output_folder


def drawn_subjects(runs: Sequence[Run], options: GenerationOptions) -> list[Subject]:
    """Samples of each run, at each guidance scale.

    Batches that were drawn stay in the run's folder `evaluation/samples`, so that they are not
    drawn again. Raises UserError.
    """
    subjects = []
    for run in runs:
        workdir, folder = str(run.results), run.results / "evaluation"
        plan = run.plan(options)
        sampling = output_folder.describe(plan)
        batch = plan.generate(folder / "samples", progress_delay_seconds=0)
        num = len(batch) // len(batch.scales)
        for i, scales in enumerate(batch.scales):
            row = slice(i * num, (i + 1) * num)
            name = f"{workdir} {scales.title}" if len(batch.scales) > 1 else workdir
            images = of_array(name, batch.images[row])
            labels = batch.labels[row]
            known = labels if labels.min() >= 0 else labels[:0]
            scale = {f"{kind}_scale": value for kind, value in scales._asdict().items()}
            subjects.append(Subject(name, images, known, folder / "features", sampling | scale))
    return subjects


def read_subjects(paths: Sequence[str], out: Path | None) -> list[Subject]:
    """The samples in files or folders; features are kept in `out`, or beside the samples.

    Raises UserError.
    """
    subjects = []
    for path in paths:
        images, labels = read_images(path)
        place = Path(images.name)
        folder = out or (place if place.is_dir() else place.parent) / "evaluation"
        subjects.append(Subject(path, images, labels, folder / "features", {}))
    return subjects
