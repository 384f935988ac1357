"""Do the metrics order what eyes would? Real images, and the same made worse, against others.

    python -m benchmarks.corruptions --data digits --size 8 --features classifier:runs/judge
    python -m benchmarks.corruptions --data tfds:cifar10 --data-dir DIR --num 500

Without `--features` it is Inception with random weights, which nobody has to fetch.
"""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.inception import parameters, random_state_dict
from ddpm_jax import data
from ddpm_jax.config import DataConfig, ParallelConfig, command_line
from ddpm_jax.evaluation import sample_suite
from ddpm_jax.evaluation.features import (
    FeatureExtractor,
    choose_extractor,
    inception_on,
)
from ddpm_jax.evaluation.metrics import Reference, Samples, measure
from ddpm_jax.evaluation.statistics import fit
from ddpm_jax.runtime import devices

SEED = 0


@dataclass(frozen=True)
class Args:
    data: str = "digits"  # or tfds:cifar10
    size: int = 32  # pixels a side
    data_dir: str = ""  # folder of prepared TFDS sets
    num: int = 800  # images in each row, and as many to compare with
    features: str = "random"  # or inception, classifier:DIR, module:function


def by_pillow(change: Callable[[Image.Image], Image.Image], images: np.ndarray) -> np.ndarray:
    """Applies a change to images [N, H, W, C]."""
    shape = images.shape[1:]
    pictures = (Image.fromarray(image.squeeze()) for image in images)
    return np.stack([np.asarray(change(picture)).reshape(shape) for picture in pictures])


def noisy(sigma: float, images: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(SEED).normal(0, sigma, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def blurred(radius: float, images: np.ndarray) -> np.ndarray:
    return by_pillow(lambda picture: picture.filter(ImageFilter.GaussianBlur(radius)), images)


def jpeg(quality: int, images: np.ndarray) -> np.ndarray:
    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return by_pillow(change, images)


CORRUPTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "other real images": lambda images: images,
    "JPEG, quality 90": partial(jpeg, 90),
    "JPEG, quality 30": partial(jpeg, 30),
    "noise of 8 levels": partial(noisy, 8),
    "noise of 32 levels": partial(noisy, 32),
    "blur of 0.5 pixels": partial(blurred, 0.5),
    "blur of 1 pixel": partial(blurred, 1.0),
}


def extractor_of(args: Args) -> FeatureExtractor:
    mesh = devices.make_mesh(ParallelConfig(data=1), 64)
    if args.features != "random":
        return choose_extractor(args.features, "adm", None, mesh)
    weights = parameters(random_state_dict())
    extract = inception_on(mesh, weights, "adm")
    return FeatureExtractor("Inception, random weights", "", extract)


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    devices.use_every_core()
    settings = DataConfig(name=args.data, dir=args.data_dir, image_size=args.size)
    if args.data == "digits":
        settings = DataConfig(name="digits", image_size=args.size, channels=1)
    source = data.load_source(settings)
    order = np.random.default_rng(SEED).permutation(len(source))[: 2 * args.num]
    images, labels = data.first_images(data.subset(source, order), settings, len(order))
    half = len(images) // 2
    real, others, labels = images[:half], images[half:], labels[half:]

    extractor = extractor_of(args)
    features = extractor.extract(real).pool
    known = Reference(fit(features), features=features)
    names = ["frechet", "kernel", "precision", "recall"]
    sets = {name: change(others) for name, change in CORRUPTIONS.items()}
    few = others[labels < (labels.max() + 1) / 2]
    sets["half of the classes"] = np.resize(few, others.shape)
    rows = []
    for name, changed in sets.items():
        found = measure(Samples(extractor.extract(changed), known), names)
        rows.append(sample_suite.Row(name, len(changed), "", found, {}))
        print(f"{name}: " + ", ".join(f"{k} {v.value:.4g}" for k, v in found.items()), flush=True)
    print(f"\nby features of {extractor.name}, against {half} images of {args.data}\n")
    print(sample_suite.table(rows))


if __name__ == "__main__":
    main()
