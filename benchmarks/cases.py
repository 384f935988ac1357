"""What the benchmarks measure: networks of three sizes, and what is done with each.

A worker process has one peer, which makes a `Measured` of its `Work`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from ddpm_jax.config import Config, command_line, data_shape
from ddpm_jax.models import Network

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
STEPS = ("train_step", "sample_step", "guided_step")


class Case(NamedTuple):
    """A model, the classifier that guides it, and the batches that suit a CPU and a GPU."""

    model: Config
    classifier: Config
    cpu_batch: int
    gpu_batches: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """What one worker does."""

    case: str
    step: str  # one of STEPS, or "batch"
    batch_size: int
    count: int  # steps of a measurement
    dtype: str  # of computation
    device: str  # "cpu" or "gpu"
    folder: str = ""  # of the images of the pipeline


def load(name: str) -> Case:
    """The case of that name."""
    cifar, adm = _config("cifar10"), _config("imagenet64_adm")
    small = replace(cifar.model, channels=32, channel_mult=(1, 2, 2), norm_groups=8)
    # The rate is up from the first step, so that a step changes the weights; no other difference.
    cifar = replace(cifar, train=replace(cifar.train, warmup_steps=0))
    guide = _config("cifar10_classifier")
    return {
        "small32": Case(replace(cifar, model=small), guide, 16, (128,)),
        "ddpm_cifar": Case(cifar, guide, 4, (128, 512)),
        "adm64": Case(adm, _config("imagenet64_classifier"), 1, (64,)),
    }[name]


CASES = ("small32", "ddpm_cifar", "adm64")


def _config(name: str) -> Config:
    return command_line.load_config(CONFIGS / f"{name}.py")


class Measured(NamedTuple):
    """A peer at work."""

    run: Callable[[], None]  # does as many steps as `Work.count` says, and waits for them
    check: Callable[[], Mapping[str, np.ndarray]]  # the same numbers for all peers
    parameters: int = 0
    peak_bytes: Callable[[], int | None] = lambda: None  # of the accelerator's memory, by now


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The same small numbers for a parameter in every process, float32; norms' scales are near 1.

    Those that training starts with are 0 in places, where all networks agree.
    """

    def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(crc32(name.encode()))
        fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 100
        spread = rng.standard_normal(shape, np.float32) / np.sqrt(fan_in)
        return (spread + name.endswith(".scale")).astype(np.float32)

    return {name: values(name, shape) for name, shape in shapes.items()}


def network_weights(network: Network) -> dict[str, np.ndarray]:
    """Those of a network of ours."""
    return random_weights({name: leaf.shape for name, leaf in network.abstract.items()})


def examples(config: Config, batch_size: int) -> dict[str, np.ndarray]:
    """A batch: x uint8 [B, H, W, C], label int32 [B], t int32 [B], noise float32 as x."""
    rng = np.random.default_rng(0)
    shape = (batch_size, *data_shape(config))
    classes = max(config.model.num_classes, 10)
    return {
        "x": rng.integers(0, 256, shape).astype(np.uint8),
        "label": rng.integers(0, classes, batch_size).astype(np.int32),
        "t": rng.integers(0, config.diffusion.timesteps, batch_size).astype(np.int32),
        "noise": rng.standard_normal(shape, np.float32),
    }
