"""The models that a command draws with: one run's, or a cascade whose later ones enlarge."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from ddpm_jax import checkpoint, config_json, parallel
from ddpm_jax.config import Config, ParallelConfig, check
from ddpm_jax.errors import UserError
from ddpm_jax.models import Network, build_network
from ddpm_jax.sampling.draw import Drawn, Guidance, choose_labels, make_drawer
from ddpm_jax.sampling.guides import Guide


class Stage(NamedTuple):
    """A run's model, weights and scales bound: `draw(seed, labels, on_progress, low_res)`."""

    draw: Callable[..., Drawn]
    step: int  # of the checkpoint


def read_settings(workdir: Path, **chosen: str | float | None) -> Config:
    """The config of a run, with fields of its `sample` section replaced by those that aren't None.

    A sampler other than the run's own takes its whole chain at eta 0, for the run's suit its own.
    Raises UserError, naming options without their section.
    """
    config = config_json.read_config(workdir / "config.json")
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
    workdir: Path, config: Config, frames: int, guide: Guide, ema: float | None = None
) -> Stage:
    """The averaged weights of a run, and of the classifier that guides it; raises UserError.

    They lie on all devices that divide a batch. `ema` chooses those of the run, as `kept_as` says.
    """
    chosen = kept_as(config, ema)
    mesh = parallel.make_mesh(ParallelConfig(), config.sample.batch_size)
    network = build_network(config)
    guidance = Guidance(interval=guide.interval)
    if guide.config is not None:
        classifier = build_network(guide.config)
        weights = load_weights(guide.folder, classifier, mesh).items["ema"]
        guidance = Guidance(classifier, weights, guide.interval)
    try:
        draw = make_drawer(config, network, mesh, frames, guidance)
    except UserError as error:  # of steps: it does not say whose
        raise UserError(f"{workdir}: {error}") from error
    loaded = load_weights(workdir, network, mesh, chosen)
    return Stage(partial(draw, loaded.items["ema"], scales=guide.scales), loaded.step)


def load_weights(
    workdir: Path,
    network: Network,
    mesh: Mesh,
    chosen: str = "ema",
    step: int | None = None,
) -> checkpoint.Loaded:
    """A run's averaged weights, item "ema", on every device of the mesh; raises UserError.

    `chosen`, by `kept_as`, says which. `step` is that of the checkpoint; None: the best or newest.
    """
    abstract = parallel.replicated_abstract(network.abstract, mesh)
    return checkpoint.load_ema(workdir / "checkpoints", abstract, step, chosen)


def kept_as(config: Config, ema: float | None) -> str:
    """What checkpoints of a run call the weights averaged at the rate `ema`; raises UserError.

    0 are the weights that are trained, which follow no average; None is the run's `ema_decay`.
    """
    train = config.train
    if ema in (None, train.ema_decay):
        return "ema"
    if ema == 0:
        return checkpoint.TRAINED
    if ema in train.extra_ema_decays:
        return checkpoint.ema_item(ema)
    rates = ", ".join(map(str, (train.ema_decay, *train.extra_ema_decays)))
    raise UserError(
        f"--ema {ema}: the run keeps weights averaged at {rates}, and 0, those that are trained"
    )


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


def check_upsampler(base: Config, guide: Guide, upsampler: Config, folder: Path) -> None:
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


def stage_classes(configs: Sequence[Config], guide: Guide) -> list[int]:
    """How many classes the labels of each stage are of; a guided first one has the classifier's."""
    first, *later = [config.model.num_classes for config in configs]
    return [first or (guide.config.model.num_classes if guide.config else 0), *later]


def stage_labels(
    spec: str, num: int, classes: Sequence[int], seed: int, given: np.ndarray | None, enlarges: bool
) -> list[np.ndarray]:
    """int32 [num] for each stage: the same for all with classes, -1 for those without.

    `spec` says them as in `choose_labels`; without it `given`, the labels of the images that the
    first stage `enlarges`; without either a first stage that enlarges nothing takes all in turn.
    Raises UserError.
    """
    if spec or not any(classes):
        labels = choose_labels(spec, num, max(classes), seed)
    elif given is not None:
        labels = given
    elif enlarges or not classes[0]:
        raise UserError(
            f"the model has {max(classes)} classes, and what it enlarges has no labels: "
            "give --labels 3,7 (in turn), all (in turn) or random"
        )
    else:
        labels = choose_labels("", num, classes[0], seed)
    return [labels if n else np.full(num, -1, np.int32) for n in classes]


def _images(side: int, channels: int) -> str:
    return f"images of {side}x{side}x{channels}"
