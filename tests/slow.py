"""Tables of cases of which a few run each time, and the others with `pytest -m slow`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases for `pytest.mark.parametrize`; those that are not among `quick` are slow."""
    cases = list(cases)
    assert all(case in cases for case in quick)

    def marked(case: Any) -> Any:
        values = case if isinstance(case, tuple) else (case,)
        return pytest.param(*values, marks=() if case in quick else pytest.mark.slow)

    return [marked(case) for case in cases]
