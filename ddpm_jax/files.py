"""Paths as users write them, and files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpm_jax.errors import UserError


def expanded(path: str | Path) -> Path:
    """`path` with the home folder for ~ or ~NAME; raises UserError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such home folder; give the whole path") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file beside `path` that takes its name once the block has ended well; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
