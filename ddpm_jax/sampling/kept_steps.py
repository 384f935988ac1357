"""Which steps of a chain are kept, to show how it went."""

import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule


def evenly_kept(num_timesteps: int, count: int) -> list[int]:
    """Up to `count` indices from T-1 down to 0, evenly spread, for `keep`."""
    count = min(count, num_timesteps)
    return sorted({round(t) for t in np.linspace(num_timesteps - 1, 0, count)}, reverse=True)


def kept_by_noise(schedule: NoiseSchedule, count: int) -> list[int]:
    """As `evenly_kept`, but evenly spread over the logarithm of the noise-to-signal ratio.

    For data much smaller than the noise, whose shape appears in the last steps alone.
    """
    ratio = np.log(schedule.sqrt_recipm1_alphas_cumprod)
    count = min(count, 100 * len(schedule.betas))
    steps = np.interp(np.linspace(ratio[-1], ratio[0], count), ratio, np.arange(len(ratio)))
    return sorted({round(t) for t in steps}, reverse=True)
