"""What a classifier says of samples that it did not guide: their classes, and features of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config
from ddpm_jax.data.model_range import to_model_range
from ddpm_jax.models import Params, build_features, build_network
from ddpm_jax.runtime.devices import batch_sharding

BATCH = 64


class Features(NamedTuple):
    """The likeliest class of each image, int [N], and its features, float32 [N, F]."""

    classes: np.ndarray
    features: np.ndarray


def make_feature_extractor(
    config: Config, params: Params, mesh: Mesh
) -> Callable[[np.ndarray], Features]:
    """`judge(images: uint8 [N, H, W, C]) -> Features`, by a classifier's run, at t = 0."""
    logits_of, features_of = build_network(config).apply, build_features(config).apply
    size = -(-BATCH // mesh.devices.size) * mesh.devices.size

    @jax.jit
    def see(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, t = to_model_range(images), jnp.zeros(len(images))
        return logits_of(params, x, t).argmax(axis=-1), features_of(params, x, t)

    def judge(images: np.ndarray) -> Features:
        seen = []
        for start in range(0, len(images), size):
            few = images[start : start + size]
            filled = np.resize(few, (size, *few.shape[1:]))
            seen.append(jax.device_get(see(params, jax.device_put(filled, batch_sharding(mesh)))))
        classes, features = (
            np.concatenate(parts)[: len(images)] for parts in zip(*seen, strict=True)
        )
        return Features(classes, features)

    return judge
