"""From settings to the arrays that they describe."""

import numpy as np

from ddpm_jax.config.schema import Config, DiffusionConfig
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import MAX_BETA, make_schedule, named_betas, rescaled
from ddpm_jax.diffusion.spacing import respace
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.samplers import SAMPLERS


def build_chain(config: Config) -> Diffusion:
    """The process on the chain that is drawn with: its sampler's, where `sample` does not say."""
    sample, row = config.sample, SAMPLERS[config.sample.sampler]
    steps = sample.steps
    if not steps and row.steps:
        steps = str(min(int(row.steps), config.diffusion.timesteps))
    spacing = row.spacing if sample.spacing == "default" else sample.spacing
    return build_diffusion(config.diffusion, steps, spacing)


def build_diffusion(
    config: DiffusionConfig, steps: str = "", spacing: str = "respaced"
) -> Diffusion:
    """The process that the settings describe, on `steps` of its chain ("": all of them).

    Raises UserError for betas out of range and for `steps` that the spacing does not take.
    """
    try:
        betas = named_betas(
            config.schedule,
            config.timesteps,
            config.beta_start,
            config.beta_end,
            config.sigmoid_range,
        )
        # A beta of 1 leaves no signal, and x_0 cannot be told from noise alone: cap it as the
        # cosine schedule does. Betas above 1 are refused.
        schedule = make_schedule(np.where(betas == 1, MAX_BETA, betas))
    except ValueError as error:
        raise UserError(
            f"--diffusion.schedule {config.schedule} with --diffusion.timesteps "
            f"{config.timesteps}: {error}"
        ) from error
    if config.rescale_timesteps:
        schedule = rescaled(schedule)
    if not steps and spacing != "respaced":
        steps = str(config.timesteps)
    if not steps:
        return Diffusion(schedule, config.prediction, config.variance)
    try:
        chain = respace(schedule, steps, spacing)
    except ValueError as error:
        understood = f", placed by {spacing}"
        if spacing == "respaced":
            understood = (
                f"; a number up to {config.timesteps}, counts of equal sections as in 10,15,20, or "
                "ddimN are understood"
            )
        raise UserError(f'steps "{steps}": {error}{understood}') from error
    return Diffusion(chain, config.prediction, config.variance, training=schedule)
