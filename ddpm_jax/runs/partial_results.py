"""Work that is done in parts, each a file, so that a command that was stopped goes on."""

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
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(settings, indent=2) + "\n")
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out} cannot be used: {error}") from error
    changed = [
        f"{name} {found.get(name)} -> {value}"
        for name, value in settings.items()
        if found.get(name) != value
    ]
    if changed:
        raise UserError(
            f"{out} holds results of other settings ({', '.join(changed)}): name another --out"
        )


def save_partial(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an npz file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_partial(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays of these names; None if the file is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def read_partial_together(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """As `read_partial`, called by all processes: each reads the part, or none has it.

    To those who do not see the file, in a folder of their own or not yet, the first one sends it.
    """
    found = read_partial(path, names)
    first, *others = processes.all_gather_objects(found is not None)
    if not first:
        return None
    return found if all(others) else processes.on_main_process(lambda: found)
