"""A config as JSON and back."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from ddpm_jax.config.schema import Config
from ddpm_jax.errors import UserError

T = TypeVar("T")

# Of the whole run folder. Higher where code that knows only the version before would misread it.
FORMAT_VERSION = 1


def to_json(config: Config) -> str:
    """The config as JSON, a field a line, after the version of the run folder's format."""
    values = {"format_version": FORMAT_VERSION} | dataclasses.asdict(config)
    return json.dumps(values, indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of `to_json`. Fields that older versions did not write have their defaults.

    Raises ValueError for what is no config, and for the format of a newer version.
    """
    values = json.loads(text)
    if isinstance(values, dict):
        version = _typed(values.pop("format_version", 1), int, "format_version")
        if version > FORMAT_VERSION:
            raise ValueError(
                f"its format_version is {version}, and this ddpm_jax reads up to {FORMAT_VERSION}: "
                "update ddpm_jax"
            )
    return from_dict(Config, values)


def read_config(path: Path) -> Config:
    """The config that a run folder's config.json holds; raises UserError."""
    try:
        return from_json(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} is no run folder: it has no {path.name}; "
            "name the folder that train.py wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def from_dict(cls: type[T], values: Any, name: str = "") -> T:
    """The inverse of `dataclasses.asdict`, through JSON too; `name` is where `values` stand.

    Raises ValueError for an unknown field and for a value of another type than its field's.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name or cls.__name__} is {values!r}, expected the fields of a section")
    kinds = typing.get_type_hints(cls)
    if unknown := sorted(set(values) - set(kinds)):
        raise ValueError(f"unknown {cls.__name__} fields: {', '.join(unknown)}")
    read = {
        field: _typed(value, kinds[field], f"{name}.{field}".lstrip("."))
        for field, value in values.items()
    }
    return cls(**read)


def _typed(value: Any, kind: Any, name: str) -> Any:
    """`value` of the field `name` as its type `kind` has it: lists become tuples."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_dict(kind, value, name)
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(value, kind):
        wanted = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        raise ValueError(f"{name} is {value!r}, expected {wanted}")
    return value


def _fits(value: Any, kind: Any) -> bool:
    inner = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Literal:
            return value in inner
        case types.UnionType:
            return any(_fits(value, each) for each in inner)
        case origin if origin is tuple:
            if not isinstance(value, tuple):
                return False
            each = inner[:1] * len(value) if inner[-1] is ... else inner
            return len(value) == len(each) and all(map(_fits, value, each))
    if kind is float and not isinstance(value, bool):
        return isinstance(value, int | float)
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def flat(config: Config) -> dict[str, Any]:
    """Every field by its full name, such as `train.seed`."""
    return {
        f"{section}.{field}": value
        for section, fields in dataclasses.asdict(config).items()
        for field, value in fields.items()
    }
