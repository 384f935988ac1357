"""Work whose results are kept batch by batch, so that a command that was stopped goes on."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import processes
from ddpm_jax.runtime.files import replacing


def create_results_folder(out: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder of results; raises UserError if it holds those of other settings."""
    path = out / "settings.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_settings(path, settings)
        changed = changed_settings(json.loads(path.read_text()), settings)
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out} cannot be used: {error}") from error
    if changed:
        raise UserError(
            f"{out} holds results of other settings ({', '.join(changed)}): name another --out"
        )


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes settings as a JSON file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n")


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A phrase for each of the `new` settings that the `old` ones have otherwise."""
    return [
        f"{name} {old.get(name)} -> {value}"
        for name, value in new.items()
        if old.get(name) != value
    ]


def save_partial(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an npz file, whole or not at all."""
    named: dict[str, Any] = dict(arrays)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **named)


def read_partial(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays of these names; None if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def read_partial_together(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """As `read_partial`, but the same in all processes, which must all call it.

    The first process decides. It sends the arrays to those that do not see the file, because their
    disk is another or shows it later.
    """
    found = read_partial(path, names)
    first, *others = processes.all_gather_objects(found is not None)
    if not first:
        return None
    return found if all(others) else processes.on_main_process(lambda: found)
