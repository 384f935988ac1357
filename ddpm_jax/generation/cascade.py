"""The models that a command draws with: one run's, or a cascade whose later ones enlarge."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ddpm_jax.config import Config, ParallelConfig, check, serialization
from ddpm_jax.errors import UserError
from ddpm_jax.generation.generator import GuidanceModels, SampleBatch, make_drawer
from ddpm_jax.generation.guidance_options import GuidanceOptions
from ddpm_jax.generation.labels import stage_classes
from ddpm_jax.models import build_network
from ddpm_jax.runs.weights import load_weights, weights_item
from ddpm_jax.runtime import devices


class Stage(NamedTuple):
    """A run's model, weights and scales bound: `draw(seed, labels, on_progress, low_res)`."""

    draw: Callable[..., SampleBatch]
    step: int  # of the checkpoint


def read_settings(workdir: Path, **chosen: str | float | None) -> Config:
    """The config of a run, with fields of its `sample` section replaced by those that aren't None.

    A sampler other than the run's own takes its whole chain at eta 0, for the run's suit its own.
    Raises UserError, naming options without their section.
    """
    config = serialization.read_config(workdir / "config.json")
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if chosen.get("sampler", config.sample.sampler) != config.sample.sampler:
        chosen = {"steps": "", "eta": 0.0} | chosen
    config = dataclasses.replace(config, sample=dataclasses.replace(config.sample, **chosen))
    try:
        check(config)
    except UserError as error:
        raise UserError(str(error).replace("--sample.", "--")) from None
    if config.model.kind == "classifier":
        raise UserError(f"{workdir} is the run of a classifier, which draws nothing")
    return config


def load_stage(
    workdir: Path, config: Config, frames: int, guide: GuidanceOptions, ema: float | None = None
) -> Stage:
    """The averaged weights of a run, and of the classifier that guides it; raises UserError.

    They lie on all devices that divide a batch. `ema` chooses those of the run (`weights_item`).
    """
    chosen = weights_item(config, ema)
    mesh = devices.make_mesh(ParallelConfig(), config.sample.batch_size)
    network = build_network(config)
    guidance = GuidanceModels(interval=guide.interval)
    if guide.config is not None:
        classifier = build_network(guide.config)
        weights = load_weights(guide.folder, classifier, mesh).items["ema"]
        guidance = GuidanceModels(classifier, weights, guide.interval)
    try:
        draw = make_drawer(config, network, mesh, frames, guidance)
    except UserError as error:  # of steps: it does not say whose
        raise UserError(f"{workdir}: {error}") from error
    loaded = load_weights(workdir, network, mesh, chosen)
    return Stage(partial(draw, loaded.items["ema"], scales=guide.scales), loaded.step)


def check_first(workdir: Path, config: Config, low_res: Path | None) -> None:
    """Raises UserError unless a run is given images if, and only if, it enlarges some."""
    side = config.data.low_res_size
    if side and low_res is None:
        raise UserError(
            f"--workdir {workdir} enlarges images of {side}x{side}: give a folder of them or a "
            f"samples.npz as --low-res, or have them drawn: --workdir BASE --upsampler {workdir}"
        )
    if low_res is not None and not side:
        raise UserError(
            f"--low-res {low_res}: the model of {workdir} enlarges nothing; leave it out, or name "
            "a super-resolution run as --workdir"
        )


def check_upsampler(base: Config, guide: GuidanceOptions, upsampler: Config, folder: Path) -> None:
    """Raises UserError unless `upsampler`, the run in `folder`, enlarges what `base` draws."""
    data, side = upsampler.data, upsampler.data.low_res_size
    if not side:
        raise UserError(f"--upsampler {folder}: its model enlarges nothing; leave it out")
    points = base.data.name == "s_curve"
    draws = "points" if points else _images(base.data.image_size, base.data.channels)
    takes = _images(side, data.channels)
    if draws != takes:
        raise UserError(f"--upsampler {folder} enlarges {takes}; --workdir draws {draws}")
    classes = stage_classes([base, upsampler], guide)
    if all(classes) and classes[0] != classes[1]:
        whose = "the model of --workdir" if base.model.num_classes else "--classifier"
        raise UserError(
            f"--upsampler {folder} has {classes[1]} classes, but {whose} {classes[0]}; they must "
            "be the same"
        )


def _images(side: int, channels: int) -> str:
    return f"images of {side}x{side}x{channels}"
