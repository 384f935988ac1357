"""What a classifier says of samples that it did not guide: their classes, and features of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config
from ddpm_jax.evaluation.distances import frechet_distance, precision_recall
from ddpm_jax.models import Params, build_features, build_network
from ddpm_jax.parallel import batch_sharding
from ddpm_jax.training.step import to_model_range

BATCH = 64


class Judged(NamedTuple):
    """The likeliest class of each image, int [N], and its features, float32 [N, F]."""

    classes: np.ndarray
    features: np.ndarray


def make_judge(config: Config, params: Params, mesh: Mesh) -> Callable[[np.ndarray], Judged]:
    """`judge(images: uint8 [N, H, W, C]) -> Judged`, by a classifier's run, at t = 0."""
    logits_of, features_of = build_network(config).apply, build_features(config).apply
    size = -(-BATCH // mesh.devices.size) * mesh.devices.size

    @jax.jit
    def see(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, t = to_model_range(images), jnp.zeros(len(images))
        return logits_of(params, x, t).argmax(axis=-1), features_of(params, x, t)

    def judge(images: np.ndarray) -> Judged:
        seen = []
        for start in range(0, len(images), size):
            few = images[start : start + size]
            filled = np.resize(few, (size, *few.shape[1:]))
            seen.append(jax.device_get(see(params, jax.device_put(filled, batch_sharding(mesh)))))
        classes, features = (
            np.concatenate(parts)[: len(images)] for parts in zip(*seen, strict=True)
        )
        return Judged(classes, features)

    return judge


class Verdict(NamedTuple):
    """How many of some samples are of the class asked for, how good and how diverse they are."""

    accuracy: float  # share in which the judge sees that class
    precision: float  # share that lies among the real images
    recall: float  # share of the real images that lies among the samples
    frechet: float  # distance of their features to those of the real images


def compare(samples: Judged, labels: np.ndarray, real: np.ndarray) -> Verdict:
    """The verdict on samples of int [N] `labels`; `real` are features [M, F] of real images.

    Precision and recall are of sets of the same size, at k = 3: of the first ones.
    """
    size = min(len(real), len(samples.features))
    return Verdict(
        float((samples.classes == labels).mean()),
        *precision_recall(real[:size], samples.features[:size]),
        frechet_distance(samples.features, real),
    )
