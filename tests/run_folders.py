"""Run folders made by hand, in a second, whose networks depend on all that they are told."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    SampleConfig,
    serialization,
)
from ddpm_jax.models import Params, build_network
from ddpm_jax.runs.checkpoints import Checkpoints

TINY = Config(
    data=DataConfig(name="digits", image_size=4, channels=1),
    model=ModelConfig(
        channels=8,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        num_classes=3,
        norm_groups=4,
    ),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=12, prediction="x_start"),
    sample=SampleConfig(steps="4", batch_size=4),
)


class State(NamedTuple):
    ema: Params


def tiny(**changes: object) -> Config:
    """TINY with other fields: tiny(num_classes=0, image_size=8); each is of one section alone."""
    sections = {}
    for section in ("data", "model", "diffusion", "sample"):
        of = getattr(TINY, section)
        mine = {name: changes.pop(name) for name in list(changes) if hasattr(of, name)}
        sections[section] = dataclasses.replace(of, **mine)
    assert not changes
    return dataclasses.replace(TINY, **sections)


def make_run(workdir: Path, config: Config, seed: int = 0, spread: float = 0.3) -> Path:
    """A run folder as train.py leaves it: every weight of its network is random."""
    rng = np.random.default_rng(seed)
    shapes = {name: leaf.shape for name, leaf in build_network(config).abstract.items()}
    params = {
        name: spread * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()
    }
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(serialization.to_json(config))
    with Checkpoints(workdir / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, State(jax.device_put(params)), serialization.to_json(config))
    return workdir
