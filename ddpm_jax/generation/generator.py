"""Samples of a network as arrays: labels, batches and devices around the chain."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, build_chain, data_shape, serialization
from ddpm_jax.data.model_range import to_model_range, to_uint8
from ddpm_jax.generation.chain import Chain, Moment, OnMoment
from ddpm_jax.generation.guided_chain import (
    NO_GUIDANCE,
    Conditions,
    GuidanceModels,
    Weights,
    guided_chains,
    kinds_of,
)
from ddpm_jax.generation.labels import class_names
from ddpm_jax.generation.request import Inpainting, Request, Start, make_request
from ddpm_jax.generation.sample_batch import UNGUIDED, SampleBatch, Scales
from ddpm_jax.models import Network, Params
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.partial_results import read_partial_together, save_partial
from ddpm_jax.runtime.devices import (
    batch_sharding,
    replicated,
    replicated_abstract,
    shard_global_batch,
    to_host,
)
from ddpm_jax.runtime.processes import on_main_process
from ddpm_jax.sampling.editing import make_inversion_loop, make_noising
from ddpm_jax.sampling.kept_steps import evenly_kept, kept_by_noise
from ddpm_jax.sampling.loop import Samples, make_sampling_loop, make_sampling_program
from ddpm_jax.sampling.resampling import chain_moves
from ddpm_jax.sampling.samplers import SAMPLERS

OnProgress = Callable[[float], None]


class Generator:
    """Draws samples of a network by `config.sample`, in batches of one size.

    The last batch is filled up, so that one program draws all samples with the same kinds of
    guidance. Unguided samples are drawn by a program without guidance, and so equal those of a
    generator without any, bit for bit. Each program is compiled once.

    Args:
      config, network, mesh: of the run, and of the devices that draw.
      frames: how many moments of the chain are kept.
      guidance: what may guide; the scales of a call say how strongly.

    Raises:
      UserError: `config.sample.steps` does not suit its spacing.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        mesh: Mesh,
        frames: int = 0,
        guidance: GuidanceModels = NO_GUIDANCE,
    ) -> None:
        diffusion = build_chain(config)
        schedule, self._num_steps = diffusion.schedule, diffusion.schedule.num_timesteps
        self._config, self._mesh, self._guidance = config, mesh, guidance
        self._shape = data_shape(config)
        self._points = len(self._shape) == 1
        if self._points:
            self._keep = kept_by_noise(schedule, frames)
        else:
            self._keep = evenly_kept(self._num_steps, frames)
        keep = np.array(self._keep, int)
        self._moments = schedule.timestep_map[keep].tolist(), schedule.alphas_cumprod[keep]
        self._batch_size = -(-config.sample.batch_size // mesh.devices.size) * mesh.devices.size
        self._chain = guided_chains(config, diffusion, network, guidance, self._keep)
        self._program = cache(lambda *kinds: make_sampling_loop(*self._chain(*kinds)))
        self._inversion = cache(self._make_inversion)
        self._noised = make_noising(schedule, self._shape, config.data.low_res_size)

    def generate(
        self,
        params: Params,
        seed: int,
        labels: Sequence[int] | np.ndarray,
        on_progress: OnProgress | None = None,
        low_res: np.ndarray | None = None,
        scales: Sequence[Scales] = (UNGUIDED,),
        partial_results: Path | None = None,
        start: Start | None = None,
        inpainting: Inpainting | None = None,
        as_pixels: bool = True,
        on_moment: OnMoment | None = None,
    ) -> SampleBatch:
        """Samples 0..N-1 at each of S scales; one depends on (seed, i, label, low_res, scales).

        And on where it starts and which of its pixels are known, if these are given.

        Args:
          params, seed, labels: the weights, one number, and int32 [N] with -1 for none.
          on_progress: called as `on_progress(n)` when n more samples, or a fraction, are done.
          low_res: uint8 [N, h, w, C], what a super-resolution model enlarges, and given to no
            other; or [S * N, h, w, C], other images at each scale.
          scales: S of them.
          partial_results: a folder. Each batch becomes a file in a folder of it, named by a digest
            of all that the samples depend on, and is read from there if an earlier call was
            stopped.
          start, inpainting: for N samples.
          as_pixels: images are uint8; False: float32 in [-1, 1], as those of chains stay.
          on_moment: called as `on_moment(moment)` while chains run, at about each of the `frames`
            that are kept. What it raises ends them, and so does what `on_progress` raises.

        Raises:
          ValueError: `low_res` does not fit, or a scale needs a classifier and there is none.
        """
        if self._guidance.classifier is None and any(each.guidance for each in scales):
            raise ValueError("there is no classifier to guide by")
        weights = self._weights(params)
        request = make_request(
            self._config, weights, seed, labels, low_res, scales, start, inpainting
        )
        resampling = inpainting.resampling if inpainting else None
        if partial_results is not None:
            more = [*(resampling or ()), *([] if as_pixels else ["float32"])]
            partial_results /= self._digest(request, *more)
        dtype = np.float32 if self._points else np.uint8
        last = dtype if as_pixels else np.float32
        images = np.empty((len(request.index), *self._shape), last)
        moments = len(self._keep), request.in_chain.sum()
        kept_x, kept_xstart = np.empty((2, *moments, *self._shape), dtype)
        slots = np.cumsum(request.in_chain) - 1
        chain_kind = inpainting is not None, resampling
        for kind, places in self._batches(len(labels), scales):
            program = self._program(*kind, *chain_kind)
            path = partial_results and partial_results / f"{places[0]:08d}_{len(places)}.npz"
            found = path and read_partial_together(path, Samples._fields)
            if not found:
                steps = len(
                    chain_moves(self._num_steps if start is None else start.t + 1, resampling)
                )
                found = self._draw(
                    program, request, places, steps, as_pixels, on_progress, on_moment
                )
                if path:
                    on_main_process(partial(save_partial, path, found))
            elif on_progress:
                on_progress(len(places))
            images[places] = found["x"]
            at = slots[places[request.in_chain[places]]]
            kept_x[:, at], kept_xstart[:, at] = found["kept_x"], found["kept_xstart"]
        return SampleBatch(
            images,
            request.conditions["label"],
            scales,
            class_names(self._config),
            Chain(*self._moments, kept_x, kept_xstart) if self._keep else None,
        )

    def invert(
        self,
        params: Params,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        scales: Scales = UNGUIDED,
        on_progress: OnProgress | None = None,
        partial_results: Path | None = None,
        corrections: int = 1,
    ) -> np.ndarray:
        """The noise from which DDIM draws these images at eta 0: float32 [N, ...].

        Args:
          images: uint8 [N, H, W, C].
          params, labels, scales, on_progress, partial_results: as of `generate`.
          corrections: as of `make_inversion_loop`.
        """
        weights, start = self._weights(params), Start(images, 0)
        request = make_request(self._config, weights, 0, labels, None, [scales], start)
        if partial_results is not None:
            partial_results /= self._digest(request, "invert", corrections)
        noise = np.empty((len(images), *self._shape), np.float32)
        for kind, places in self._batches(len(images), [scales]):
            path = partial_results and partial_results / f"{places[0]:08d}_{len(places)}.npz"
            found = path and read_partial_together(path, ["noise"])
            if not found:
                _, conditions, x = self._batch(request, places)
                on_steps = on_progress and partial(
                    _scaled, on_progress, len(places) / self._num_steps
                )
                x = self._inversion(*kind, corrections)(request.weights, x, conditions, on_steps)
                found = {"noise": to_host(x)[: len(places)]}
                if path:
                    on_main_process(partial(save_partial, path, found))
            elif on_progress:
                on_progress(len(places))
            noise[places] = found["noise"]
        return noise

    def noised(self, x_start: np.ndarray, seed: int, t: int, index: np.ndarray) -> np.ndarray:
        """x_t of x_start, float32 [N, ...] in [-1, 1], with the noise of the samples `index`."""
        return np.asarray(self._noised(x_start, np.uint32(seed), index, t))

    def _make_inversion(
        self, by_classifier: bool, free: bool, corrections: int
    ) -> Callable[..., jax.Array]:
        diffusion, _, apply, _, options, gradient, _ = self._chain(by_classifier, free)
        return make_inversion_loop(diffusion, apply, options, gradient, corrections)

    def lower(self, params: dict[str, jax.ShapeDtypeStruct], scales: Scales) -> jax.stages.Lowered:
        """The chain that draws a batch at `scales`, for the mesh; nothing is computed."""
        on_all, split = replicated(self._mesh), batch_sharding(self._mesh)

        def of(*shape: int, dtype: Any = jnp.float32, place: Any = split) -> Any:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

        weights = {"model": replicated_abstract(params, self._mesh)}
        if self._guidance.classifier is not None:
            abstract = self._guidance.classifier.abstract
            weights["classifier"] = replicated_abstract(abstract, self._mesh)
        size = self._batch_size
        index = of(size, dtype=jnp.int32)
        condition = {"label": index, "cfg": of(size), "guidance": of(size)}
        if side := self._config.data.low_res_size:
            condition["low_res"] = of(size, side, side, self._shape[-1])
        sampler, x = SAMPLERS[self._config.sample.sampler], of(size, *self._shape)
        kept = of(len(self._keep), size, *self._shape, place=on_all)
        number, seed = (of(dtype=dtype, place=on_all) for dtype in (jnp.int32, jnp.uint32))
        state = (Samples(x, kept, kept), jax.eval_shape(sampler.init, x))
        program = make_sampling_program(*self._chain(*kinds_of(scales)))
        return program.lower(weights, seed, index, condition, state, number, number)

    @property
    def chain_length(self) -> int:
        """The steps of a chain."""
        return self._num_steps

    def _weights(self, params: Params) -> Weights:
        of_classifier = self._guidance.params
        return {"model": params} | ({} if of_classifier is None else {"classifier": of_classifier})

    def _batches(
        self, num: int, scales: Sequence[Scales]
    ) -> Iterator[tuple[tuple[bool, bool], np.ndarray]]:
        """Yields batches: the kinds of guidance of its samples, and their indices."""
        kinds = [kinds_of(each) for each in scales]
        for kind in sorted(set(kinds)):
            places = np.flatnonzero(np.repeat([each == kind for each in kinds], num))
            for start in range(0, len(places), self._batch_size):
                yield kind, places[start : start + self._batch_size]

    def _draw(
        self,
        program: Callable[..., Samples],
        request: Request,
        places: np.ndarray,
        steps: int,
        as_pixels: bool,
        on_progress: OnProgress | None,
        on_moment: OnMoment | None,
    ) -> dict[str, np.ndarray]:
        """Draws the samples at these indices; returns them and the kept moments of their chains."""

        def on_kept(k: int, *pair: jax.Array) -> None:
            x_t, pred_xstart = (self._to_pixels(to_host(x))[: len(places)] for x in pair)
            assert on_moment is not None
            on_moment(Moment(places, self._moments[0][k], x_t, pred_xstart))

        index, conditions, x_init = self._batch(request, places)
        on_steps = on_progress and partial(_scaled, on_progress, len(places) / steps)
        t_start = request.start.t if request.start else None
        samples = program(
            request.weights,
            request.seed,
            index,
            conditions,
            on_steps,
            x_init,
            t_start,
            on_moment and on_kept,
        )
        x, kept_x, kept_xstart = (to_host(array) for array in samples)
        kept_x, kept_xstart = self._to_pixels(kept_x), self._to_pixels(kept_xstart)
        x = self._to_pixels(x) if as_pixels else x
        few = np.flatnonzero(request.in_chain[places])
        return {"x": x[: len(places)], "kept_x": kept_x[:, few], "kept_xstart": kept_xstart[:, few]}

    def _batch(
        self, request: Request, places: np.ndarray
    ) -> tuple[jax.Array, Conditions, jax.Array | None]:
        """The samples at these indices on the mesh: their numbers, conditions and where they start.

        The batch is filled up with some of them again.
        """
        filled = np.resize(places, self._batch_size)
        conditions = {name: to_model_range(of[filled]) for name, of in request.conditions.items()}
        start = {"x": to_model_range(request.start.x[filled])} if request.start else {}
        batch = shard_global_batch((request.index[filled], conditions, start), self._mesh)
        index, conditions, start = batch
        return index, conditions, start.get("x")

    def _to_pixels(self, x: np.ndarray) -> np.ndarray:
        return x if self._points else to_uint8(x)

    def _digest(self, request: Request, *more: Any) -> str:
        """A digest of all that the samples depend on. It is the same on any number of devices."""
        sample = dataclasses.replace(self._config.sample, num=1, batch_size=1)
        config = serialization.to_json(dataclasses.replace(self._config, sample=sample))
        settings = [config, self._guidance.interval, self._keep]
        start = () if request.start is None else tuple(request.start)
        parts = [settings, request.weights, request.seed, request.conditions, *start, *more]
        return sha256(parts)[:16]


def _scaled(on_progress: OnProgress, share: float, steps: int) -> None:
    on_progress(share * steps)
