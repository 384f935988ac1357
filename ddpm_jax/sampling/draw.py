"""Samples of a run's model as arrays: labels, batches and devices around the chain."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, data_shape
from ddpm_jax.diffusion import build_diffusion
from ddpm_jax.errors import UserError
from ddpm_jax.models import Network, Params
from ddpm_jax.parallel import batch_sharding
from ddpm_jax.sampling.chain import evenly_kept, kept_by_noise, make_sampler
from ddpm_jax.sampling.steps import ancestral_step, ddim_step
from ddpm_jax.visual import to_uint8

FRAME_SAMPLES = 64  # images whose chains are kept: as many as a GIF shows


class Drawn(NamedTuple):
    """N samples, and x_t and the predicted x_0 of the first M of them at K timesteps of the chain.

    Images are uint8, points float32.
    """

    x: np.ndarray  # [N, ...]
    labels: np.ndarray  # int32 [N], -1 for none
    timesteps: list[int]  # K, of the chain of training, falling
    kept_x: np.ndarray  # [K, M, ...]
    kept_xstart: np.ndarray  # [K, M, ...]


def choose_labels(spec: str, num: int, num_classes: int, seed: int) -> np.ndarray:
    """int32 [num]: "all" classes in turn, "random" ones, or those of a list "3,7" in turn.

    Label i depends on i and the seed alone. -1 throughout for a model without classes. Raises
    UserError.
    """
    if not num_classes:
        if spec:
            raise UserError(f"--labels {spec}: this model is unconditional; leave --labels out")
        return np.full(num, -1, np.int32)
    match spec:
        case "all" | "":
            chosen = range(num_classes)
        case "random":
            rngs = (np.random.default_rng((seed, i)) for i in range(num))
            chosen = [int(rng.integers(num_classes)) for rng in rngs]
        case _:
            try:
                chosen = [int(label) for label in spec.split(",")]
            except ValueError as error:
                raise UserError(
                    f"--labels {spec}: give numbers as in 3,7, all or random"
                ) from error
    wrong = [label for label in chosen if not 0 <= label < num_classes]
    if wrong:
        raise UserError(f"--labels {spec}: {wrong[0]} is not among 0..{num_classes - 1}")
    return np.resize(np.array(chosen, np.int32), num)


def make_drawer(
    config: Config, network: Network, mesh: Mesh, frames: int = 0
) -> Callable[..., Drawn]:
    """`draw(params, seed, labels, on_progress=None, low_res=None) -> Drawn`, by `config.sample`.

    Samples 0..len(labels)-1 are drawn in batches of one size, the last one filled up, so that one
    program serves all. `frames` is how many moments of the chain come back; `on_progress(n)` hears
    that n more samples, or a fraction of one, are done. `low_res`: uint8 [N, h, w, C], what a
    super-resolution model enlarges, and given to no other. Sample i depends on the seed, i, its
    label and its `low_res` alone. Raises UserError for steps that are no respacing.
    """
    sample = config.sample
    diffusion = build_diffusion(config.diffusion, sample.steps)
    step = {
        "ddpm": partial(ancestral_step, clip=sample.clip),
        "ddim": partial(ddim_step, clip=sample.clip, eta=sample.eta),
    }[sample.sampler]
    schedule, num_steps = diffusion.schedule, diffusion.schedule.num_timesteps
    shape = data_shape(config)
    points = len(shape) == 1
    keep = kept_by_noise(schedule, frames) if points else evenly_kept(num_steps, frames)
    # A cascade draws all its stages with one seed; the noise of each must be its own, and that of
    # a small image is what noise of a larger one begins with.
    side = config.data.low_res_size
    run = make_sampler(diffusion, step, partial(_apply, network), shape, keep, stream=side)
    finished = np.asarray if points else to_uint8
    devices = mesh.devices.size
    size = -(-sample.batch_size // devices) * devices

    def draw(
        params: Params,
        seed: int,
        labels: Sequence[int],
        on_progress: Callable[[float], None] | None = None,
        low_res: np.ndarray | None = None,
    ) -> Drawn:
        condition = {"label": np.asarray(labels, np.int32)}
        if side:
            if low_res is None or low_res.shape != (len(labels), side, side, shape[-1]):
                raise ValueError(f"low_res must be [{len(labels)}, {side}, {side}, {shape[-1]}]")
            condition["low_res"] = low_res
        x, kept = [], []
        for start in range(0, len(labels), size):
            real = min(size, len(labels) - start)
            index = np.arange(start, start + size, dtype=np.int32)
            batch = {
                name: _filled(of[start : start + real], size) for name, of in condition.items()
            }
            index, batch = jax.device_put((index, batch), batch_sharding(mesh))
            told = None if on_progress is None else partial(_tell, on_progress, real / num_steps)
            out = run(params, seed, index, batch, told)
            x.append(finished(out.x)[:real])
            if points or start < FRAME_SAMPLES:
                kept.append([finished(k)[:, :real] for k in (out.kept_x, out.kept_xstart)])
        timesteps = [int(t) for t in schedule.timestep_map[keep]] if keep else []
        kept_x, kept_xstart = (np.concatenate(k, axis=1) for k in zip(*kept, strict=True))
        if not points:
            kept_x, kept_xstart = kept_x[:, :FRAME_SAMPLES], kept_xstart[:, :FRAME_SAMPLES]
        return Drawn(np.concatenate(x), condition["label"], timesteps, kept_x, kept_xstart)

    return draw


def _apply(
    network: Network, params: Params, x: jax.Array, t: jax.Array, condition: dict[str, jax.Array]
) -> jax.Array:
    if "low_res" not in condition:
        return network.apply(params, x, t, condition["label"])
    return network.apply(params, x, t, condition["label"], None, condition["low_res"])


def _filled(batch: np.ndarray, size: int) -> np.ndarray:
    """The first examples again until there are `size`; pixels become float32 in [-1, 1]."""
    batch = np.take(batch, np.arange(size), axis=0, mode="wrap")
    return batch.astype(np.float32) / 127.5 - 1 if batch.dtype == np.uint8 else batch


def _tell(on_progress: Callable[[float], None], samples_per_step: float, steps: int) -> None:
    on_progress(samples_per_step * steps)
