"""How the words of a command line become values: what people type, where it has one meaning.

A rule returns tyro's reader of a type, or None for types that it does not handle.
"""

import re
import types
import typing
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ddpm_jax.config.schema import SamplerName
from ddpm_jax.errors import closest
from ddpm_jax.sampling.samplers import sampler_name

Spec: TypeAlias = PrimitiveConstructorSpec[Any]

# A type of choices whose table knows more names for them than `spelt` does.
NAMES: dict[Any, Callable[[str], str]] = {SamplerName: sampler_name}


def registry() -> ConstructorRegistry:
    rules = ConstructorRegistry()
    for rule in (_number, _switch, _choice, _list, _optional):
        rules.primitive_rule(rule)
    return rules


def whole_number(text: str) -> int:
    """64, 1_000 or 1e5; raises ValueError."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
        if number.is_integer():
            return int(number)
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no whole number; give one, as in 64 or 1e5")


def number(text: str) -> float:
    """Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number; give one, as in 0.1 or 1e-4") from None


def true_or_false(text: str) -> bool:
    """Raises ValueError."""
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise ValueError(f"invalid choice {text!r}; give 'True' or 'False', or nothing for True")
    return values[text.lower()]


def spelt(word: str, choices: tuple[str, ...]) -> str:
    """The one of `choices` that `word` names, whatever its case and its `-`, `_` and `+`.

    Raises ValueError, with the closest choice.
    """
    if word in choices:
        return word
    found = [choice for choice in choices if _plain(choice) == _plain(word)]
    if len(found) == 1:
        return found[0]
    close = closest(word.lower(), choices)
    hint = f"; did you mean {close}?" if close else ""
    given = ", ".join(map(repr, choices))
    raise ValueError(f"invalid choice {word!r}; there are: {given}{hint}")


def _plain(word: str) -> str:
    return re.sub("[-_+]", "", word).lower()


def _spec(metavar: str, read: Callable[[str], Any], kind: type | tuple[type, ...]) -> Spec:
    """Of values that are one word each."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


def _number(info: PrimitiveTypeInfo) -> Spec | None:
    if info.type is int:
        return _spec("INT", whole_number, int)
    return _spec("FLOAT", number, (int, float)) if info.type is float else None


def _switch(info: PrimitiveTypeInfo) -> Spec | None:
    """`--data.flip` is True, as is `--data.flip true`."""
    if info.type is not bool:
        return None

    def read(words: list[str]) -> bool:  # tyro does not hold what it reads to `nargs` of two counts
        return true_or_false(" ".join(words)) if words else True

    return replace(_spec("[True|False]", true_or_false, bool), nargs=(0, 1), instance_from_str=read)


def _choice(info: PrimitiveTypeInfo) -> Spec | None:
    if typing.get_origin(info.type) is not typing.Literal:
        return None
    choices = typing.get_args(info.type)
    read = NAMES.get(info.type, lambda word: spelt(word, choices))
    return _spec(f"{{{','.join(choices)}}}", read, str)


def _list(info: PrimitiveTypeInfo) -> Spec | None:
    """`1,2,3` as well as `1 2 3`, for tuples of numbers."""
    kinds = typing.get_args(info.type)
    if info.type_origin is not tuple or kinds[0] not in (int, float):
        return None
    length = None if kinds[-1] is Ellipsis else len(kinds)
    read_each = whole_number if kinds[0] is int else number
    name = kinds[0].__name__.upper()

    def read(words: list[str]) -> tuple[float, ...]:
        values = tuple(read_each(each) for word in words for each in word.split(","))
        if length not in (None, len(values)):
            raise ValueError(f"{' '.join(words)!r} has {len(values)} numbers, and not {length}")
        return values

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{name} ...]" if length is None else " ".join([name] * length),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(each) for each in value],
    )


def _optional(info: PrimitiveTypeInfo) -> Spec | None:
    """`int | None` is read like int, with the same errors; the word None gives None."""
    kinds = typing.get_args(info.type)
    if info.type_origin not in (types.UnionType, typing.Union) or len(kinds) != 2:
        return None
    (kind,) = (each for each in kinds if each is not type(None))
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return replace(
        spec,
        instance_from_str=lambda words: (
            None if words == ["None"] else spec.instance_from_str(words)
        ),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: (
            ["None"] if value is None else spec.str_from_instance(value)
        ),
    )
