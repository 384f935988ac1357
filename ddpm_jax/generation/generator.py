"""Samples of a run's model as arrays: labels, batches and devices around the chain."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, build_diffusion, data_shape, serialization
from ddpm_jax.data.model_range import to_uint8
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.models import Network, Params
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.partial_results import read_partial_together, save_partial
from ddpm_jax.runtime.devices import shard_global_batch, to_host
from ddpm_jax.runtime.processes import on_main_process
from ddpm_jax.sampling.guidance import (
    Scale,
    class_log_prob,
    classifier_free,
    guidance_gradient,
    within,
)
from ddpm_jax.sampling.loop import (
    ChainOptions,
    Samples,
    evenly_kept,
    kept_by_noise,
    make_sampling_loop,
)
from ddpm_jax.sampling.samplers import SAMPLERS

FRAME_SAMPLES = 64  # images whose chains are kept: as many as a GIF shows


class Scales(NamedTuple):
    """How strongly a row of samples is guided: by default not at all."""

    guidance: float = 0.0  # of the classifier's gradient
    cfg: float = 1.0  # of classifier-free guidance; 1: the network as it is


class GuidanceModels(NamedTuple):
    """What guides besides the network itself, and when."""

    classifier: Network | None = None
    params: Params | None = None  # of the classifier
    interval: tuple[float, float] = (0.0, 1.0)  # of t / T


UNGUIDED, ALONE = Scales(), GuidanceModels()


class SampleBatch(NamedTuple):
    """Samples, N at each of S scales, and the first ones of each at K timesteps of the chain, M.

    All of a scale come before those of the next: i, N + i, ... are one noise at each of them.
    Images are uint8, points float32.
    """

    x: np.ndarray  # [S * N, ...]
    labels: np.ndarray  # int32 [S * N], -1 for none
    timesteps: list[int]  # K, of the chain of training, falling
    kept_x: np.ndarray  # x_t: [K, M, ...]
    kept_xstart: np.ndarray  # the predicted x_0: [K, M, ...]
    scales: Sequence[Scales] = (UNGUIDED,)  # S


def make_drawer(
    config: Config, network: Network, mesh: Mesh, frames: int = 0, guidance: GuidanceModels = ALONE
) -> Callable[..., SampleBatch]:
    """`draw(params, seed, labels, on_progress, low_res, scales, parts) -> SampleBatch`.

    It draws samples 0..N-1 at each of S scales, by `config.sample`, in batches of one size, the
    last one filled up, so that one program serves all that are guided alike. What no scale guides
    is drawn by the program of the network alone, and so has the bits of a drawer without guidance.
    A sample depends on the seed, its index, label, low_res and scales alone.

    Args:
      config, network, mesh: of the run, and of the devices that draw.
      frames: how many moments of the chain come back.
      guidance: what may guide; `scales` say how strongly.

    Arguments of `draw`:
      params, seed, labels: the weights, one number, and int32 [N] with -1 for none.
      on_progress: hears `on_progress(n)` when n more samples, or a fraction of one, are done.
      low_res: uint8 [N, h, w, C], what a super-resolution model enlarges, and given to no other;
        or [S * N, h, w, C], images of their own at each scale.
      scales: S of them.
      parts: a folder; each batch becomes a file in a folder of it that bears a digest of all that
        the samples depend on, and is read from there if an earlier call was stopped.

    Raises:
      UserError: for steps that are no respacing.
    """
    sample = config.sample
    diffusion = build_diffusion(config.diffusion, sample.steps)
    schedule, num_steps = diffusion.schedule, diffusion.schedule.num_timesteps
    shape, side = data_shape(config), config.data.low_res_size
    points = len(shape) == 1
    keep = kept_by_noise(schedule, frames) if points else evenly_kept(num_steps, frames)
    program = _programs(config, diffusion, network, guidance, keep)
    devices = mesh.devices.size
    size = -(-sample.batch_size // devices) * devices
    dtype = np.float32 if points else np.uint8

    def finished(x: jax.Array) -> np.ndarray:
        return to_host(x) if points else to_uint8(to_host(x))

    def draw(
        params: Params,
        seed: int,
        labels: Sequence[int],
        on_progress: Callable[[float], None] | None = None,
        low_res: np.ndarray | None = None,
        scales: Sequence[Scales] = (UNGUIDED,),
        parts: Path | None = None,
    ) -> SampleBatch:
        num, rows = len(labels), len(scales)
        if guidance.classifier is None and any(each.guidance for each in scales):
            raise ValueError("there is no classifier to guide by")
        index = np.tile(np.arange(num, dtype=np.int32), rows)
        told = _conditions(labels, scales)
        if side:
            told["low_res"] = _repeated(low_res, num, rows, (side, side, shape[-1]))

        x = np.empty((len(index), *shape), dtype)
        shown = index < (num if points else max(1, FRAME_SAMPLES // rows))
        slot = np.cumsum(shown) - 1
        kept_x, kept_xstart = np.empty((2, len(keep), shown.sum(), *shape), dtype)
        weights = {"model": params, "classifier": guidance.params}
        if parts is not None:
            parts /= _digest(config, guidance.interval, keep, weights, seed, told)

        def chain(run: Callable[..., Samples], place: np.ndarray) -> dict[str, np.ndarray]:
            """The samples of these places, and the frames of those that are shown."""
            filled = np.resize(place, size)  # the first ones again
            batch = {name: _to_float(values[filled]) for name, values in told.items()}
            batch = shard_global_batch((index[filled], batch), mesh)
            tell = on_progress and _teller(on_progress, len(place) / num_steps)
            out = run(weights, seed, *batch, tell)
            few = np.flatnonzero(shown[place])
            kept = {name: finished(getattr(out, name))[:, few] for name in Samples._fields[1:]}
            return {"x": finished(out.x)[: len(place)], **kept}

        kinds = [(each.guidance != 0, each.cfg != 1) for each in scales]
        for kind in sorted(set(kinds)):
            run = program(*kind)
            places = np.flatnonzero(np.repeat([each == kind for each in kinds], num))
            for start in range(0, len(places), size):
                place = places[start : start + size]
                path = parts and parts / f"{place[0]:08d}_{len(place)}.npz"
                done = path and read_partial_together(path, Samples._fields)
                if not done:
                    done = chain(run, place)
                    if path:
                        on_main_process(partial(save_partial, path, done))
                elif on_progress:
                    on_progress(len(place))
                x[place] = done["x"]
                at = slot[place[shown[place]]]
                kept_x[:, at], kept_xstart[:, at] = done["kept_x"], done["kept_xstart"]
        timesteps = [int(t) for t in schedule.timestep_map[keep]] if keep else []
        return SampleBatch(x, told["label"], timesteps, kept_x, kept_xstart, scales)

    return draw


def _programs(
    config: Config,
    diffusion: Diffusion,
    network: Network,
    guidance: GuidanceModels,
    keep: Sequence[int],
) -> Callable[[bool, bool], Callable[..., Samples]]:
    """`program(classified, free)`: the chain under either kind of guidance, under both or none."""
    sample, shape = config.sample, data_shape(config)
    # A cascade draws all its stages with one seed; the noise of each must be its own, and that of a
    # small image is what noise of a larger one begins with.
    stream = config.data.low_res_size
    options = ChainOptions(sample.eta, sample.clip, sample.clip_guided, keep, stream)
    total = 1000 if config.diffusion.rescale_timesteps else config.diffusion.timesteps

    def timed(scale: jax.Array, outside: float) -> jax.Array | Scale:
        whole = guidance.interval == (0, 1)
        return scale if whole else within(guidance.interval, total, scale, outside)

    def apply(params: dict, x: jax.Array, t: jax.Array, told: dict) -> jax.Array:
        low_res = (None, told["low_res"]) if "low_res" in told else ()
        return network.apply(params["model"], x, t, told["label"], *low_res)

    def apply_cfg(params: dict, x: jax.Array, t: jax.Array, told: dict) -> jax.Array:
        null_condition = told | {"label": jnp.full_like(told["label"], -1)}
        scale = timed(told["cfg"], outside=1.0)
        return classifier_free(partial(apply, params), told, null_condition, scale, shape[-1])(x, t)

    def gradient(params: dict, x: jax.Array, t: jax.Array, told: dict) -> jax.Array:
        classify = partial(guidance.classifier.apply, params["classifier"])
        scale = timed(told["guidance"], outside=0.0)
        return guidance_gradient(class_log_prob(classify, told["label"]), scale)(x, t)

    @cache
    def program(classified: bool, free: bool) -> Callable[..., Samples]:
        return make_sampling_loop(
            diffusion,
            SAMPLERS[sample.sampler],
            apply_cfg if free else apply,
            shape,
            options,
            gradient if classified else None,
        )

    return program


def _conditions(labels: Sequence[int], scales: Sequence[Scales]) -> dict[str, np.ndarray]:
    """What each sample is told, [S * N]: its label and its scales."""
    values = np.array(scales, np.float32).repeat(len(labels), axis=0)
    told = dict(zip(Scales._fields, values.T, strict=True))
    return told | {"label": np.tile(np.asarray(labels, np.int32), len(scales))}


def _digest(config: Config, interval: tuple[float, float], *arrays: Any) -> str:
    """Of all that samples depend on, and the number of devices does not change."""
    sample = dataclasses.replace(config.sample, num=1, batch_size=1)
    settings = [serialization.to_json(dataclasses.replace(config, sample=sample)), interval]
    return sha256([settings, *arrays])[:16]


def _repeated(
    low_res: np.ndarray | None, num: int, rows: int, shape: tuple[int, ...]
) -> np.ndarray:
    """An image to enlarge for each sample, [S * N, h, w, C]."""
    if low_res is None or low_res.shape not in ((num, *shape), (num * rows, *shape)):
        raise ValueError(f"low_res must be {[num, *shape]}")
    return np.resize(low_res, (num * rows, *shape))


def _to_float(batch: np.ndarray) -> np.ndarray:
    """Pixels become float32 in [-1, 1]; all else stays."""
    return batch.astype(np.float32) / 127.5 - 1 if batch.dtype == np.uint8 else batch


def _teller(on_progress: Callable[[float], None], samples_per_step: float) -> Callable[[int], None]:
    return lambda steps: on_progress(samples_per_step * steps)
