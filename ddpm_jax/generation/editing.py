"""Edits of images by a trained model: inversion, interpolation, inpainting, variations.

An `Editor` is a model with its weights and guidance, and labels for the images. `Run` makes one.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ddpm_jax.data.model_range import to_model_range, to_uint8
from ddpm_jax.errors import UserError
from ddpm_jax.generation.chain import OnMoment
from ddpm_jax.generation.edited_batch import EditedBatch
from ddpm_jax.generation.generator import Generator, OnProgress
from ddpm_jax.generation.options import GenerationOptions
from ddpm_jax.generation.reconstruction import MEASURES, Measure
from ddpm_jax.generation.request import Inpainting, Start
from ddpm_jax.generation.sample_batch import SampleBatch, Scales
from ddpm_jax.models import Params
from ddpm_jax.runtime import signals
from ddpm_jax.runtime.progress import Progress, progress
from ddpm_jax.sampling.editing import slerp
from ddpm_jax.sampling.resampling import Resampling
from ddpm_jax.sampling.samplers import sampler_name

METHODS = {
    "slerp": "along the arc between their DDIM noises (Dhariwal and Nichol 2021, appendix F)",
    "noised": "pixels blended at a noise level, and denoised from there (Ho et al. 2020, fig. 8)",
    "pixels": "pixels blended, without the model",
}
RESAMPLING = Resampling()


def by_ddim(options: GenerationOptions, timesteps: int) -> GenerationOptions:
    """The options, with DDIM at eta 0, which has an inverse, and up to 100 steps by default."""
    if (options.sampler is not None and sampler_name(options.sampler) != "ddim") or options.eta:
        raise UserError(f"sampler={options.sampler} eta={options.eta or 0}: must be ddim at eta 0")
    return replace(options, sampler="ddim", eta=0.0, steps=options.steps or min(100, timesteps))


def by_ancestral_sampling(options: GenerationOptions, timesteps: int) -> GenerationOptions:
    """The options, by default with up to 250 steps of DDPM's own sampler, as RePaint has it."""
    if options.sampler is not None or options.steps is not None:
        return options
    return replace(options, sampler="ddpm", steps=min(250, timesteps))


@dataclass(frozen=True)
class Editor:
    """A model that edits images: its chains, weights, scales of guidance, and one seed."""

    generator: Generator
    params: Params
    seed: int
    scales: Scales
    labels: np.ndarray  # int32 [N], of the images; -1 for none
    partial_results: Path | None = None  # as of `Generator.generate`
    progress_delay_seconds: float = 3.0
    on_moment: OnMoment | None = None  # as of `Generator.generate`
    on_progress: OnProgress | None = None  # the same, of each chain and each inversion

    def with_labels(self, labels: np.ndarray) -> "Editor":
        return replace(self, labels=labels)

    def draw(
        self,
        start: Start,
        name: str,
        inpainting: Inpainting | None = None,
        as_pixels: bool = True,
    ) -> SampleBatch:
        """Images of chains that start there; `as_pixels` as in `Generator.generate`."""
        with progress(len(self.labels), 0, "image", name, self.progress_delay_seconds) as bar:
            return self.generator.generate(
                self.params,
                self.seed,
                self.labels,
                signals.with_stop_check(self._reporting(bar)),
                scales=[self.scales],
                partial_results=self.partial_results,
                start=start,
                inpainting=inpainting,
                as_pixels=as_pixels,
                on_moment=self.on_moment,
            )

    def from_noise(self, noise: np.ndarray, name: str = "draw") -> np.ndarray:
        """Images of x_T, float32 [N, ...]."""
        return to_uint8(self.x_start_of(noise, name))

    def x_start_of(self, noise: np.ndarray, name: str = "draw") -> np.ndarray:
        """The same in [-1, 1], float32."""
        start = Start(noise, self.generator.chain_length - 1)
        return self.draw(start, name, as_pixels=False).images

    def noise_of(self, images: np.ndarray, corrections: int = 1) -> np.ndarray:
        """x_T of images by DDIM's chain inverted, float32 [N, ...]."""
        with progress(len(images), 0, "image", "invert", self.progress_delay_seconds) as bar:
            return self.generator.invert(
                self.params,
                images,
                self.labels,
                self.scales,
                signals.with_stop_check(self._reporting(bar)),
                self.partial_results,
                corrections,
            )

    def invert(
        self,
        images: np.ndarray,
        corrections: int = 1,
        measures: Mapping[str, Measure] = MEASURES,
    ) -> EditedBatch:
        """Images -> noise -> images; `arrays` has the noise and the measures of each image.

        These are of the reconstruction before it is rounded to whole pixel values.
        """
        noise = self.noise_of(images, corrections)
        x_start = self.x_start_of(noise)
        drawn, exact = to_uint8(x_start), np.clip((x_start + 1) * 127.5, 0, 255)
        difference = np.abs(images.astype(int) - drawn).astype(np.uint8)
        shown = to_uint8(noise / 3)  # three deviations from black to white
        return EditedBatch(
            np.stack([images, shown, drawn, difference]),
            ["original", "noise", "reconstruction", "difference"],
            {
                "x_T": noise,
                "labels": self.labels,
                "steps": np.array(self.generator.chain_length),
                **{name: measure(images, exact) for name, measure in measures.items()},
            },
        )

    def interpolate(
        self, images: np.ndarray, count: int = 9, method: str = "slerp", strength: float = 0.5
    ) -> EditedBatch:
        """A row from each image to the next one, of `count` images with both ends.

        Args:
          images: uint8 [N, H, W, C], N at least 2. Their labels change halfway.
          method: a name in METHODS.
          strength: for "noised", the noise level as a part of the chain, in (0, 1].
        """
        pairs, weights = len(images) - 1, np.linspace(0, 1, count)
        labels = np.concatenate([np.where(weights <= 0.5, *ends) for ends in _pairs(self.labels)])
        between = self.with_labels(labels)
        if method == "slerp":
            noise = self.noise_of(images)
            path = [[slerp(a, b, float(w)) for w in weights] for a, b in _pairs(noise)]
            drawn = between.from_noise(np.concatenate(path))
        else:
            pixels = to_model_range(images)
            path = [[(1 - w) * a + w * b for w in weights] for a, b in _pairs(pixels)]
            mixed = np.concatenate(path).astype(np.float32)
            if method == "noised":
                # The same noise for all, as a mix of two noises would be weaker than either.
                t, index = self._level(strength), np.zeros(len(mixed), np.int32)
                x_t = self.generator.noised(mixed, self.seed, t, index)
                drawn = between.draw(Start(x_t, t), "interpolate").images
            else:
                drawn = to_uint8(mixed)
        rows = drawn.reshape(pairs, count, *drawn.shape[1:])
        return EditedBatch(rows, [f"{i} to {i + 1}" for i in range(pairs)])

    def inpaint(
        self, images: np.ndarray, mask: np.ndarray, resampling: Resampling | None
    ) -> EditedBatch:
        """Fills the pixels where `mask` [N, H, W] or [H, W] is true; the others stay.

        With `resampling` as RePaint does, without by putting known pixels back alone.
        """
        unknown = np.broadcast_to(mask, images.shape[:3])[..., None]
        index, last = np.arange(len(images), dtype=np.int32), self.generator.chain_length - 1
        noise = self.generator.noised(np.zeros(images.shape, np.float32), self.seed, last, index)
        inpainting = Inpainting(images, unknown, resampling)
        drawn = self.draw(Start(noise, last), "inpaint", inpainting).images
        # To the bit: as floats known pixels may be off by 1.
        drawn = np.where(unknown, drawn, images)
        shown = np.where(unknown, np.uint8(128), images)
        return EditedBatch(np.stack([images, shown, drawn]), ["original", "known", "filled"])

    def vary(self, images: np.ndarray, strengths: Sequence[float]) -> EditedBatch:
        """SDEdit (Meng et al. 2022): a row for each strength, the part of the chain to go back."""
        for strength in strengths:  # all are checked before the first is drawn
            self._level(strength)
        rows = [images, *(self.variation(images, strength).images for strength in strengths)]
        return EditedBatch(np.stack(rows), ["original", *(f"strength {s:g}" for s in strengths)])

    def variation(self, images: np.ndarray, strength: float) -> SampleBatch:
        """A sample from each image, made as noisy as after this part of the chain."""
        t, index = self._level(strength), np.arange(len(images), dtype=np.int32)
        x_t = self.generator.noised(to_model_range(images), self.seed, t, index)
        return self.draw(Start(x_t, t), f"strength {strength:g}")

    def _reporting(self, bar: Progress) -> OnProgress:
        def report(samples: float) -> None:
            bar.update(samples)
            if self.on_progress is not None:
                self.on_progress(samples)

        return report

    def _level(self, strength: float) -> int:
        """The index of the chain after that part of it."""
        if not 0 < strength <= 1:
            raise UserError(f"strength={strength:g}: must be above 0 and at most 1")
        return max(0, round(strength * self.generator.chain_length) - 1)


def _pairs(values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(itertools.pairwise(values))
