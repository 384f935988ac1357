"""What guides samples, read and checked: scales, an interval, a classifier's run."""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.config import Config, build_diffusion, check, serialization
from ddpm_jax.errors import UserError
from ddpm_jax.generation.options import GenerationOptions, Numbers, as_floats, as_text
from ddpm_jax.generation.sample_batch import UNGUIDED, Scales
from ddpm_jax.runtime.files import expanded


class GuidanceOptions(NamedTuple):
    """A row of samples for each scale; when they are guided; the classifier's run, if any."""

    scales: list[Scales]
    interval: tuple[float, float] = (0.0, 1.0)  # of t / T
    folder: Path | None = None  # the classifier's run
    config: Config | None = None  # of that run


def no_guidance(rows: int = 1) -> GuidanceOptions:
    """Draws that many rows, and guides none."""
    return GuidanceOptions([UNGUIDED] * rows)


def read_guidance_options(
    workdir: Path, config: Config, options: GenerationOptions
) -> GuidanceOptions:
    """What guides the run in `workdir`, as the options ask for it.

    Of two lists of scales each pair makes a row. A classifier's scale is 1 if none is given. Raises
    UserError, also for a classifier that does not fit.
    """
    guidance_scale, cfg_scale = options.guidance_scale, options.cfg_scale
    interval = as_text(options.guidance_interval)
    if guidance_scale is not None and options.classifier is None:
        raise UserError(
            f"guidance_scale={as_text(guidance_scale)}: there is no classifier to guide; give "
            "classifier=DIR, the run of one, or cfg_scale=S"
        )
    if interval and options.classifier is None and cfg_scale is None:
        raise UserError(
            f"guidance_interval={interval}: nothing guides; give classifier=DIR or cfg_scale=S"
        )
    if cfg_scale is not None:
        _check_label_dropout(as_text(cfg_scale), workdir, config)
    folder, classifier = options.classifier, None
    if folder is not None:
        folder = expanded(folder)
        classifier = read_classifier(f"classifier={folder}", folder, workdir, config)
    guidance = _scales("guidance_scale", guidance_scale, 0.0 if classifier is None else 1.0)
    cfg = _scales("cfg_scale", cfg_scale, 1.0)
    scales = [Scales(*pair) for pair in itertools.product(guidance, cfg)]
    return GuidanceOptions(scales, _interval(options.guidance_interval), folder, classifier)


def read_classifier(
    option: str, folder: Path, workdir: Path, config: Config, guides: bool = True
) -> Config:
    """The settings of a classifier's run; raises UserError unless it fits the run in `workdir`.

    It must have seen the same images as that run's model and, if it guides, under the same noise
    schedule. `option` is how errors name it.
    """
    try:
        classifier = serialization.read_config(folder / "config.json")
        check(classifier)
    except UserError as error:
        raise UserError(f"{option}: {error}") from error
    if classifier.model.kind != "classifier":
        raise UserError(
            f"{option} is the run of a model of kind {classifier.model.kind}, which knows no "
            "classes; name one that was trained with --model.kind classifier"
        )
    differ = _differences(classifier, config, noise=guides)
    if differ:
        raise UserError(
            f"{option} does not fit the model of {workdir}: its {'; its '.join(differ)}"
        )
    return classifier


def _differences(classifier: Config, model: Config, noise: bool) -> list[str]:
    """A phrase for each setting in which a classifier was trained on other images or noise."""
    names = [("data", "name"), ("data", "image_size"), ("data", "channels")]
    if model.model.num_classes:
        names += [("data", "labels"), ("model", "num_classes")]
    # Different settings may give the same betas, so these are compared.
    schedules = [build_diffusion(config.diffusion).schedule for config in (classifier, model)]
    betas, timesteps = (
        [getattr(schedule, name) for schedule in schedules] for name in ("betas", "model_timesteps")
    )
    if noise and not (np.array_equal(*betas) and np.array_equal(*timesteps)):
        process = "timesteps schedule beta_start beta_end sigmoid_range rescale_timesteps"
        names += [("diffusion", name) for name in process.split()]
    pairs = [
        (f"{section}.{name}", *(getattr(getattr(c, section), name) for c in (classifier, model)))
        for section, name in names
    ]
    return [f"{name} is {its}, the model's {other}" for name, its, other in pairs if its != other]


def _check_label_dropout(cfg_scale: str, workdir: Path, config: Config) -> None:
    if not config.model.num_classes:
        raise UserError(
            f"cfg_scale={cfg_scale}: the model of {workdir} is unconditional; guide it by "
            "classifier=DIR, or name a run with classes"
        )
    if not config.diffusion.label_dropout:
        raise UserError(
            f"cfg_scale={cfg_scale}: the model of {workdir} never saw an image without its label; "
            "train with --diffusion.label-dropout 0.1, or guide it by classifier=DIR"
        )


def _scales(name: str, value: Numbers, default: float) -> list[float]:
    try:
        numbers = as_floats(default if value is None else value)
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number <= np.finfo(np.float32).max for number in numbers):
        raise UserError(
            f"{name}={as_text(value)}: give a number of 0 or more, or several, as in 0,1,2.5"
        )
    return numbers


def _interval(value: Numbers) -> tuple[float, float]:
    if value is None:
        return 0.0, 1.0
    try:
        first, last = as_floats(value)
    except ValueError:
        first = last = math.nan
    if not 0 <= first < last <= 1:
        raise UserError(
            f"guidance_interval={as_text(value)}: give two rising numbers in [0, 1], the part of "
            "t/T that is guided, as in 0.2,0.8"
        )
    return first, last
