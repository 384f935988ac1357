"""The classes of a data set and those of a model: their number, their names, whether they agree.

How a folder's images get their classes is in `folder_labels`.
"""

import logging
from dataclasses import replace

from ddpm_jax.config import Config
from ddpm_jax.data.sources import Source
from ddpm_jax.errors import UserError

MAX_NAMES = 1000  # as many as ImageNet has; more would swamp config.json
SHOWN_NAMES = 10
logger = logging.getLogger("ddpm_jax")


def with_classes(config: Config, source: Source) -> Config:
    """The config with the number and the names of the data set's classes filled in.

    A `model.num_classes` of -1 becomes the number of classes. It becomes 0, without label dropout,
    if the set has no labels, or one class only, which says nothing about an image.
    `data.class_names` becomes their names in the order of the labels, if the model has classes and
    there are at most MAX_NAMES of them. A folder with classes that the model ignores is logged.

    Raises:
      UserError: the classes of the model and of the data set differ, a classifier would have fewer
        than two, or images that lie beside a folder's class folders leave their number open.
    """
    if config.model.num_classes == -1:
        config = _with_number_of(config, source)
    check_num_classes(config, source)
    names = source.class_names
    if not config.model.num_classes:
        if config.data.name.startswith("folder:") and source.num_classes > 1:
            logger.warning(
                "%s has %d classes%s, but the model is unconditional: "
                "give --model.num-classes -1 to train it on them",
                config.data.name,
                source.num_classes,
                f" ({_listed(names)})" if names else "",
            )
        names = ()
    names = names if len(names) <= MAX_NAMES else ()
    return replace(config, data=replace(config.data, class_names=names))


def _with_number_of(config: Config, source: Source) -> Config:
    number, kind = source.num_classes, config.model.kind
    if not number and source.unlabelled_because:
        raise UserError(
            f"{source.name} has no labels, because {source.unlabelled_because}; or train without: "
            "--model.num-classes 0 --diffusion.label-dropout 0"
        )
    if kind == "classifier" and number < 2:
        has = "one class" if number else "no labels"
        raise UserError(
            f"{source.name} has {has}, but a classifier needs two classes or more; "
            "choose other data, or other --data.labels for a folder"
        )
    if number < 2:
        diffusion = replace(config.diffusion, label_dropout=0.0)
        return replace(config, model=replace(config.model, num_classes=0), diffusion=diffusion)
    return replace(config, model=replace(config.model, num_classes=number))


def check_num_classes(config: Config, source: Source) -> None:
    """Raises UserError unless the model is unconditional or has as many classes as the data set."""
    wanted, number = config.model.num_classes, source.num_classes
    if not wanted or wanted == number:
        return
    split = f" (split {config.data.split})" if config.data.name.startswith("tfds:") else ""
    if number:
        problem = f"has {number} classes; set it to {number}"
    elif source.unlabelled_because:
        problem = f"has no labels, because {source.unlabelled_because}"
    else:
        problem = "has no labels; set it to 0 (unconditional)"
    raise UserError(f"--model.num-classes {wanted}: {config.data.name}{split} {problem}")


def class_line(config: Config) -> str:
    """What is printed of a run's classes: `classes      3: cat, dog, owl`, in the labels' order."""
    number, names = config.model.num_classes, config.data.class_names
    if not number:
        return "classes      none: the model is unconditional"
    return f"classes      {number}{': ' if names else ''}{_listed(names)}"


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
