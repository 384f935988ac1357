"""What a command guides its samples by, read and checked: scales, an interval, a classifier."""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.config import Config, build_diffusion, check, serialization
from ddpm_jax.errors import UserError
from ddpm_jax.generation.generator import UNGUIDED, Scales


class GuidanceOptions(NamedTuple):
    """A row of samples for each of its scales, and a classifier's run with its settings, if any."""

    scales: list[Scales]
    interval: tuple[float, float] = (0.0, 1.0)  # of t / T
    folder: Path | None = None
    config: Config | None = None


def no_guidance(rows: int = 1) -> GuidanceOptions:
    """One that draws as many rows, and guides none."""
    return GuidanceOptions([UNGUIDED] * rows)


def read_guidance_options(
    workdir: Path,
    config: Config,
    *,
    classifier: Path | None,
    guidance_scale: str | None,
    cfg_scale: str | None,
    interval: str | None,
) -> GuidanceOptions:
    """What the options of these names ask for, to guide the run in `workdir`.

    Scales are numbers or lists of them, as in 0,1,2.5; of two lists each pair makes a row. A
    classifier's is 1 if none is given. Raises UserError, for a classifier that does not fit too.
    """
    if guidance_scale is not None and classifier is None:
        raise UserError(
            f"--guidance-scale {guidance_scale}: there is no --classifier to guide; name the run "
            "of one, or give --cfg-scale"
        )
    if interval is not None and classifier is None and cfg_scale is None:
        raise UserError(
            f"--guidance-interval {interval}: nothing guides; give --classifier or --cfg-scale"
        )
    if cfg_scale is not None:
        _check_label_dropout(cfg_scale, workdir, config)
    steered = None if classifier is None else read_classifier(classifier, workdir, config)
    guidance = _scales("guidance-scale", guidance_scale, "0" if steered is None else "1")
    cfg = _scales("cfg-scale", cfg_scale, "1")
    scales = [Scales(*pair) for pair in itertools.product(guidance, cfg)]
    return GuidanceOptions(scales, _interval(interval), classifier, steered)


def read_classifier(folder: Path, workdir: Path, config: Config, judges: bool = False) -> Config:
    """The settings of a classifier's run; raises UserError unless it fits the run in `workdir`.

    It must have seen the same images as that run's model, and if it is to guide, not only `judges`
    what comes out, made noisy by the same schedule.
    """
    option = f"--{'judge' if judges else 'classifier'} {folder}"
    try:
        classifier = serialization.read_config(folder / "config.json")
        check(classifier)
    except UserError as error:
        raise UserError(f"{option}: {error}") from error
    if classifier.model.kind != "classifier":
        raise UserError(
            f"{option} is the run of a model of kind {classifier.model.kind}, which "
            "knows no classes; name one of --model.kind classifier"
        )
    differ = _differences(classifier, config, noise=not judges)
    if differ:
        raise UserError(f"{option} does not fit --workdir {workdir}: its {'; its '.join(differ)}")
    return classifier


def _differences(classifier: Config, model: Config, noise: bool) -> list[str]:
    """A phrase for each setting by which a classifier saw other images, or other `noise`."""
    names = [("data", "name"), ("data", "image_size"), ("data", "channels")]
    if model.model.num_classes:
        names += [("data", "labels"), ("model", "num_classes")]
    # The same betas may have been asked for in other words.
    told = [build_diffusion(config.diffusion).schedule for config in (classifier, model)]
    betas, timesteps = ([getattr(of, name) for of in told] for name in ("betas", "model_timesteps"))
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
            f"--cfg-scale {cfg_scale}: the model of {workdir} is unconditional; guide it by "
            "--classifier, or name a run with classes"
        )
    if not config.diffusion.label_dropout:
        raise UserError(
            f"--cfg-scale {cfg_scale}: the model of {workdir} never saw an image without its "
            "label; train with --diffusion.label-dropout 0.1, or guide it by --classifier"
        )


def _scales(option: str, text: str | None, default: str) -> list[float]:
    try:
        numbers = [float(each) for each in (default if text is None else text).split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number <= np.finfo(np.float32).max for number in numbers):
        raise UserError(f"--{option} {text}: give a number of 0 or more, or several, as in 0,1,2.5")
    return numbers


def _interval(text: str | None) -> tuple[float, float]:
    if text is None:
        return 0.0, 1.0
    try:
        first, last = (float(each) for each in text.split(","))
    except ValueError:
        first = last = math.nan
    if not 0 <= first < last <= 1:
        raise UserError(
            f"--guidance-interval {text}: give two rising numbers in [0, 1], the part of t/T that "
            "is guided, as in 0.2,0.8"
        )
    return first, last
