"""The weights of LPIPS: torchvision's AlexNet, and the linear layers of the package `lpips`.

Both are looked for on this machine. Nothing is fetched, and no package is imported to find them.
"""

import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.interop import weight_files
from ddpm_jax.interop.download import file_sha256
from ddpm_jax.interop.mismatch import check_names_and_shapes
from ddpm_jax.interop.weight_files import Weights
from ddpm_jax.models.lpips import param_shapes
from ddpm_jax.runtime.files import cache_folder, expanded


class Published(NamedTuple):
    """A published file, and the environment variable that can name another one."""

    variable: str
    name: str
    sha256: str  # or how it starts


ALEXNET = Published("DDPM_JAX_ALEXNET", "alexnet-owt-7be5be79.pth", "7be5be79")
LINEAR = Published(
    "DDPM_JAX_LPIPS",
    "alex.pth",  # of version 0.1; that of 0.0 has the same name and shapes
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
)


class WeightFile(NamedTuple):
    """A file, and how its sha256 must start: "" for one that the user named."""

    path: Path
    sha256: str = ""


class LpipsFiles(NamedTuple):
    """Where the weights are."""

    alexnet: WeightFile
    linear: WeightFile


def find_lpips() -> LpipsFiles | None:
    """The files that are at hand; None unless both are.

    Each is the one that its variable names, else the published one: in `cache_folder()`, or where
    torch keeps AlexNet and the package `lpips` its linear layers.

    Raises:
      UserError: a variable names no file, or one file while the other is not at hand.
    """
    alexnet = _find(ALEXNET, [cache_folder(), _torch_cache()])
    linear = _find(LINEAR, [cache_folder(), *_lpips_folders()])
    if alexnet and linear:
        return LpipsFiles(alexnet, linear)
    for this, found, other in ((ALEXNET, alexnet, LINEAR), (LINEAR, linear, ALEXNET)):
        if found and os.environ.get(this.variable):
            raise UserError(
                f"{this.variable} is set, but LPIPS needs {other.name} too: "
                f"put it into {cache_folder()}, or name it by {other.variable}"
            )
    return None


def read_lpips(files: LpipsFiles) -> dict[str, np.ndarray]:
    """Parameters of `lpips_distance`.

    Raises:
      UserError: a file is not the published one of its name, is damaged, or holds other weights;
        torch is not installed.
    """
    params: dict[str, np.ndarray] = {}
    for file, prefix in ((files.alexnet, "features."), (files.linear, "lin")):
        layout = {name: at for name, at in file_layout().items() if name.startswith(prefix)}
        weights = _read(file, dict(layout.values()))
        for name, (in_file, _) in layout.items():
            array = weights.take(in_file)
            params[name] = array if array.ndim == 1 else array.transpose(2, 3, 1, 0)
    return params


def file_layout() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names and shapes in the two files, by our names."""
    layout = {}
    for name, shape in param_shapes().items():
        weight = ".model.1.weight" if name.startswith("lin") else ".weight"
        in_file = shape if len(shape) == 1 else (shape[3], shape[2], *shape[:2])
        layout[name] = (name.replace(".kernel", weight), in_file)
    return layout


def _find(published: Published, folders: list[Path]) -> WeightFile | None:
    if named := weight_files.named_file(published.variable):
        return WeightFile(named)
    paths = (folder / published.name for folder in folders)
    return next((WeightFile(path, published.sha256) for path in paths if path.is_file()), None)


def _torch_cache() -> Path:
    """Where torch keeps published files, by the variables that it reads."""
    home = os.environ.get("TORCH_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(home or Path(cache) / "torch") / "hub" / "checkpoints"


def _lpips_folders() -> list[Path]:
    """Where the package `lpips` keeps its weights, if it is installed."""
    spec = importlib.util.find_spec("lpips")
    packages = (spec and spec.submodule_search_locations) or ()
    return [Path(package) / "weights" / "v0.1" for package in packages]


def _read(file: WeightFile, expected: dict[str, tuple[int, ...]]) -> Weights:
    """The weights of a file, which may also hold AlexNet's classifier."""
    if not (digest := file_sha256(file.path)).startswith(file.sha256):
        raise UserError(
            f"{file.path} is not the published file: its sha256 is {digest}, expected "
            f"{file.sha256}{'...' * (len(file.sha256) < len(digest))}; remove it, or get it again"
        )
    weights = weight_files.read_pt(file.path)
    found = {
        name: shape for name, shape in weights.shapes.items() if not name.startswith("classifier.")
    }
    try:
        check_names_and_shapes(found, expected)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error
    return weights
