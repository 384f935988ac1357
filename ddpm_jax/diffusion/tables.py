"""Tables of alternatives: name -> row."""

from collections.abc import Mapping
from typing import TypeVar

Row = TypeVar("Row")


def look_up(table: Mapping[str, Row], name: str, kind: str) -> Row:
    """table[name]; raises ValueError, with the names that there are, for an unknown one."""
    if name not in table:
        raise ValueError(f"unknown {kind}: {name}; there are: {', '.join(table)}")
    return table[name]
