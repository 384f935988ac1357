"""A cascade: a run, and perhaps another that enlarges its samples. What fits what, and labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.generation.guidance_options import GuidanceOptions
from ddpm_jax.generation.labels import choose_labels, class_names
from ddpm_jax.generation.options import GenerationOptions, as_text


def check_low_res(workdir: Path, config: Config, given: bool) -> None:
    """Raises UserError if an upsampler gets no images, or another model gets some."""
    side = config.data.low_res_size
    if side and not given:
        raise UserError(
            f"{workdir} enlarges images of {side}x{side}: give low_res=PATH, a folder of them or a "
            f"samples.npz, or draw them with another run and upsampler={workdir}"
        )
    if given and not side:
        raise UserError(
            f"low_res is given, but the model of {workdir} enlarges nothing: leave it out, or name "
            "the run of a super-resolution model"
        )


def check_upsampler(
    base: Config, guidance: GuidanceOptions, upsampler: Config, folder: Path
) -> None:
    """Raises UserError unless `upsampler`, the run in `folder`, enlarges what `base` draws."""
    data, side = upsampler.data, upsampler.data.low_res_size
    if not side:
        raise UserError(f"upsampler={folder} enlarges nothing; leave it out")
    points = base.data.name == "s_curve"
    draws = "points" if points else _images(base.data.image_size, base.data.channels)
    takes = _images(side, data.channels)
    if draws != takes:
        raise UserError(f"upsampler={folder} enlarges {takes}; the first model draws {draws}")
    classes = cascade_classes([base, upsampler], guidance)
    if all(classes) and classes[0] != classes[1]:
        whose = "the first model" if base.model.num_classes else "the classifier"
        raise UserError(
            f"upsampler={folder} has {classes[1]} classes, but {whose} {classes[0]}; they must be "
            "the same"
        )


def cascade_classes(configs: Sequence[Config], guidance: GuidanceOptions) -> list[int]:
    """The number of classes of each model. An unconditional first model has its classifier's."""
    first, *later = [config.model.num_classes for config in configs]
    return [first or (guidance.config.model.num_classes if guidance.config else 0), *later]


def cascade_class_names(configs: Sequence[Config], guidance: GuidanceOptions) -> Sequence[str]:
    """Names of the classes, from the first of the models and the classifier that has them."""
    known = [*configs, *filter(None, [guidance.config])]
    return next(filter(None, map(class_names, known)), ())


def cascade_labels(
    configs: Sequence[Config],
    guidance: GuidanceOptions,
    options: GenerationOptions,
    num: int,
    given: np.ndarray | None,
) -> list[np.ndarray]:
    """int32 [num] for each model: the same for all with classes, -1 for those without.

    The labels are those of `options`, or else `given`, the labels of the images to enlarge. With
    neither, a first model that has classes and enlarges nothing draws all classes in turn. Raises
    UserError.
    """
    classes = cascade_classes(configs, guidance)
    needed = options.low_res is not None or not classes[0]
    if not as_text(options.labels) and any(classes) and needed:
        if given is None:
            raise UserError(
                f"the model has {max(classes)} classes, and what it enlarges has no labels: give "
                "labels=3,7 (in turn), labels=all (in turn) or labels=random"
            )
        labels = given
    else:
        names = cascade_class_names(configs, guidance)
        labels = choose_labels(options.labels, num, max(classes), options.seed, names)
    return [labels if count else np.full(num, -1, np.int32) for count in classes]


def _images(side: int, channels: int) -> str:
    return f"images of {side}x{side}x{channels}"
