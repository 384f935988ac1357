"""From a command line to a checked config."""

import argparse
import dataclasses
import itertools
import os
import re
import shutil
import textwrap
import typing
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from ddpm_jax.config import serialization
from ddpm_jax.config.schema import Config, DataConfig
from ddpm_jax.config.validation import check
from ddpm_jax.errors import UserError, closest, suggestion

T = TypeVar("T")

PACKAGE = Path(__file__).resolve().parents[1]
# The project's own configs: a wheel has them in the package, a checkout beside it.
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
DEFAULT_CONFIG = CONFIGS / "digits.py"

TRAIN_DESCRIPTION = """
Trains a diffusion model, or goes on where an earlier run of the same command stopped.

    python train.py
    python train.py --config configs/cifar10.py --workdir runs/mine --train.batch-size 64
    python train.py --pretrained imagenet64 --workdir runs/mine --data.name folder:PATH

Its own options come first. Each of the others changes one setting of the config.
"""


@dataclass(frozen=True)
class TrainOptions(Config):
    """The options of train.py: its own, and every setting of the config."""

    config: Path = DEFAULT_CONFIG  # name of a config, or Python file with a get_config()
    pretrained: str | None = None  # published model that a new run starts from, with its config
    workdir: Path | None = None  # run folder, made or resumed; None: runs/<config or model>
    dry_run: bool = False  # only say what the run would need, and end
    tpu: str | None = None  # slice to compile the dry run for, without one, as v5e:2x4


class TrainCommand(NamedTuple):
    """What `train.py`'s arguments ask for."""

    config: Config
    workdir: Path
    dry_run: bool
    tpu: str | None
    pretrained: str | None


def parse_train(
    argv: Sequence[str], config_of_model: Callable[[str], Config] | None = None
) -> TrainCommand:
    """The config and the run folder that `train.py`'s arguments ask for; whether for a dry run.

    A first word without dashes is the `--config`. `config_of_model` gives that of a published model
    by its name, for `--pretrained`. Raises UserError for a config that cannot be read or used; tyro
    exits with 2 for options that it does not know or cannot read.
    """
    model = _first_option(argv, "--pretrained")
    if model is None:
        argv = _with_first_option("--config", argv)
        file = config_file(Path(_first_option(argv, "--config") or DEFAULT_CONFIG))
        name, default = file.stem, TrainOptions(config=shown(file), **_sections(load_config(file)))
    else:
        if _first_option(argv, "--config") is not None:
            raise UserError(f"--config: --pretrained {model} brings its own; leave one of them out")
        if config_of_model is None:
            raise UserError(f"--pretrained {model}: only train.py starts from published models")
        name = model_folder(model)
        default = TrainOptions(pretrained=model, **_sections(config_of_model(model)))
    options = parse(TrainOptions, argv, default, TRAIN_DESCRIPTION)
    config = Config(**_sections(options))
    config = dataclasses.replace(config, data=_with_folder(config.data))
    check(config)
    require_dry_run(options.dry_run, options.tpu)
    workdir = options.workdir or Path("runs") / name
    return TrainCommand(config, workdir, options.dry_run, options.tpu, options.pretrained)


def model_folder(model: str) -> str:
    """What a published model's folders are called: its name, without slashes."""
    return model.replace("/", "--")


def require_dry_run(dry_run: bool, tpu: str | None) -> None:
    """Raises UserError for a slice without a dry run. A TPU of the machine needs no option."""
    if tpu is not None and not dry_run:
        raise UserError(f"--tpu {tpu} compiles for a TPU that is not here: add --dry-run")


def _first_option(argv: Sequence[str], option: str) -> str | None:
    """The value of an option that must be known before the settings are options."""
    border = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    border.add_argument(option, dest="value")
    return border.parse_known_args(argv)[0].value


def config_file(named: Path) -> Path:
    """`named`, or where there is no such file, the project's config that it means.

    A config is called `cifar10`, or as in a checkout `configs/cifar10.py`.
    """
    own = CONFIGS / f"{named.stem}.py"
    means_own = named.parent in (Path("."), Path("configs")) and named.suffix in ("", ".py")
    return own if means_own and own.is_file() and not named.is_file() else named


def _with_first_option(option: str, argv: Sequence[str]) -> Sequence[str]:
    """`argv`, with `option` before a first word that has no dashes."""
    given = any(word.partition("=")[0] == option for word in argv)
    return argv if given or not argv or argv[0].startswith("-") else [option, *argv]


def shown(path: Path) -> Path:
    """What to call a config file: the name of the project's own, else the shortest path."""
    absolute = path.absolute()
    if absolute.parent == CONFIGS:
        return Path(path.stem)
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else path


def _sections(config: Config) -> dict[str, Any]:
    return {section.name: getattr(config, section.name) for section in dataclasses.fields(Config)}


def _with_folder(data: DataConfig) -> DataConfig:
    """Reads the name of an existing folder as `folder:NAME`."""
    known = data.name in ("digits", "s_curve") or ":" in data.name
    if known or not data.name or not Path(data.name).is_dir():
        return data
    return dataclasses.replace(data, name=f"folder:{Path(data.name)}")


def parse(cls: type[T], argv: Sequence[str], default: T | None = None, description: str = "") -> T:
    """A dataclass from `--field VALUE` options, written the same for every type.

    A first word without dashes is the `--workdir`, if `cls` has one. Raises UserError for an empty
    path, such as an unset shell variable gives: it would mean the current folder.
    """
    import tyro

    from ddpm_jax.config.primitives import registry

    kinds = typing.get_type_hints(cls)
    if "workdir" in kinds:
        argv = _with_first_option("--workdir", argv)
    _refuse_empty_paths(argv, {name for name, kind in kinds.items() if _is_path(kind)})
    if {"-h", "--help"} & set(argv):
        print(f"{wrapped(description)}\n")
    return tyro.cli(
        cls,
        default=tyro.MISSING_NONPROP if default is None else default,
        args=list(argv),
        description="",
        config=(tyro.conf.FlagConversionOff,),
        registry=registry(),
    )


def _refuse_empty_paths(argv: Sequence[str], paths: Set[str]) -> None:
    for word, following in itertools.pairwise([*argv, "."]):
        option, equals, value = word.partition("=")
        empty = (value if equals else following) == ""
        if empty and option.removeprefix("--").replace("-", "_") in paths:
            raise UserError(f"{option} is empty; give a path")


def _is_path(kind: object) -> bool:
    return kind is Path or Path in typing.get_args(kind)


def wrapped(text: str) -> str:
    """A docstring as wide as the terminal, up to 100; its commands, which are indented, as is.

    tyro would join the lines of each paragraph, and leave it to the terminal where they break.
    """
    width = min(shutil.get_terminal_size().columns, 100)
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(
        each if each.startswith(" ") else textwrap.fill(each, width) for each in paragraphs
    )


def load_config(path: Path) -> Config:
    """What `get_config()` of the Python file at `path` returns; raises UserError."""
    if not path.is_file():
        raise UserError(f"--config {path}: no such file; {_known_configs(path)}")
    if path.suffix != ".py":
        raise UserError(f"--config {path}: not a Python file; name one that defines get_config()")
    module = ModuleType(f"config_{path.stem}")
    module.__file__ = str(path)
    try:
        # Not imported: a file that was changed within a second would be taken from __pycache__.
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
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
    """The config that was meant instead of `path`, and all: the project's and the files beside."""
    beside = set(path.parent.resolve().glob("*.py")) - set(PACKAGE.parent.glob("*.py"))
    own = {file.stem: file.stem for file in CONFIGS.glob("*.py")}
    known = own | {file.stem: os.path.relpath(file) for file in beside}
    close = closest(path.stem, known)
    meant = f"did you mean {known[close]}? " if close else ""
    return f"{meant}there are: {', '.join(sorted(known.values()))}"


def _meant_field(error: BaseException) -> str:
    """A suggestion for a field that a config file misspells, else nothing."""
    unknown = re.search(r"(\w+Config)\.__init__\(\) got an unexpected .* '(\w+)'", str(error))
    sections = {section.__name__: section for section in typing.get_type_hints(Config).values()}
    if not unknown or unknown[1] not in sections:
        return ""
    fields = typing.get_type_hints(sections[unknown[1]])
    return f"; {suggestion(unknown[2], fields)}"
