"""Paths as users write them, and files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddpm_jax.errors import UserError


def expanded(path: str | Path) -> Path:
    """`path` with the home folder for ~ or ~NAME; raises UserError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such home folder; give the whole path") from error


def cache_folder() -> Path:
    """The folder of files that can be fetched or made again.

    $DDPM_JAX_CACHE, else $XDG_CACHE_HOME/ddpm_jax, else ~/.cache/ddpm_jax.
    """
    if folder := os.environ.get("DDPM_JAX_CACHE"):
        return expanded(folder)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ddpm_jax"


@contextmanager
def replacing(path: str | Path, synced: bool = True) -> Iterator[Path]:
    """Yields a temporary file beside `path`, and renames it to `path` once the block succeeds.

    The folder is made if need be. If `synced`, the file is on disk before the rename, so that a
    power cut leaves the old file or the new one, never an empty one. A sync takes some 10 ms: too
    long for thousands of files that can be made again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if synced:
            _sync(temporary)
        os.replace(temporary, path)
        if synced:
            with suppress(OSError):  # some file systems cannot sync a folder
                _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Returns once a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
