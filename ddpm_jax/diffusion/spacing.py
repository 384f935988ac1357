"""Which noise levels a shorter chain visits: timesteps of training, or levels between two of them.

Between two timesteps the logarithm of sigma / alpha is linear in t, and so is what the network
embeds. It is how k-diffusion and diffusers read a timestep off a noise level.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule, make_schedule
from ddpm_jax.diffusion.shapes import Float
from ddpm_jax.diffusion.tables import look_up

RHO = 7  # Karras et al. 2022, eq. 5
# sigma / alpha above which two spacings place no level. A cosine schedule goes up to 20,000, where
# x is noise alone and steps are wasted; EDM begins at 80, DPM-Solver's code at lambda = -5.1.
KARRAS_MOST, LOG_SNR_MOST = 80.0, np.exp(5.1)


class Spacing(NamedTuple):
    """`timesteps(schedule, steps)`, ascending, integers or between; and what it is, in a line."""

    timesteps: Callable[[NoiseSchedule, Any], Sequence[float] | np.ndarray]
    about: str


def log_ratio(schedule: NoiseSchedule) -> Float[np.ndarray, " T"]:
    """log(sigma_t / alpha_t), ascending: minus half the logarithm of the signal-to-noise ratio."""
    return np.log(schedule.sqrt_recipm1_alphas_cumprod)


def space_timesteps(num_timesteps: int, spec: str | Sequence[int]) -> list[int]:
    """The timesteps that a shorter chain keeps, ascending.

    `spec` is "ddimN", exactly N at an equal stride from 0, or counts "a,b,c": the chain is cut into
    that many equal sections, and each keeps its count, first and last included. Raises ValueError.
    """
    if isinstance(spec, str):
        if spec.startswith("ddim"):
            return _strided(num_timesteps, int(spec.removeprefix("ddim")))
        spec = [int(count) for count in spec.split(",")]
    size, extra = divmod(num_timesteps, len(spec))
    start, steps = 0, set()
    for i, count in enumerate(spec):
        length = size + (i < extra)
        if not 0 <= count <= length:
            raise ValueError(f"cannot divide section of {length} steps into {count}")
        stride = 1 if count <= 1 else (length - 1) / (count - 1)
        # Summed, and rounded half to even, as the original does: round(linspace) differs.
        position = 0.0
        for _ in range(count):
            steps.add(start + round(position))
            position += stride
        start += length
    return sorted(steps)


def _strided(num_timesteps: int, count: int) -> list[int]:
    for stride in range(1, num_timesteps):
        if len(range(0, num_timesteps, stride)) == count:
            return list(range(0, num_timesteps, stride))
    raise ValueError(f"cannot create exactly {num_timesteps} steps with an integer stride")


def trailing(schedule: NoiseSchedule, steps: str) -> np.ndarray:
    """N timesteps at an equal stride down from T-1."""
    total, count = schedule.num_timesteps, _count(schedule, steps)
    return np.round(np.arange(count, 0, -1) * (total / count)).astype(int)[::-1] - 1


def leading(schedule: NoiseSchedule, steps: str) -> np.ndarray:
    """N timesteps at an equal stride up from 0."""
    count = _count(schedule, steps)
    return np.arange(count) * (schedule.num_timesteps // count)


def log_snr(schedule: NoiseSchedule, steps: str) -> np.ndarray:
    """Equal steps of the logarithm of the signal-to-noise ratio (Lu et al. 2022)."""
    first, last = log_ratio(schedule)[[0, -1]]
    last = min(last, np.log(LOG_SNR_MOST))
    return _between(schedule, np.linspace(first, last, _count(schedule, steps)))


def karras(schedule: NoiseSchedule, steps: str) -> np.ndarray:
    """Equal steps of (sigma / alpha)^(1/7) (Karras et al. 2022, eq. 5)."""
    first, last = log_ratio(schedule)[[0, -1]]
    ends = np.exp(np.array([first, min(last, np.log(KARRAS_MOST))]) / RHO)
    ramp = np.linspace(ends[0], ends[1], _count(schedule, steps))
    return _between(schedule, RHO * np.log(ramp))


SPACINGS = {
    "respaced": Spacing(
        lambda schedule, steps: space_timesteps(schedule.num_timesteps, steps),
        "timesteps of training: 250, 10,15,20 (a section each) or ddim50",
    ),
    "trailing": Spacing(trailing, "timesteps at an equal stride down from the last"),
    "leading": Spacing(leading, "timesteps at an equal stride up from the first"),
    "log_snr": Spacing(log_snr, "equal steps of the logarithm of the signal-to-noise ratio"),
    "karras": Spacing(karras, "equal steps of (sigma / alpha)^(1/7): many at low noise"),
}


def respace(
    schedule: NoiseSchedule, steps: str | Sequence[int], spacing: str = "respaced"
) -> NoiseSchedule:
    """The chain over `steps` noise levels of `schedule`, placed by SPACINGS[spacing].

    Only "respaced" reads more than a number in `steps`. Raises ValueError.
    """
    row = look_up(SPACINGS, spacing, "spacing")
    return at_timesteps(schedule, np.asarray(row.timesteps(schedule, steps)))


def at_timesteps(schedule: NoiseSchedule, timesteps: np.ndarray) -> NoiseSchedule:
    """The chain over ascending `timesteps`; those between two integers are interpolated."""
    if np.issubdtype(timesteps.dtype, np.integer):
        alphas_cumprod = schedule.alphas_cumprod[timesteps]
        embedded = schedule.model_timesteps[timesteps]
    else:
        every = np.arange(schedule.num_timesteps)
        alphas_cumprod = alpha_bar_at(np.interp(timesteps, every, log_ratio(schedule)))
        embedded = np.interp(timesteps, every, schedule.model_timesteps)
    betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    nearest = schedule.timestep_map[np.round(timesteps).astype(int)]
    return make_schedule(betas, nearest, embedded)


def alpha_bar_at(ratio: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """alpha_bar at a log(sigma / alpha)."""
    return 1 / (1 + np.exp(2 * ratio))


def _between(schedule: NoiseSchedule, ratio: np.ndarray) -> np.ndarray:
    """The timesteps at these log(sigma / alpha)."""
    return np.interp(ratio, log_ratio(schedule), np.arange(schedule.num_timesteps, dtype=float))


def _count(schedule: NoiseSchedule, steps: str) -> int:
    if not steps.isdecimal() or not 2 <= int(steps) <= schedule.num_timesteps:
        raise ValueError(f"must be a number from 2 to {schedule.num_timesteps}")
    return int(steps)
