"""A trained run as an object, for notebooks and scripts.

    from ddpm_jax.generation import load_run

    run = load_run("runs/digits")
    batch = run.generate(16, labels=[3, 7], sampler="ddim", steps=50)
    batch.images, batch.save("threes_and_sevens")

Weights are loaded once for each run, and programs compiled once for each setting.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from ddpm_jax import data
from ddpm_jax.config import Config, ParallelConfig, check, data_shape, serialization
from ddpm_jax.data.input_images import read_input_images
from ddpm_jax.data.low_res import read_low_res
from ddpm_jax.errors import UserError
from ddpm_jax.generation import cascade
from ddpm_jax.generation.chain import OnMoment
from ddpm_jax.generation.edited_batch import EditedBatch
from ddpm_jax.generation.editing import RESAMPLING, Editor, by_ancestral_sampling, by_ddim
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.guidance_options import (
    GuidanceOptions,
    no_guidance,
    read_guidance_options,
)
from ddpm_jax.generation.guided_chain import GuidanceModels
from ddpm_jax.generation.labels import class_names
from ddpm_jax.generation.options import GenerationOptions, Labels, LowRes, Numbers, as_text
from ddpm_jax.generation.reconstruction import MEASURES, Measure
from ddpm_jax.generation.sample_batch import UNGUIDED, SampleBatch
from ddpm_jax.generation.sample_settings import sample_settings
from ddpm_jax.models import Network, build_network
from ddpm_jax.runs.checkpoints import Loaded
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.saved_steps import saved_steps
from ddpm_jax.runs.weights import load_weights, weights_item
from ddpm_jax.runtime import devices, signals
from ddpm_jax.runtime.files import expanded
from ddpm_jax.runtime.progress import progress
from ddpm_jax.sampling.resampling import Resampling

DEFAULT_NUM = 64
MIN_EDITED = 16  # images at once, where there are fewer: interpolation makes more of them
DEFAULT_OPTIONS = GenerationOptions()
Images = str | Path | Sequence[str | Path] | np.ndarray
PROGRESS_DELAY_SECONDS = 3.0  # before a bar is shown in a notebook


def load_run(
    workdir: str | Path,
    checkpoint: int | str = "best",
    ema: float | None = None,
    results: Path | None = None,
) -> "Run":
    """The run that train.py, or an import of weights, left in the folder `workdir`.

    `checkpoint`: a step, "newest", or "best": the one with the lowest held-out loss or best metric
    of its samples, or the newest if training measured neither. `ema`: the
    rate of the averaged weights, 0 for those being trained; None: the run's `train.ema_decay`.
    `results`: where what is made of the run goes; None: its own folder. Raises UserError.
    """
    folder = expanded(workdir)
    config = serialization.read_config(folder / "config.json")
    check(config)
    step, item = _step(folder, checkpoint), weights_item(config, ema)
    return Run(folder, config, step, item, folder if results is None else results)


class Run:
    """A trained run: its `workdir`, its `config`, and samples of its model by `generate`."""

    def __init__(
        self, workdir: Path, config: Config, checkpoint: int | None, item: str, results: Path
    ) -> None:
        self.workdir, self.config, self.results = workdir, config, results
        self._checkpoint, self.weights_item = checkpoint, item
        self.load_weights = cache(self._load_weights)
        self.load_classifier = cache(load_run)
        self.generator = cache(self._make_generator)

    def __repr__(self) -> str:
        return f"Run({str(self.workdir)!r})"

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes, in the order of their labels; () where the data set has none."""
        return class_names(self.config)

    @cached_property
    def network(self) -> Network:
        return build_network(self.config)

    def generate(
        self,
        num: int | None = None,
        *,
        labels: Labels = None,
        seed: int = 0,
        sampler: str | None = None,
        steps: int | str | None = None,
        spacing: str | None = None,
        eta: float | None = None,
        batch_size: int | None = None,
        classifier: str | Path | None = None,
        guidance_scale: Numbers = None,
        cfg_scale: Numbers = None,
        guidance_interval: Numbers = None,
        low_res: LowRes = None,
        frames: int = 0,
    ) -> SampleBatch:
        """Draws samples; sample i depends on (seed, i, label), its scales and low_res alone.

        Args:
          num: how many at each scale; None: 64, or as many as `low_res` has.
          labels: a class, or several in turn, by number or name; "all" in turn (the default where
            there are classes), "random", "0-4".
          seed: of the noise, and of random labels.
          sampler, steps, spacing, eta: of the chain, as `sample.sampler`, ... of a config; None:
            the run's.
          batch_size: samples drawn at once.
          classifier, guidance_scale: a run of a classifier of noisy images, and how strongly it
            guides; several scales draw a row of the same noise each.
          cfg_scale: of classifier-free guidance, as above; 1 is the model itself.
          guidance_interval: the two ends of the part of t/T that is guided.
          low_res: what a super-resolution model enlarges: uint8 [N, h, w, C], a folder, or a
            samples.npz.
          frames: how many moments of the chains are kept, as `batch.chain`.

        Raises:
          UserError: an argument does not fit the run.
        """
        options = GenerationOptions(
            num,
            labels,
            seed,
            sampler,
            steps,
            spacing,
            eta,
            batch_size,
            classifier,
            guidance_scale,
            cfg_scale,
            guidance_interval,
            low_res,
            frames=frames,
        )
        return self.plan(options).generate()

    def plan(self, options: GenerationOptions) -> "Plan":
        """Checks what is asked for, without any device or weights; raises UserError."""
        first = sample_settings(self.workdir, self.config, options)
        cascade.check_low_res(self.workdir, first, options.low_res is not None)
        guidance = read_guidance_options(self.workdir, first, options)
        frames = 0 if options.upsampler else options.frames
        models = [CascadeModel(self, first, guidance, frames)]
        if options.upsampler is not None:
            upsampler = load_run(options.upsampler)
            last = sample_settings(
                upsampler.workdir,
                upsampler.config,
                GenerationOptions(steps=options.upsampler_steps, batch_size=options.batch_size),
            )
            cascade.check_upsampler(first, guidance, last, upsampler.workdir)
            unguided = no_guidance(len(guidance.scales))
            models.append(CascadeModel(upsampler, last, unguided, options.frames))
        elif options.upsampler_steps is not None:
            raise UserError(f"upsampler_steps={options.upsampler_steps}: there is no upsampler")

        configs = [model.config for model in models]
        names = cascade.cascade_class_names(configs, guidance)
        num, low_res, given = options.num or DEFAULT_NUM, None, None
        if options.low_res is not None:
            classes = max(cascade.cascade_classes(configs, guidance))
            low_res, given = _read_low_res(options.low_res, options, first, classes)
            num = len(low_res)
        labels = cascade.cascade_labels(configs, guidance, options, num, given)
        return Plan(models, labels, names, low_res, options)

    def editor(
        self,
        images: Images,
        options: GenerationOptions = DEFAULT_OPTIONS,
        partial_results: Path | None = None,
        frames: int = 0,
    ) -> tuple[Editor, np.ndarray]:
        """What edits these images by one chain, and the images as the model takes them.

        Args:
          images: uint8 [N, H, W, C]; a path or several, of image files, folders or samples.npz; or
            "data", the first of the run's data set.
          options: the chain and what guides it, by one scale. `num`: as many of the images, None:
            all. `labels`: of the images, in turn; None: those that the images have, or none if the
            model was trained without labels too.

        Raises:
          UserError: the images can't be read, or an option does not fit the run.
        """
        config = self.config
        if config.data.name == "s_curve":
            raise UserError(f"{self.workdir} draws points, and only images are edited")
        found, labels = self._input_images(images, options.num)
        labelled = bool(as_text(options.labels))
        if not labelled and labels is not None and (config.model.num_classes or options.classifier):
            options, labelled = dataclasses.replace(options, labels=labels), True
        few = min(config.sample.batch_size, max(MIN_EDITED, len(found)))
        options = dataclasses.replace(options, batch_size=options.batch_size or few)
        plan = self.plan(dataclasses.replace(options, num=len(found), frames=frames))
        if len(plan.models) > 1 or len(plan.guidance.scales) > 1:
            raise UserError("images are edited by one model at one scale of guidance")
        (model,), (labels,), (scales,) = plan.models, plan.labels, plan.guidance.scales
        if labels[0] >= 0 and not labelled:
            if not config.diffusion.label_dropout or scales != UNGUIDED:
                raise UserError("labels=: the images have none; give their classes in turn, as 3,7")
            labels = np.full(len(found), -1, np.int32)
        params = model.weights().items["ema"]
        editor = Editor(model.generator(), params, options.seed, scales, labels, partial_results)
        return editor, found

    def invert(
        self,
        images: Images,
        options: GenerationOptions = DEFAULT_OPTIONS,
        corrections: int = 1,
        measures: Mapping[str, Measure] = MEASURES,
    ) -> EditedBatch:
        """Images as noise, and drawn again from it; see `editor` and `Editor.invert`."""
        editor, found = self.editor(images, by_ddim(options, self.config.diffusion.timesteps))
        return editor.invert(found, corrections, measures)

    def interpolate(
        self,
        first: Images,
        second: Images,
        options: GenerationOptions = DEFAULT_OPTIONS,
        count: int = 9,
        method: str = "slerp",
        strength: float = 0.5,
    ) -> EditedBatch:
        """From the first image of `first` to that of `second`; see `Editor.interpolate`."""
        if method == "slerp":
            options = by_ddim(options, self.config.diffusion.timesteps)
        ends, labels = zip(*(self._input_images(each, 1) for each in (first, second)), strict=True)
        if not as_text(options.labels) and labels[0] is not None and labels[1] is not None:
            options = dataclasses.replace(options, labels=np.concatenate(labels))
        editor, pair = self.editor(np.concatenate(ends), options)
        return editor.interpolate(pair, count, method, strength)

    def inpaint(
        self,
        images: Images,
        mask: np.ndarray,
        options: GenerationOptions = DEFAULT_OPTIONS,
        resampling: Resampling | None = RESAMPLING,
    ) -> EditedBatch:
        """Fills where `mask`, bool [H, W] or [N, H, W], is true; see `Editor.inpaint`."""
        editor, found = self.editor(
            images, by_ancestral_sampling(options, self.config.diffusion.timesteps)
        )
        return editor.inpaint(found, mask, resampling)

    def vary(
        self,
        images: Images,
        strength: float | Sequence[float],
        options: GenerationOptions = DEFAULT_OPTIONS,
    ) -> EditedBatch:
        """Images like these, nearer to them for a lower strength; see `Editor.vary`."""
        editor, found = self.editor(images, options)
        return editor.vary(found, [float(each) for each in np.ravel(strength)])

    def _input_images(
        self, images: Images, num: int | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if not isinstance(images, np.ndarray):
            paths = [images] if isinstance(images, str | Path) else images
            return read_input_images(paths, self.config.data, num)
        shape = data_shape(self.config)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            sizes = ", ".join(map(str, shape))
            raise UserError(f"images are {images.dtype} {list(images.shape)}, not [N, {sizes}]")
        return images[:num], None

    def identity(self, mesh: Mesh) -> str:
        """Tells this run and checkpoint from others. Loads the weights."""
        config, step = (self.workdir / "config.json").read_text(), self.load_weights(mesh).step
        average = "" if self.weights_item == "ema" else f" {self.weights_item}"
        return f"{sha256(config)[:16]} step {step}{average}"

    def _load_weights(self, mesh: Mesh) -> Loaded:
        return load_weights(self.workdir, self.network, mesh, self.weights_item, self._checkpoint)

    def _make_generator(
        self, config: Config, frames: int, classifier: Path | None, interval: tuple[float, float]
    ) -> Generator:
        mesh = mesh_of(config)
        guidance = GuidanceModels(interval=interval)
        if classifier is not None:
            run = self.load_classifier(classifier)
            weights = run.load_weights(mesh).items["ema"]
            guidance = GuidanceModels(run.network, weights, interval)
        return Generator(config, self.network, mesh, frames, guidance)


class CascadeModel(NamedTuple):
    """One model of a cascade, and how it draws."""

    run: Run
    config: Config
    guidance: GuidanceOptions
    frames: int

    @property
    def mesh(self) -> Mesh:
        return mesh_of(self.config)

    def generator(self) -> Generator:
        guidance = self.guidance
        return self.run.generator(self.config, self.frames, guidance.folder, guidance.interval)

    def weights(self) -> Loaded:
        return self.run.load_weights(self.mesh)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be drawn. Everything in it has been checked."""

    models: Sequence[CascadeModel]  # one, or a base model and its upsampler
    labels: Sequence[np.ndarray]  # int32 [N] for each model
    class_names: Sequence[str]
    low_res: np.ndarray | None  # images that the first model enlarges
    options: GenerationOptions

    @property
    def guidance(self) -> GuidanceOptions:
        return self.models[0].guidance

    def identities(self) -> dict[str, str]:
        """The config's digest and the checkpoint of each model, by its role.

        Loads all weights, so that a damaged file shows before the first chain.
        """
        found = {
            role: model.run.identity(model.mesh)
            for role, model in zip(("model", "upsampler"), self.models, strict=False)
        }
        if self.guidance.folder is not None:
            first = self.models[0]
            classifier = first.run.load_classifier(self.guidance.folder)
            found["classifier"] = classifier.identity(first.mesh)
        return found

    def generate(
        self,
        partial_results: Path | None = None,
        progress_delay_seconds: float = PROGRESS_DELAY_SECONDS,
        on_moment: OnMoment | None = None,
    ) -> SampleBatch:
        """Draws; `partial_results` and `on_moment` as in `Generator.generate`."""
        low_res, batches = self.low_res, list[SampleBatch]()
        for model, labels in zip(self.models, self.labels, strict=True):
            weights, scales = model.weights(), model.guidance.scales
            total, chain = len(labels) * len(scales), model.config.sample
            name = f"step {weights.step}, {chain.sampler} {chain.steps}".rstrip()
            with progress(total, 0, "sample", name, progress_delay_seconds) as bar:
                batch = model.generator().generate(
                    weights.items["ema"],
                    self.options.seed,
                    labels,
                    signals.with_stop_check(bar.update),
                    low_res,
                    scales,
                    partial_results,
                    on_moment=on_moment,
                )
            if low_res is not None:
                tiled = np.resize(low_res, (total, *low_res.shape[1:]))
                batch = dataclasses.replace(batch, low_res=tiled)
            low_res = batch.images
            batches.append(batch)
        *base, last = batches
        points = data.load_source(model.config.data).points if last.images.ndim == 2 else None
        return dataclasses.replace(
            last,
            scales=self.guidance.scales,
            class_names=self.class_names,
            base=base[0] if base else None,
            reference=points,
        )


def _step(folder: Path, checkpoint: int | str) -> int | None:
    """The step of a checkpoint; None for the best. Raises UserError."""
    match str(checkpoint):
        case "best":
            return None
        case "newest":
            return max(saved_steps(folder / "checkpoints"), default=None)
        case text if text.isdecimal():
            return int(text)
    raise UserError(f"checkpoint={checkpoint}: must be a step, best or newest")


def mesh_of(config: Config) -> Mesh:
    """All devices that divide a batch of samples."""
    return devices.make_mesh(ParallelConfig(), config.sample.batch_size)


def _read_low_res(
    images: str | Path | np.ndarray, options: GenerationOptions, config: Config, num_classes: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images to enlarge, and their labels if they have any and `options` gives none."""
    num = options.num
    if not isinstance(images, np.ndarray):
        num_classes = 0 if as_text(options.labels) else num_classes
        return read_low_res(Path(images), config.data, num, num_classes)
    side, channels = config.data.low_res_size, config.data.channels
    if images.dtype != np.uint8 or images.shape[1:] != (side, side, channels):
        raise UserError(
            f"low_res is {images.dtype} {list(images.shape)}; it must be uint8 "
            f"[N, {side}, {side}, {channels}]"
        )
    if num is not None and num > len(images):
        raise UserError(f"num={num}: low_res has {len(images)} images")
    return images[:num], None
