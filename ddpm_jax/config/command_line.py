"""From a command line to a checked config."""

import argparse
import dataclasses
import difflib
import importlib.util
import itertools
import os
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from ddpm_jax.config import serialization
from ddpm_jax.config.schema import Config
from ddpm_jax.config.validation import check
from ddpm_jax.errors import UserError

T = TypeVar("T")

DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "digits.py"


def parse_train(argv: Sequence[str]) -> tuple[Config, Path, bool]:
    """The config and the run folder that `train.py`'s arguments ask for; whether for a dry run.

    Raises UserError for a config that cannot be read or used; tyro exits with 2 for options that
    it does not know or cannot read.
    """
    border = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    border.add_argument("--config", type=_path, default=DEFAULT_CONFIG)
    border.add_argument("--workdir", type=_path)
    border.add_argument("--dry-run", action="store_true")
    args, rest = border.parse_known_args(argv)
    description = (
        "Trains a diffusion model. --config FILE (default: configs/digits.py) gives the settings, "
        "--workdir DIR (default: runs/<config name>) the folder that the run is kept in and "
        "resumed from; --dry-run only says what the run would need. The options below override "
        "single fields of the config."
    )
    config = parse(Config, rest, default=load_config(args.config), description=description)
    check(config)
    return config, args.workdir or Path("runs") / args.config.stem, args.dry_run


def _is_path(kind: object) -> bool:
    return kind is Path or Path in typing.get_args(kind)


def _path(text: str) -> Path:
    if not text:  # what an unset shell variable leaves; as a path it would be the current folder
        raise argparse.ArgumentTypeError("is empty; give a path")
    return Path(text)


def parse(cls: type[T], argv: Sequence[str], default: T | None = None, description: str = "") -> T:
    """A dataclass from `--field VALUE` options, written the same for every type.

    Raises UserError for a path that is empty, as an unset shell variable leaves it: it would be the
    current folder.
    """
    import tyro

    paths = {name for name, kind in typing.get_type_hints(cls).items() if _is_path(kind)}
    for word, following in itertools.pairwise([*argv, "."]):
        option, equals, value = word.partition("=")
        empty = (value if equals else following) == ""
        if empty and option.removeprefix("--").replace("-", "_") in paths:
            raise UserError(f"{option} is empty; give a path")
    return tyro.cli(
        tyro.conf.FlagConversionOff[cls],
        default=tyro.MISSING_NONPROP if default is None else default,
        args=list(argv),
        description=description,
    )


def load_config(path: Path) -> Config:
    """What `get_config()` of the Python file at `path` returns; raises UserError."""
    if not path.is_file():
        raise UserError(f"--config {path}: no such file; {_known_configs(path)}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None:
        raise UserError(f"--config {path}: not a Python file; name one that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except (Exception, SystemExit) as error:  # whatever the user's file does wrong
        reason = " ".join(f"{type(error).__name__}: {error}{_meant_field(error)}".split())
        raise UserError(f"--config {path}: {reason}") from error
    if not isinstance(config, Config):
        raise UserError(f"--config {path}: get_config() must return a ddpm_jax.config.Config")
    try:
        return serialization.from_dict(Config, dataclasses.asdict(config))
    except ValueError as error:
        raise UserError(f"--config {path}: {error}") from error


def _known_configs(path: Path) -> str:
    """The file that was meant instead of `path`, or all: those beside it and the project's."""
    files = [*sorted(path.parent.glob("*.py")), *sorted(DEFAULT_CONFIG.parent.glob("*.py"))]
    shown = {file.stem: os.path.relpath(file) for file in reversed(files)}
    if close := difflib.get_close_matches(path.stem, shown, n=1):
        return f"did you mean {shown[close[0]]}?"
    return f"there are: {', '.join(sorted(shown.values()))}"


def _meant_field(error: BaseException) -> str:
    """A suggestion for a field that a config file misspells, else nothing."""
    unknown = re.search(r"(\w+Config)\.__init__\(\) got an unexpected .* '(\w+)'", str(error))
    sections = {section.__name__: section for section in typing.get_type_hints(Config).values()}
    if not unknown or unknown[1] not in sections:
        return ""
    fields = typing.get_type_hints(sections[unknown[1]])
    close = difflib.get_close_matches(unknown[2], fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(fields)}"
