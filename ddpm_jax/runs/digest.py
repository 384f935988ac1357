"""A digest that tells trees of arrays apart, to the bit."""

import hashlib
from typing import Any

import jax
import numpy as np

from ddpm_jax.runtime.devices import to_host


def sha256(tree: Any) -> str:
    """Digest of every array of a tree, its path, type and bytes; all processes must ask for it."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(to_host(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
