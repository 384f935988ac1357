"""Real images to compare samples with, and what is known of them: features and statistics.

Statistics are kept in the cache folder, under a digest of the images and of the network that sees
them. The second run takes seconds.
"""

import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import FeatureExtractor, features_of
from ddpm_jax.evaluation.images import (
    ImageSet,
    named_data,
    of_array,
    of_data,
    of_folder,
    read_arrays,
)
from ddpm_jax.evaluation.metrics import Reference
from ddpm_jax.evaluation.statistics import Statistics, fit
from ddpm_jax.runs.partial_results import read_partial_together, save_partial
from ddpm_jax.runtime import signals
from ddpm_jax.runtime.files import cache_folder, expanded
from ddpm_jax.runtime.processes import on_main_process
from ddpm_jax.runtime.progress import progress

# In the evaluators' files, and in ours; features are clean-fid's alone, for KID.
NAMES = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
FEATURES = "feats"
SEEN_BY = "features_digest"  # in our own files: what the statistics are features of
KEPT_FEATURES = 100_000  # images up to which the features themselves are kept too, 800 MB


class RealImages(NamedTuple):
    """Images, or what a file knows of them instead, or both as in ADM's reference batches."""

    name: str
    images: ImageSet | None
    given: Reference = Reference()
    given_by: str = ""  # the digest of what saw those images; "": the file does not say

    @property
    def stored(self) -> set[str]:
        """The fields of `given` that are not empty."""
        pool, spatial, features = self.given
        sizes = {"pool": pool.mean.size, "spatial": spatial.mean.size, "features": features.size}
        return {name for name, size in sizes.items() if size}


def read_reference(text: str, like: DataConfig, shape: tuple[int, int, int]) -> RealImages:
    """A data set, a folder of pictures, or an npz file of images, of statistics or of both.

    `tfds:NAME[:SPLIT]`, `folder:PATH` and `digits` are cropped and resized to `shape` as for
    training, by the settings `like`. The pictures of a plain PATH stay as they are. Raises
    UserError.
    """
    if (settings := named_data(text, like, shape)) is not None:
        height, width, _ = shape
        print(f"{text}: cropped and resized to {width}x{height} pixels, as for training")
        return RealImages(text, of_data(settings))
    path = expanded(text)
    file = path / "samples.npz" if (path / "samples.npz").is_file() else path
    if file.is_dir():
        return RealImages(text, of_folder(file))
    if not file.is_file():
        raise UserError(
            f"reference={text}: no such file; it must be tfds:NAME[:SPLIT], folder:PATH, a folder "
            "of pictures, or an npz of images (arr_0), statistics (mu, sigma) or features (feats)"
        )
    names = ("arr_0", SEEN_BY, FEATURES, *(name for pair in NAMES.values() for name in pair))
    arrays = read_arrays(file, names, all_of_them=False)
    given = _given(file, arrays)
    images = of_array(str(file), arrays["arr_0"]) if "arr_0" in arrays else None
    real = RealImages(str(file), images, given, str(arrays.get(SEEN_BY, "")))
    if images is None and not real.stored:
        raise UserError(
            f"{file} has no images (arr_0), no statistics (mu, sigma) and no features (feats)"
        )
    return real


def _given(file: Path, arrays: Mapping[str, np.ndarray]) -> Reference:
    """What a file's arrays say of the real images. Raises UserError for features that are none."""
    given = Reference()
    if FEATURES in arrays:
        features = arrays[FEATURES].astype(np.float32)
        if features.ndim != 2:
            raise UserError(f"{file}: {FEATURES} has shape {features.shape}, expected [N, F]")
        try:
            given = Reference(pool=fit(features), features=features)
        except ValueError as error:
            raise UserError(f"{file}: {FEATURES}: {error}") from error
    statistics: dict[str, Any] = {
        kind: Statistics(arrays[mean].astype(float), arrays[cov].astype(float))
        for kind, (mean, cov) in NAMES.items()
        if mean in arrays and cov in arrays
    }
    return given._replace(**statistics)


def know(real: RealImages, extractor: FeatureExtractor, needs: Collection[str]) -> Reference:
    """The features and statistics of real images that metrics need.

    Raises UserError, also for statistics of other features than the extractor's.
    """
    stored = real.stored
    if stored and (real.given_by or extractor.digest) != extractor.digest:
        raise UserError(f"{real.name} has statistics of other features than {extractor.name}")
    if stored and not (real.given_by or extractor.is_inception):
        raise UserError(
            f"{real.name} does not say which features its statistics are of; other files than ours "
            "have those of Inception"
        )
    missing = set(needs) & set(Reference._fields) - stored
    if not missing:
        return real.given
    if real.images is None:
        raise UserError(
            f"reference={real.name} has no {' and no '.join(sorted(missing))} of real images, "
            "which these metrics need; give images, or fewer metrics"
        )
    found = _known_of_images(real.images, extractor, missing)
    return found._replace(**{name: getattr(real.given, name) for name in stored})


def _known_of_images(
    images: ImageSet, extractor: FeatureExtractor, wanted: Collection[str]
) -> Reference:
    file = cache_folder() / "statistics" / f"{images.digest()}_{extractor.digest}.npz"
    names = [name for kind in ("pool", "spatial") for name in NAMES[kind]]
    if "features" in wanted or images.num <= KEPT_FEATURES:
        names.append("features")
    arrays = read_partial_together(file, names)
    if arrays is None:
        chunks = file.with_suffix("")
        with progress(images.num, 0, "image", f"features of {images.name}", 3) as bar:
            found = features_of(images, extractor, chunks, signals.with_stop_check(bar.update))
        pool, spatial = fit(found.pool), fit(found.spatial)
        values = pool.mean, pool.cov, spatial.mean, spatial.cov, found.pool
        arrays = dict(zip(names, values, strict=False))
        on_main_process(partial(save_partial, file, arrays))
        on_main_process(partial(shutil.rmtree, chunks, ignore_errors=True))
    pool, spatial = (Statistics(arrays[m], arrays[c]) for m, c in NAMES.values())
    return Reference(pool, spatial, arrays.get("features", Reference().features))


def save_statistics(known: Reference, extractor: FeatureExtractor, file: Path) -> None:
    """Writes statistics in the format of the evaluators, and which features they are of."""
    arrays = {SEEN_BY: np.array(extractor.digest)}
    for statistics, (mean, cov) in zip((known.pool, known.spatial), NAMES.values(), strict=True):
        if statistics.mean.size:
            arrays |= {mean: statistics.mean, cov: statistics.cov}
    save_partial(file, arrays)
