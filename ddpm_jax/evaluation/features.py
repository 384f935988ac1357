"""What a classifier sees in images: their classes, and features of them for metrics of samples."""

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

BATCH_SIZE = 64


class Features(NamedTuple):
    """The likeliest class of each image, int [N], and its features, float32 [N, F]."""

    classes: np.ndarray
    features: np.ndarray


FeatureExtractor = Callable[[np.ndarray], Features]  # of images, uint8 [N, H, W, C]


def make_feature_extractor(config: Config, params: Params, mesh: Mesh) -> FeatureExtractor:
    """The classifier of a run as a feature extractor; it sees clean images, at t = 0."""
    logits_of, features_of = build_network(config).apply, build_features(config).apply
    size = -(-BATCH_SIZE // mesh.devices.size) * mesh.devices.size

    @jax.jit
    def classify(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, t = to_model_range(images), jnp.zeros(len(images))
        return logits_of(params, x, t).argmax(axis=-1), features_of(params, x, t)

    def extract(images: np.ndarray) -> Features:
        found = []
        for start in range(0, len(images), size):
            few = images[start : start + size]
            batch = jax.device_put(np.resize(few, (size, *few.shape[1:])), batch_sharding(mesh))
            found.append(jax.device_get(classify(params, batch)))
        classes, features = (np.concatenate(of) for of in zip(*found, strict=True))
        return Features(classes[: len(images)], features[: len(images)])

    return extract
