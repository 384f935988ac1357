"""What each sample of one call depends on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ddpm_jax.config import Config, data_shape
from ddpm_jax.generation.guided_chain import Weights
from ddpm_jax.generation.sample_batch import Scales
from ddpm_jax.sampling.resampling import Resampling

CHAIN_SAMPLES = 64  # images whose chains are kept: as many as a GIF shows


class Start(NamedTuple):
    """Where chains start, if not at noise: x_t of N samples, float32 [N, ...], t an index."""

    x: np.ndarray
    t: int


class Inpainting(NamedTuple):
    """The pixels that samples keep, and how the others are made to fit them."""

    known: np.ndarray  # uint8 [N, H, W, C]
    unknown: np.ndarray  # bool [N, H, W, 1], true where pixels are to be filled
    resampling: Resampling | None = None


@dataclass(frozen=True)
class Request:
    """The samples of one call, N at each of S scales: all that they depend on."""

    weights: Weights
    seed: int
    index: np.ndarray  # int32 [S * N]
    conditions: dict[str, np.ndarray]  # [S * N, ...] each
    in_chain: np.ndarray  # bool [S * N], whether the chain of a sample is kept
    start: Start | None  # [S * N, ...]


def make_request(
    config: Config,
    weights: Weights,
    seed: int,
    labels: Sequence[int] | np.ndarray,
    low_res: np.ndarray | None,
    scales: Sequence[Scales],
    start: Start | None = None,
    inpainting: Inpainting | None = None,
) -> Request:
    """Arguments as of `Generator.generate`. Raises ValueError if `low_res` does not fit."""
    num, rows, shape = len(labels), len(scales), data_shape(config)
    values = np.array(scales, np.float32).repeat(num, axis=0)
    conditions = dict(zip(Scales._fields, values.T, strict=True))
    conditions["label"] = np.tile(np.asarray(labels, np.int32), rows)
    if side := config.data.low_res_size:
        small = (side, side, shape[-1])
        if low_res is None or low_res.shape not in ((num, *small), (num * rows, *small)):
            raise ValueError(f"low_res must be {[num, *small]}")
        conditions["low_res"] = np.resize(low_res, (num * rows, *small))
    if inpainting is not None:
        conditions["known"] = np.concatenate([inpainting.known] * rows)
        conditions["unknown"] = np.concatenate([inpainting.unknown] * rows)
    if start is not None:
        start = start._replace(x=np.concatenate([start.x] * rows))
    index = np.tile(np.arange(num, dtype=np.int32), rows)
    points = len(shape) == 1
    in_chain = index < (num if points else max(1, CHAIN_SAMPLES // rows))
    return Request(weights, seed, index, conditions, in_chain, start)
