"""The weights of FID's Inception network: from a PyTorch file, or fetched on first use.

pytorch-fid and torch-fidelity publish the same bytes, a translation of TensorFlow's graph of
2015-12-05.
"""

import logging
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.interop import weight_files
from ddpm_jax.interop.download import download, file_sha256
from ddpm_jax.interop.mismatch import check_names_and_shapes
from ddpm_jax.interop.weight_files import Weights
from ddpm_jax.models.inception import build_inception
from ddpm_jax.runtime.files import cache_folder, replacing

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
SIZE = 95_628_359
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
VARIABLE = "DDPM_JAX_INCEPTION"
EPSILON = 1e-3  # of batch norm
NORM = ("weight", "bias", "running_mean", "running_var")
CONVERSION = 1  # raise it when the converted arrays change

logger = logging.getLogger("ddpm_jax")


class InceptionWeights(NamedTuple):
    """Parameters for `build_inception()`, and the sha256 of the file that they are from."""

    params: dict[str, np.ndarray]
    digest: str


def find_inception(file: Path | None = None) -> InceptionWeights:
    """The weights in `file`, else in that of $DDPM_JAX_INCEPTION, else the published ones.

    The published file is kept in `cache_folder()`, and fetched if it is not there. A file is
    converted once: the arrays are kept in that folder too, so that torch is needed only then.

    Raises:
      UserError: no such file; it holds anything but these weights; it cannot be fetched; torch is
        needed and not installed.
    """
    given = weight_files.named_file(VARIABLE, file)
    digest = SHA256 if given is None else file_sha256(given)
    converted = cache_folder() / f"inception-{digest[:16]}.{CONVERSION}.npz"
    if (arrays := _read_converted(converted)) is None:
        arrays = read_inception(_published() if given is None else given)
        _write_converted(converted, arrays)
    return InceptionWeights(arrays, digest)


def read_inception(path: Path) -> dict[str, np.ndarray]:
    """Our parameters from a state dict of PyTorch-FID's network; raises UserError."""
    try:
        return convert(weight_files.read_pt(path))
    except UserError as error:
        named = str(error).startswith(str(path))
        raise error if named else UserError(f"{path}: {error}") from error


def convert(weights: Weights) -> dict[str, np.ndarray]:
    """Our parameters, float32, with each batch norm made part of its convolution.

    Raises UserError with the first names that differ. Counters of batches may be there or not.
    """
    abstract = build_inception().abstract
    counters = {
        name.replace(".conv.kernel", ".bn.num_batches_tracked")
        for name in abstract
        if name.endswith(".conv.kernel")
    }
    found = {name: shape for name, shape in weights.shapes.items() if name not in counters}
    check_names_and_shapes(found, state_dict_shapes())
    params = {
        "fc.kernel": np.ascontiguousarray(weights.take("fc.weight").T),
        "fc.bias": weights.take("fc.bias"),
    }
    for name in abstract:
        layer = name.removesuffix(".conv.kernel")
        if layer == name:
            continue
        kernel = weights.take(f"{layer}.conv.weight").transpose(2, 3, 1, 0)
        gamma, beta, mean, variance = (
            weights.take(f"{layer}.bn.{each}").astype(np.float64) for each in NORM
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        params[f"{layer}.conv.kernel"] = np.ascontiguousarray(kernel * scale, np.float32)
        params[f"{layer}.conv.bias"] = (beta - mean * scale).astype(np.float32)
    return params


def state_dict_shapes() -> dict[str, tuple[int, ...]]:
    """PyTorch-FID's names and shapes, without the counters of batches."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, leaf in build_inception().abstract.items():
        layer = name.removesuffix(".conv.kernel")
        if layer != name:
            height, width, channels, out = leaf.shape
            shapes[f"{layer}.conv.weight"] = (out, channels, height, width)
            shapes |= {f"{layer}.bn.{each}": (out,) for each in NORM}
        elif name == "fc.kernel":
            shapes["fc.weight"] = leaf.shape[::-1]
        elif name == "fc.bias":
            shapes["fc.bias"] = leaf.shape
    return shapes


def _published() -> Path:
    """The published file, fetched if need be."""
    weight_files.require("torch")  # better told before 96 MB are fetched than after
    path = cache_folder() / URL.rpartition("/")[2]
    download(URL, path, SIZE, SHA256)
    return path


def _read_converted(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an earlier conversion; None if there are none, or they are damaged."""
    expected = {name: leaf.shape for name, leaf in build_inception().abstract.items()}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if {name: array.shape for name, array in arrays.items()} == expected else None


def _write_converted(path: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): the weights will be converted again next time; "
            "DDPM_JAX_CACHE can name another folder",
            path,
            error.strerror,
        )
