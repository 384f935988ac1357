"""A digest of trees of arrays, by which two can be compared bit for bit."""

import hashlib
from typing import Any

import jax
import numpy as np

from ddpm_jax.runtime.devices import to_host


def sha256(tree: Any) -> str:
    """SHA-256 over the path, type, shape and bytes of every array. All processes must call it."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(to_host(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
