"""What a setting may be, as metadata of its field: `steps: Count = 1000`."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints


@dataclass(frozen=True)
class Bound:
    """A condition, and its words: a setting "must be <wanted>"."""

    wanted: str
    holds: Callable[[Any], bool]


def at_least(least: int) -> Bound:
    return Bound(f"at least {least}", lambda n: n >= least)


def is_step_range(text: str) -> bool:
    """True for two steps in order, counted from 1, as in 10:15, and for nothing."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    return not text or (match is not None and 1 <= int(match[1]) <= int(match[2]))


NOT_NEGATIVE = Bound("0 or more", lambda n: n >= 0)
COUNTED_BY_DATA = Bound("0 or more, or -1: as many as the data set has", lambda n: n >= -1)

Positive = Annotated[int, at_least(1)]
Count = Annotated[int, NOT_NEGATIVE]
NumClasses = Annotated[int, COUNTED_BY_DATA]
ChainLength = Annotated[int, at_least(2)]
ColourChannels = Annotated[int, Bound("1 (grey) or 3 (RGB)", lambda n: n in (1, 3))]
Seed = Annotated[int, Bound("in [0, 2^32)", lambda n: 0 <= n < 2**32)]
NotNegative = Annotated[float, NOT_NEGATIVE]
AboveZero = Annotated[float, Bound("above 0", lambda x: x > 0)]
Fraction = Annotated[float, Bound("in [0, 1)", lambda x: 0 <= x < 1)]
ClosedFraction = Annotated[float, Bound("in [0, 1]", lambda x: 0 <= x <= 1)]
StepRange = Annotated[str, Bound("the first and the last step, as in 10:15", is_step_range)]


def out_of_bounds(settings: Any) -> Iterator[tuple[str, Any, str]]:
    """(name, value, what it must be) for each field of a dataclass that breaks its bound.

    Numbers must be finite, too. A field that is None has no bound.
    """
    for name, kind in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
            yield name, value, "finite"
        for bound in getattr(kind, "__metadata__", ()):
            if isinstance(bound, Bound) and value is not None and not bound.holds(value):
                yield name, value, bound.wanted
