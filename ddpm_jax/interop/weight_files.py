"""Files of weights: PyTorch's .pt and safetensors. No code in a file is ever run.

torch and safetensors are the extra `interop`, imported only to read or write a file.
"""

import ctypes
import importlib
import json
import os
import re
import struct
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ddpm_jax.errors import RunError, UserError, how_to_install
from ddpm_jax.runtime.files import expanded, replacing

Arrays = Iterable[tuple[str, np.ndarray]]


class Weights(NamedTuple):
    """The shapes of a file's arrays, and `take(name)`, which returns each of them once, float32."""

    shapes: dict[str, tuple[int, ...]]
    take: Callable[[str], np.ndarray]


def read_pt(path: Path) -> Weights:
    """The tensors of a state dict, in torch's zip format or the older one.

    Raises UserError for a file that is damaged, that holds anything but tensors by name, or that
    needs code to be run.
    """
    torch = require("torch")
    try:
        with warnings.catch_warnings(action="ignore"):
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path} {_refusal(str(error))}") from error
    if not isinstance(tensors, dict) or not tensors:
        kind = "nothing" if tensors == {} else f"a {type(tensors).__name__}"
        raise UserError(f"{path} holds {kind}, expected a state dict: tensors by name")
    for name, value in tensors.items():
        if not (isinstance(value, torch.Tensor) and value.layout == torch.strided):
            raise UserError(
                f"{path} is no state dict: {name} is a {type(value).__name__}, expected a tensor"
            )
    shapes = {str(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    # Each tensor is freed once it is taken: a file of 1.2 GB then needs 1.6 GB, not 2.8.
    return Weights(shapes, lambda name: tensors.pop(name).detach().float().numpy())


def _refusal(message: str) -> str:
    """Turns torch's long message about a file into a short one."""
    if found := re.search(r"GLOBAL (\S+)", message):
        return (
            f"holds {found[1].rstrip('.')} besides weights, which could run code: not loaded; "
            "name a file that holds a state dict alone"
        )
    boilerplate = ("Weights only load failed", "Please file an issue", "Check the documentation")
    lines = [line for line in message.splitlines() if line and not line.startswith(boilerplate)]
    reason = f" ({' '.join(lines)[:150]})" if " " in message else ""
    return f"is damaged, or no file of PyTorch weights{reason}: get it again, or name another"


def write_pt(path: Path, arrays: Arrays) -> None:
    """Writes a state dict as torch.save does; `path` appears once it is whole."""
    torch = require("torch")
    tensors = {name: torch.from_numpy(array) for name, array in arrays}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, torch would write its name into the file
            torch.save(tensors, file)

    _write_whole(path, write)


def read_safetensors(path: Path) -> Weights:
    """The arrays of a safetensors file. Raises UserError for a damaged one."""
    safetensors = require("safetensors")
    try:
        file = safetensors.safe_open(path, framework="np")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    except (PermissionError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path} is damaged, or no safetensors file ({reason})") from error

    def take(name: str) -> np.ndarray:
        if slices[name].get_dtype() == "BF16":  # numpy has no such type
            return _read_bfloat16(path, name)
        return file.get_tensor(name).astype(np.float32, copy=False)

    return Weights({name: tuple(each.get_shape()) for name, each in slices.items()}, take)


def _read_bfloat16(path: Path, name: str) -> np.ndarray:
    """An array whose values are the upper halves of float32 ones."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + size + start)
        halves = np.frombuffer(file.read(end - start), "<u2")
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def write_safetensors(path: Path, arrays: Arrays) -> None:
    """Writes arrays as PyTorch models load them; `path` appears once it is whole."""
    require("safetensors")
    from safetensors.numpy import save_file

    tensors = dict(arrays)
    _write_whole(path, lambda temporary: save_file(tensors, temporary, {"format": "pt"}))


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    try:
        with replacing(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # by the umask; safetensors would write 0600
            write(temporary)
            temporary.chmod(mode)
    except Exception as error:  # torch and safetensors each report a full disk in their own way
        raise RunError(f"cannot write {path}: {' '.join(str(error).split())[:200]}") from error


def return_freed_memory() -> None:
    """Makes glibc return freed arrays at once: exporting 1.2 GB then takes 1.9 GB, not 3.2."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(-3, 2**20)  # M_MMAP_THRESHOLD; arrays below it, by default up to 32 MiB, are kept


def require(package: str) -> ModuleType:
    """A package of the extra `interop`; raises UserError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed: {how_to_install('interop')}") from error


def named_file(variable: str, file: Path | None = None) -> Path | None:
    """`file`, or the one that an environment variable names; raises UserError if there is none."""
    if not (named := file or os.environ.get(variable)):
        return None
    path = expanded(named)
    if not path.is_file():
        raise UserError(f"{'' if file else f'{variable}: '}{path}: no such file")
    return path
