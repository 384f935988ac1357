"""What a run does every N steps besides logging and saving: one evaluator each.

An evaluator is a row of a table: its interval, what it does, and when a resumed run must do it
again. One more takes a function here that builds it and an entry in the list in commands/train.py.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, EvaluateConfig
from ddpm_jax.config.option_names import naming_options
from ddpm_jax.data import Source, first_images, shrink
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import choose_extractor, features_of
from ddpm_jax.evaluation.images import of_array, of_source
from ddpm_jax.evaluation.metrics import Reference, Samples
from ddpm_jax.evaluation.reference import RealImages, know
from ddpm_jax.evaluation.run_metrics import check_features, choose_metrics
from ddpm_jax.evaluation.sample_suite import checked_measure, needs_of
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.labels import choose_labels
from ddpm_jax.models import Network
from ddpm_jax.runs.metrics_log import read_records
from ddpm_jax.runtime import processes, signals
from ddpm_jax.runtime.progress import progress
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.validation import make_validator

PICTURE_BAR_SECONDS = 10  # a picture that takes longer shows its progress

# Entries for the log by their names: numbers, and pictures, uint8 [H, W, C].
Results = Mapping[str, float | np.ndarray]


class Evaluator(NamedTuple):
    """Something to do on every `every_steps`-th step and on the last one; never if that is 0.

    Attributes:
      every_steps: the interval.
      evaluate: `evaluate(step, state)`, which returns the results for the log.
      before_save: True if it runs before the checkpoint of its step is saved, because its results
        decide which checkpoint is kept. Others run after the save, so that a kill while they run
        costs no step.
      missing: the resume rule: `missing(step)` is True if there are no results of `step`, so that a
        run that resumes there must evaluate it again.
    """

    every_steps: int
    evaluate: Callable[[int, TrainState], Results]
    before_save: bool = False
    missing: Callable[[int], bool] = lambda step: False


OFF = Evaluator(0, lambda step, state: {})


def due(step: int, every: int, steps: int) -> bool:
    """True on every `every`-th step and on the last one, `steps`; never if `every` is 0."""
    return every > 0 and step > 0 and (step % every == 0 or step == steps)


def validation_evaluator(
    config: Config, diffusion: Diffusion, network: Network, mesh: Mesh, held_out: Source | None
) -> Evaluator:
    """The loss of the averaged weights on held-out examples, by which early stopping decides."""
    if not held_out:
        return OFF
    validate = make_validator(config, diffusion, network, mesh, held_out)
    return Evaluator(
        config.train.validate_every_steps,
        lambda step, state: validate(state.ema),
        before_save=True,
    )


def picture_evaluator(
    config: Config, network: Network, mesh: Mesh, source: Source, folder: Path
) -> Evaluator:
    """A grid of samples from the averaged weights, `folder`/step_00000500.png.

    A resumed run draws the picture of its step again if the file is not there. A classifier has no
    samples to show. Raises UserError for sampling steps that the chain does not allow.
    """
    if config.model.kind == "classifier":
        return OFF
    generator = Generator(config, network, mesh)

    def path(step: int) -> Path:
        return folder / f"step_{step:08d}.png"

    def evaluate(step: int, state: TrainState) -> Results:
        labels, low_res = picture_inputs(config, source)
        with progress(len(labels), 0, "sample", "samples", PICTURE_BAR_SECONDS) as bar:
            update = signals.with_stop_check(bar.update)
            batch = generator.generate(state.ema, 0, labels, update, low_res)
        if not processes.is_main_process():
            return {}
        return {"samples": replace(batch, reference=source.points).save_grid(path(step))}

    def missing(step: int) -> bool:
        return not processes.on_main_process(path(step).exists)

    return Evaluator(config.train.sample_every_steps, evaluate, missing=missing)


def metrics_evaluator(
    config: Config, network: Network, mesh: Mesh, source: Source, workdir: Path
) -> Evaluator:
    """Metrics of samples from the averaged weights, against the training set; the best is kept.

    Samples of an evaluation that was stopped are not drawn again. Raises UserError for metrics that
    there are not, and for features that cannot be had.
    """
    settings = config.evaluate
    if not settings.every_steps:
        return OFF
    with naming_options(EvaluateConfig, prefix="--evaluate."):
        of_runs, names = choose_metrics(settings.metrics)
        if of_runs or config.model.kind != "unet" or config.data.low_res_size:
            raise UserError(
                f"metrics={settings.metrics}: training measures samples of models of images alone"
            )
        extractor = choose_extractor(settings.features, settings.protocol, None, mesh)
        check_features(names, extractor.is_inception)
    generator = Generator(config, network, mesh)
    folder = workdir / "evaluation" / "training"

    real = RealImages(config.data.name, of_source(source, config.data))

    @cache
    def known() -> Reference:
        return know(real, extractor, needs_of(names))

    def evaluate(step: int, state: TrainState) -> Results:
        labels = choose_labels("", settings.num, config.model.num_classes, seed=0)
        with progress(settings.num, 0, "sample", f"step {step}", PICTURE_BAR_SECONDS) as bar:
            update = signals.with_stop_check(bar.update)
            batch = generator.generate(state.ema, 0, labels, update, partial_results=folder)
        images = of_array(f"step {step}", batch.images)
        with progress(settings.num, 0, "image", "features", PICTURE_BAR_SECONDS) as bar:
            update = signals.with_stop_check(bar.update)
            features = features_of(images, extractor, on_progress=update)
        samples = Samples(features, known(), labels if config.model.num_classes else labels[:0])
        with naming_options(EvaluateConfig, prefix="--evaluate."):
            found = checked_measure(samples, names, f"step {step}")
        processes.on_main_process(partial(shutil.rmtree, folder, ignore_errors=True))
        errors = {f"{name}_standard_error": each.standard_error for name, each in found.items()}
        return {name: each.value for name, each in found.items()} | errors

    def missing(step: int) -> bool:
        records = processes.on_main_process(lambda: read_records(workdir / "metrics.jsonl"))
        return not any(record.get("step") == step and names[0] in record for record in records)

    return Evaluator(settings.every_steps, evaluate, before_save=True, missing=missing)


def picture_inputs(config: Config, source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels of the samples in a picture, and the images that a super-resolution model enlarges.

    These images, uint8 [N, h, w, C], are the first ones of the training set, made smaller by
    averaging squares of pixels; None for other models.
    """
    classes, num = config.model.num_classes, config.sample.num
    if not config.data.low_res_size:
        return choose_labels("", num, classes, seed=0), None
    images, labels = first_images(source, config.data, num)
    low_res = shrink(images, config.data.low_res_size)
    return labels if classes else np.full_like(labels, -1), low_res
