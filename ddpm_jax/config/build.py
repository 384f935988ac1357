"""From settings to the arrays that they describe."""

import numpy as np

from ddpm_jax.config.schema import DiffusionConfig
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import MAX_BETA, make_schedule, named_betas, rescaled, respace
from ddpm_jax.errors import UserError


def build_diffusion(config: DiffusionConfig, steps: str = "") -> Diffusion:
    """The process that the settings describe, on the chain that `steps` keeps ("": all of it).

    Raises UserError for betas out of range and for a `steps` that is no respacing.
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
    if steps:
        try:
            schedule = respace(schedule, steps)
        except ValueError as error:
            raise UserError(
                f'steps "{steps}": {error}; a number up to {config.timesteps}, counts of equal '
                "sections as in 10,15,20, or ddimN are understood"
            ) from error
    return Diffusion(schedule, config.prediction, config.variance)
