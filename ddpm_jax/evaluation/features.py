"""What a network sees in images: features, and scores of classes, for metrics of samples.

A feature extractor is Inception by one of the protocols, a classifier that we trained, or a
function of the user's.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ddpm_jax.config import Config, data_shape
from ddpm_jax.data.model_range import to_model_range
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.images import ImageSet, shape_text
from ddpm_jax.evaluation.resize import PROTOCOLS, to_network
from ddpm_jax.generation import load_run
from ddpm_jax.models import Params, build_features, build_network
from ddpm_jax.models.inception import build_inception
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.partial_results import read_partial_together, save_partial
from ddpm_jax.runtime.devices import replicate, shard_global_batch, to_host
from ddpm_jax.runtime.processes import on_main_process

BATCH_SIZE = 64
CHUNK = 512  # images whose features go into one file

Arrays = dict[str, Any]


class Features(NamedTuple):
    """What is seen in N images; what an extractor does not give has no columns."""

    pool: np.ndarray  # float32 [N, F]
    logits: np.ndarray  # float32 [N, C], scores of classes
    spatial: np.ndarray  # float32 [N, S], of sFID

    @property
    def classes(self) -> np.ndarray:
        """The likeliest class of each image, int [N]."""
        return self.logits.argmax(axis=1)


class FeatureExtractor(NamedTuple):
    """A function of images, and what it is called.

    Attributes:
      name: for people, as in "inception, protocol adm".
      digest: differs where the features may differ.
      extract: uint8 [B, H, W, C] -> Features.
      shape: of the images that it takes, [H, W, C]; None for any.
      is_inception: True if its distances are called FID, sFID and KID.
    """

    name: str
    digest: str
    extract: Callable[[np.ndarray], Features]
    shape: tuple[int, ...] | None = None
    is_inception: bool = False


def choose_extractor(
    text: str, protocol: str, inception: Path | None, mesh: Mesh
) -> FeatureExtractor:
    """The extractor `inception`, `classifier:DIR` or `module:function`; raises UserError."""
    if text == "inception":
        return inception_extractor(protocol, inception, mesh)
    kind, _, rest = text.partition(":")
    if kind == "classifier":
        run = load_run(rest)
        if run.config.model.kind != "classifier":
            raise UserError(f"features={text}: {rest} is not the run of a classifier")
        weights = run.load_weights(mesh)
        name = f"the classifier {rest}, step {weights.step}"
        return classifier_extractor(name, run.config, weights.items["ema"], mesh)
    if not rest:
        raise UserError(
            f"features={text}: must be inception, classifier:DIR or a function module:function"
        )
    return function_extractor(text)


def inception_extractor(protocol: str, file: Path | None, mesh: Mesh) -> FeatureExtractor:
    """FID's Inception network behind the resize of a protocol; grey images become RGB.

    `file` has its weights; None: the published ones. Raises UserError.
    """
    # Imported here, since it takes 60 ms: training may measure nothing.
    from ddpm_jax.interop.inception_weights import SHA256, find_inception

    if protocol not in PROTOCOLS:
        raise UserError(f"protocol={protocol}: must be one of {', '.join(PROTOCOLS)}")
    weights = find_inception(file)
    name = f"inception, protocol {protocol}"
    if weights.digest != SHA256:
        name += f", weights {weights.digest[:8]}"
    digest = f"{protocol}_{weights.digest[:16]}"
    extract = inception_on(mesh, weights.params, protocol)
    return FeatureExtractor(name, digest, extract, is_inception=True)


def resize_program(protocol: str, _: Params, images: jax.Array) -> jax.Array:
    """From uint8 images [B, H, W, 1 or 3] to what Inception is given."""
    return to_network(protocol, jnp.broadcast_to(images, (*images.shape[:3], 3)))


def inception_program(params: Params, images: jax.Array) -> Arrays:
    """From resized images to the fields of `Features`.

    A CPU takes one image after the other: XLA's convolutions allocate memory in proportion to the
    batch, and the kernel has to fill it with zeros. That is 1.2 times as fast.
    """

    def together(images: jax.Array) -> Arrays:
        return build_inception().features(params, images)._asdict()

    def in_turn(images: jax.Array) -> Arrays:
        found = jax.lax.map(together, images[:, None])
        return {name: array[:, 0] for name, array in found.items()}

    return jax.lax.platform_dependent(images, cpu=in_turn, default=together)


def inception_on(
    mesh: Mesh,
    params: Params | dict[str, np.ndarray],
    protocol: str,
    batch_size: int = BATCH_SIZE,
) -> Callable[[np.ndarray], Features]:
    """`extract(images)`: a resize, then Inception, which no size of images compiles again."""
    programs = (partial(resize_program, protocol), inception_program)
    return in_batches(programs, params, mesh, batch_size)


def classifier_extractor(name: str, config: Config, params: Params, mesh: Mesh) -> FeatureExtractor:
    """The classifier of a run; it sees clean images, at t = 0."""
    logits_of, features_of = build_network(config).apply, build_features(config).apply

    def program(params: Params, images: jax.Array) -> Arrays:
        x, t = to_model_range(images), jnp.zeros(len(images))
        return {"pool": features_of(params, x, t), "logits": logits_of(params, x, t)}

    digest = sha256([str(config.model), params])[:16]
    extract = in_batches([program], params, mesh)
    return FeatureExtractor(name, digest, extract, data_shape(config))


def function_extractor(text: str) -> FeatureExtractor:
    """A function `module:function`, uint8 images [B, H, W, C] -> features [B, F].

    Raises UserError if there is no such function, or it returns something else.
    """
    module, _, name = text.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"features={text}: {error}") from error

    def extract(images: np.ndarray) -> Features:
        batches = [images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE)]
        found = [np.asarray(function(batch), np.float32) for batch in batches]
        for batch, pool in zip(batches, found, strict=True):
            if pool.ndim != 2 or len(pool) != len(batch):
                raise UserError(
                    f"features={text}: it returned an array {list(pool.shape)} for {len(batch)} "
                    "images; it must be [images, features]"
                )
        return _features({"pool": np.concatenate(found)})

    source = Path(getattr(importlib.import_module(module), "__file__", None) or __file__)
    return FeatureExtractor(text, sha256([text, source.read_text()])[:16], extract)


def in_batches(
    programs: Sequence[Callable[[Params, Any], Any]],
    params: Params | dict[str, np.ndarray],
    mesh: Mesh,
    batch_size: int = BATCH_SIZE,
) -> Callable[[np.ndarray], Features]:
    """`extract(images)`: programs of which each takes what the one before returns, each jitted.

    They run on batches of one size, on each device on its own images, so that they may loop.
    """
    on_mesh = replicate(params, mesh)
    split = PartitionSpec(mesh.axis_names)
    jitted = [
        jax.jit(
            jax.shard_map(
                program,
                mesh=mesh,
                in_specs=(PartitionSpec(), split),
                out_specs=split,
                check_vma=False,
            )
        )
        for program in programs
    ]
    size = -(-batch_size // mesh.devices.size) * mesh.devices.size

    def extract(images: np.ndarray) -> Features:
        found = []
        for start in range(0, len(images), size):
            few = images[start : start + size]
            batch = shard_global_batch(np.resize(few, (size, *few.shape[1:])), mesh)
            for program in jitted:
                batch = program(on_mesh, batch)
            arrays = to_host(batch)
            found.append({name: array[: len(few)] for name, array in arrays.items()})
        return _features({name: np.concatenate([e[name] for e in found]) for name in found[0]})

    return extract


def _features(arrays: Arrays) -> Features:
    nothing = np.empty((len(arrays["pool"]), 0), np.float32)
    return Features(*(arrays.get(name, nothing) for name in Features._fields))


def features_of(
    images: ImageSet,
    extractor: FeatureExtractor,
    folder: Path | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Features:
    """The features of a set of images, in its order.

    With a `folder`, each chunk of images leaves a file there, and is read from it if an earlier
    call was stopped. `on_progress(n)` is called when n more images are done. Raises UserError if
    the features are not finite.
    """
    if extractor.shape not in (None, images.shape):
        raise UserError(
            f"{images.name} has images of {shape_text(images.shape)}, and {extractor.name} takes "
            f"{shape_text(extractor.shape or ())}"
        )
    found, first = [], 0
    for batch in images.batches(CHUNK):
        path = folder and folder / f"{first:08d}_{len(batch)}.npz"
        arrays = path and read_partial_together(path, Features._fields)
        if not arrays:
            arrays = extractor.extract(batch)._asdict()
            if path:
                on_main_process(partial(save_partial, path, arrays))
        if not np.isfinite(arrays["pool"]).all():
            wrong = first + int(np.argmin(np.isfinite(arrays["pool"]).all(axis=1)))
            raise UserError(f"the features of image {wrong} of {images.name} are not finite")
        found.append(Features(**arrays))
        first += len(batch)
        if on_progress:
            on_progress(len(batch))
    return Features._make(np.concatenate(of) for of in zip(*found, strict=True))
