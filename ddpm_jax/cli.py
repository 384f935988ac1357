"""From a command line to a checked config, and from a config to JSON and back."""

import argparse
import dataclasses
import difflib
import importlib.util
import json
import logging
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ddpm_jax.config import Config, check
from ddpm_jax.errors import UserError

T = TypeVar("T")

DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "configs" / "digits.py"


def parse_train(argv: Sequence[str]) -> tuple[Config, Path]:
    """The config and the run folder that `train.py`'s arguments ask for.

    Raises UserError for a config that cannot be read or used; tyro exits with 2 for options that
    it does not know or cannot read.
    """
    border = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    border.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    border.add_argument("--workdir", type=Path)
    args, rest = border.parse_known_args(argv)
    description = (
        "Trains a diffusion model. --config FILE (default: configs/digits.py) gives the settings, "
        "--workdir DIR (default: runs/<config name>) the folder that the run is kept in and "
        "resumed from. The options below override single fields of the config."
    )
    config = parse(Config, rest, default=load_config(args.config), description=description)
    check(config)
    return config, args.workdir or Path("runs") / args.config.stem


def parse(cls: type[T], argv: Sequence[str], default: T | None = None, description: str = "") -> T:
    """A dataclass from `--field VALUE` options, written the same for every type."""
    import tyro

    return tyro.cli(
        tyro.conf.FlagConversionOff[cls],
        default=tyro.MISSING_NONPROP if default is None else default,
        args=list(argv),
        description=description,
    )


def start_logging() -> None:
    """Shows the project's warnings as plain lines on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")


def load_config(path: Path) -> Config:
    """What `get_config()` of the Python file at `path` returns; raises UserError."""
    if not path.is_file():
        known = sorted(str(file) for file in path.parent.glob("*.py"))
        close = difflib.get_close_matches(str(path), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(known) or '-'}"
        raise UserError(f"--config {path}: no such file{hint}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None:
        raise UserError(f"--config {path}: not a Python file; name one that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # whatever the user's file does wrong
        raise UserError(f"--config {path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"--config {path}: get_config() must return a ddpm_jax.config.Config")
    return config


def to_json(config: Config) -> str:
    """The config as JSON, a field a line."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def read_config(path: Path) -> Config:
    """The config that a run folder's config.json holds; raises UserError."""
    try:
        return from_dict(Config, json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} is no run folder: it has no {path.name}; "
            "name the --workdir that train.py wrote"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The inverse of `dataclasses.asdict`, through JSON; raises ValueError for unknown fields."""
    types = typing.get_type_hints(cls)
    if unknown := sorted(set(values) - set(types)):
        raise ValueError(f"unknown {cls.__name__} fields: {', '.join(unknown)}")
    read: Callable[[str, Any], Any] = lambda name, value: (  # noqa: E731
        from_dict(types[name], value)
        if dataclasses.is_dataclass(types[name])
        else (tuple(value) if isinstance(value, list) else value)
    )
    return cls(**{name: read(name, value) for name, value in values.items()})


def differences(new: Config, old: Config) -> list[str]:
    """One phrase for each field that changes what the run computes: `train.seed 0 -> 1`.

    Left out are the fields that a resumed run may change: devices, where the data lie, how often
    things happen, how pictures are drawn; and the number of steps, while the learning rate does
    not depend on it.
    """
    free = {"data.dir"} | {
        f"train.{name}"
        for name in (
            "checkpoint_every_steps",
            "keep_checkpoints",
            "sample_every_steps",
            "log_every_steps",
            "max_skipped_steps",
        )
    }
    if new.train.learning_rate_decay == "constant":
        free.add("train.steps")
    found = []
    for section in ("data", "model", "diffusion", "train"):
        before, after = getattr(old, section), getattr(new, section)
        for field in dataclasses.fields(after):
            a, b = getattr(before, field.name), getattr(after, field.name)
            if a != b and f"{section}.{field.name}" not in free:
                found.append(f"{section}.{field.name} {a} -> {b}")
    return found
