"""Labels of samples, as a caller asks for them."""

from collections.abc import Sequence

import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError, closest
from ddpm_jax.generation.options import Labels, as_text


def class_names(config: Config) -> tuple[str, ...]:
    """Names of the classes that a model knows, in order; () where its data set has none."""
    names = getattr(config.data, "class_names", ())
    return names if len(names) == config.model.num_classes else ()


def choose_labels(
    labels: Labels, num: int, num_classes: int, seed: int, names: Sequence[str] = ()
) -> np.ndarray:
    """int32 [num]: the given labels in turn, "all" of them in turn (also for None), or "random".

    A label is a number, one of the `names` of the classes or, in text, a range of numbers "0-9";
    commas separate several. Label i depends on i and the seed alone. Where there are no classes all
    are -1. Raises UserError.
    """
    text = as_text(labels)
    if not num_classes:
        if text:
            raise UserError(f"labels={text}: this model is unconditional; leave it out")
        return np.full(num, -1, np.int32)
    if text == "random":
        rngs = (np.random.default_rng((seed, i)) for i in range(num))
        return np.array([rng.integers(num_classes) for rng in rngs], np.int32)
    if text in ("", "all"):
        return np.resize(np.arange(num_classes, dtype=np.int32), num)
    words = (
        text.split(",")
        if isinstance(labels, str)
        else [str(each) for each in np.asarray(labels).ravel()]
    )
    chosen = [label for word in words for label in _labels_of(word.strip(), text, names)]
    if wrong := [label for label in chosen if not 0 <= label < num_classes]:
        raise UserError(f"labels={text}: {wrong[0]} is not among 0..{num_classes - 1}")
    return np.resize(np.array(chosen, np.int32), num)


def _labels_of(word: str, text: str, names: Sequence[str]) -> Sequence[int]:
    """The labels that one word means: a number, a class or a range. Raises UserError."""
    if word.removeprefix("-").isdecimal():
        return [int(word)]
    if word in names:
        return [names.index(word)]
    first, dash, last = word.partition("-")
    if dash and first.isdecimal() and last.isdecimal():
        if int(first) > int(last):
            raise UserError(f"labels={text}: {word} runs backwards; give {last}-{first}")
        return range(int(first), int(last) + 1)
    close = closest(word, names)
    hint = f"did you mean {close}?" if close else "give numbers as in 3,7 or 0-9"
    by_name = f", class names such as {names[0]}" if names and not close else ""
    rest = "" if close else f"{by_name}, all or random"
    raise UserError(f"labels={text}: {word or 'nothing'} is no class; {hint}{rest}")
