"""Labels of samples, as a command asks for them."""

from collections.abc import Sequence

import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.generation.guidance_options import GuidanceOptions


def choose_labels(spec: str, num: int, num_classes: int, seed: int) -> np.ndarray:
    """int32 [num]: "all" classes in turn, "random" ones, or those of a list "3,7" in turn.

    Label i depends on i and the seed alone. -1 throughout where there are no classes. Raises
    UserError.
    """
    if not num_classes:
        if spec:
            raise UserError(f"--labels {spec}: this model is unconditional; leave it out")
        return np.full(num, -1, np.int32)
    match spec:
        case "all" | "":
            chosen = range(num_classes)
        case "random":
            rngs = (np.random.default_rng((seed, i)) for i in range(num))
            chosen = [int(rng.integers(num_classes)) for rng in rngs]
        case _:
            try:
                chosen = [int(label) for label in spec.split(",")]
            except ValueError as error:
                raise UserError(
                    f"--labels {spec}: give numbers as in 3,7, all or random"
                ) from error
    wrong = [label for label in chosen if not 0 <= label < num_classes]
    if wrong:
        raise UserError(f"--labels {spec}: {wrong[0]} is not among 0..{num_classes - 1}")
    return np.resize(np.array(chosen, np.int32), num)


def stage_classes(configs: Sequence[Config], guide: GuidanceOptions) -> list[int]:
    """How many classes the labels of each stage are of; a guided first one has the classifier's."""
    first, *later = [config.model.num_classes for config in configs]
    return [first or (guide.config.model.num_classes if guide.config else 0), *later]


def stage_labels(
    spec: str, num: int, classes: Sequence[int], seed: int, given: np.ndarray | None, enlarges: bool
) -> list[np.ndarray]:
    """int32 [num] for each stage: the same for all with classes, -1 for those without.

    `spec` says them as in `choose_labels`; without it `given`, the labels of the images that the
    first stage `enlarges`; without either a first stage that enlarges nothing takes all in turn.
    Raises UserError.
    """
    if spec or not any(classes):
        labels = choose_labels(spec, num, max(classes), seed)
    elif given is not None:
        labels = given
    elif enlarges or not classes[0]:
        raise UserError(
            f"the model has {max(classes)} classes, and what it enlarges has no labels: "
            "give --labels 3,7 (in turn), all (in turn) or random"
        )
    else:
        labels = choose_labels("", num, classes[0], seed)
    return [labels if n else np.full(num, -1, np.int32) for n in classes]
