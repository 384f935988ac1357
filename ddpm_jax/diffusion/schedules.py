"""Noise schedules: betas, and the tables that follow from them.

The forward process is q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I), t = 0..T-1. All
tables are float64 NumPy arrays [T]; `extract` casts what a function uses to float32.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.diffusion.tables import look_up

MAX_BETA = 0.999


def linear_betas(
    num_timesteps: int, start: float = 1e-4, end: float = 0.02
) -> Float[np.ndarray, " T"]:
    """Betas from `start` to `end` in equal steps (Ho et al. 2020)."""
    return np.linspace(start, end, num_timesteps, dtype=np.float64)


def quadratic_betas(
    num_timesteps: int, start: float = 1e-4, end: float = 0.02
) -> Float[np.ndarray, " T"]:
    """Betas whose square roots are linear."""
    return np.linspace(start**0.5, end**0.5, num_timesteps, dtype=np.float64) ** 2


def constant_betas(num_timesteps: int, end: float = 0.02) -> Float[np.ndarray, " T"]:
    """Every beta the same."""
    return np.full(num_timesteps, end, dtype=np.float64)


def jsd_betas(num_timesteps: int) -> Float[np.ndarray, " T"]:
    """1/T, 1/(T-1), ..., 1 (Sohl-Dickstein et al. 2015): equal parts of the signal are lost."""
    return 1.0 / np.linspace(num_timesteps, 1, num_timesteps, dtype=np.float64)


def warmup_betas(
    num_timesteps: int, start: float = 1e-4, end: float = 0.02, fraction: float = 0.1
) -> Float[np.ndarray, " T"]:
    """Linear over the first `fraction` of the chain, then constant at `end`."""
    betas = constant_betas(num_timesteps, end)
    warmup = int(num_timesteps * fraction)
    betas[:warmup] = linear_betas(warmup, start, end)
    return betas


def sigmoid_betas(
    num_timesteps: int,
    start: float = 1e-5,
    end: float = 5e-3,
    sigmoid_range: tuple[float, float] = (-6.0, 6.0),
) -> Float[np.ndarray, " T"]:
    """A sigmoid over `sigmoid_range`, scaled into [start, end]."""
    x = np.linspace(*sigmoid_range, num_timesteps, dtype=np.float64)
    return start + (end - start) / (1 + np.exp(-x))


def alpha_bar_betas(
    alpha_bar: Callable[[float], float], num_timesteps: int, max_beta: float = MAX_BETA
) -> Float[np.ndarray, " T"]:
    """Betas that make prod(1 - beta) follow `alpha_bar`, a function of time in [0, 1].

    Each beta is at most `max_beta`, to stay clear of the singularity at time 1.
    """
    edges = [alpha_bar(i / num_timesteps) for i in range(num_timesteps + 1)]
    return np.array([min(1 - b / a, max_beta) for a, b in pairwise(edges)])


def cosine_alpha_bar(time: float) -> float:
    """Improved DDPM, eq. 17, up to a constant factor."""
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2


def scaled_linear_betas(
    num_timesteps: int, start: float | None = None, end: float | None = None
) -> Float[np.ndarray, " T"]:
    """Improved DDPM's linear schedule: 1e-4 to 0.02 at T = 1000, scaled by 1000/T.

    A chain of any length so ends in noise. A bound that is given is taken as it is.
    """
    scale = 1000 / num_timesteps
    start = scale * 1e-4 if start is None else start
    end = scale * 0.02 if end is None else end
    return linear_betas(num_timesteps, start, end)


def cosine_betas(num_timesteps: int) -> Float[np.ndarray, " T"]:
    """Improved DDPM, eq. 17."""
    return alpha_bar_betas(cosine_alpha_bar, num_timesteps)


class Schedule(NamedTuple):
    """`betas(num_timesteps, ...)` -> [T], and which of the settings below it takes besides."""

    betas: Callable[..., Float[np.ndarray, " T"]]
    settings: tuple[str, ...] = ()  # of "start", "end" and "sigmoid_range"


SCHEDULES = {
    "linear": Schedule(scaled_linear_betas, ("start", "end")),
    "cosine": Schedule(cosine_betas),
    "sigmoid": Schedule(sigmoid_betas, ("start", "end", "sigmoid_range")),
    "quadratic": Schedule(quadratic_betas, ("start", "end")),
    "constant": Schedule(constant_betas, ("end",)),
    "jsd": Schedule(jsd_betas),
    "warmup10": Schedule(partial(warmup_betas, fraction=0.1), ("start", "end")),
    "warmup50": Schedule(partial(warmup_betas, fraction=0.5), ("start", "end")),
}


def named_betas(
    name: str,
    num_timesteps: int,
    start: float | None = None,
    end: float | None = None,
    sigmoid_range: tuple[float, float] = (-6.0, 6.0),
) -> Float[np.ndarray, " T"]:
    """Betas of SCHEDULES[name]. None keeps its own first or last beta.

    A setting that the schedule does not take is ignored. Raises ValueError for an unknown name.
    """
    schedule = look_up(SCHEDULES, name, "beta schedule")
    given = {"start": start, "end": end, "sigmoid_range": sigmoid_range}
    chosen = {key: given[key] for key in schedule.settings if given[key] is not None}
    return schedule.betas(num_timesteps, **chosen)


class NoiseSchedule(NamedTuple):
    """The tables of one forward process; float64 [T] but for `timestep_map`, int64 [T].

    `timestep_map` holds the timesteps of the original chain that are kept; `model_timesteps` those
    that the network embeds. The names are those of DDPM's equations.
    """

    betas: np.ndarray
    alphas_cumprod: np.ndarray
    alphas_cumprod_prev: np.ndarray
    alphas_cumprod_next: np.ndarray
    sqrt_alphas_cumprod: np.ndarray
    sqrt_one_minus_alphas_cumprod: np.ndarray
    log_one_minus_alphas_cumprod: np.ndarray
    sqrt_recip_alphas_cumprod: np.ndarray
    sqrt_recipm1_alphas_cumprod: np.ndarray
    posterior_variance: np.ndarray
    posterior_log_variance_clipped: np.ndarray
    posterior_mean_coef1: np.ndarray
    posterior_mean_coef2: np.ndarray
    timestep_map: np.ndarray
    model_timesteps: np.ndarray

    @property
    def num_timesteps(self) -> int:
        """T, the length of this chain."""
        return len(self.betas)


def extract(
    table: np.ndarray, t: Int[Array, "*batch"], like: Array
) -> Float[Array, "*batch_and_ones"]:
    """table[t] as float32, shaped [B, 1, ...] to broadcast against `like`."""
    return jnp.asarray(table, jnp.float32)[t].reshape(t.shape + (1,) * (like.ndim - t.ndim))


def make_schedule(
    betas: np.ndarray,
    timestep_map: np.ndarray | None = None,
    model_timesteps: np.ndarray | None = None,
) -> NoiseSchedule:
    """All tables that follow from `betas` [T], each in (0, 1].

    Raises ValueError if a beta is outside, or if the chain has fewer than two steps: the variance
    of the last reverse step is taken from the one before it.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 2:
        raise ValueError(f"a chain needs at least 2 timesteps, not {betas.shape}")
    if not (betas.min() > 0 and betas.max() <= 1):
        raise ValueError(f"betas must be in (0, 1], not {betas.min():.3g}..{betas.max():.3g}")
    alphas_cumprod = np.cumprod(1 - betas)
    return _tables(
        betas,
        alphas_cumprod,
        np.append(1.0, alphas_cumprod[:-1]),
        np.append(alphas_cumprod[1:], 0.0),
        np.arange(len(betas)) if timestep_map is None else timestep_map,
        np.arange(len(betas), dtype=np.float64) if model_timesteps is None else model_timesteps,
    )


def with_noise_raised(
    schedule: NoiseSchedule, alphas_cumprod: np.ndarray, model_timesteps: np.ndarray
) -> NoiseSchedule:
    """The steps of a chain, begun at lower `alphas_cumprod` [T] and ended where they ended."""
    betas = 1 - alphas_cumprod / schedule.alphas_cumprod_prev
    previous, following = schedule.alphas_cumprod_prev, schedule.alphas_cumprod_next
    return _tables(
        betas, alphas_cumprod, previous, following, schedule.timestep_map, model_timesteps
    )


def _tables(
    betas: np.ndarray,
    alphas_cumprod: np.ndarray,
    previous: np.ndarray,
    following: np.ndarray,
    timestep_map: np.ndarray,
    model_timesteps: np.ndarray,
) -> NoiseSchedule:
    # A last alpha-bar of 0 (beta 1) gives infinities at T-1: x_0 cannot be told from x_t there.
    with np.errstate(divide="ignore"):
        posterior_variance = betas * (1 - previous) / (1 - alphas_cumprod)
        return NoiseSchedule(
            betas=betas,
            alphas_cumprod=alphas_cumprod,
            alphas_cumprod_prev=previous,
            alphas_cumprod_next=following,
            sqrt_alphas_cumprod=np.sqrt(alphas_cumprod),
            sqrt_one_minus_alphas_cumprod=np.sqrt(1 - alphas_cumprod),
            log_one_minus_alphas_cumprod=np.log(1 - alphas_cumprod),
            sqrt_recip_alphas_cumprod=np.sqrt(1 / alphas_cumprod),
            sqrt_recipm1_alphas_cumprod=np.sqrt(1 / alphas_cumprod - 1),
            posterior_variance=posterior_variance,
            # The posterior variance is 0 at t = 0, so its logarithm is taken from t = 1.
            posterior_log_variance_clipped=np.log(
                np.append(posterior_variance[1], posterior_variance[1:])
            ),
            posterior_mean_coef1=betas * np.sqrt(previous) / (1 - alphas_cumprod),
            posterior_mean_coef2=(1 - previous) * np.sqrt(1 - betas) / (1 - alphas_cumprod),
            timestep_map=timestep_map,
            model_timesteps=model_timesteps,
        )


def rescaled(schedule: NoiseSchedule) -> NoiseSchedule:
    """The same chain, whose network sees t * 1000 / T instead of t (Improved DDPM)."""
    scale = 1000.0 / schedule.num_timesteps
    return schedule._replace(model_timesteps=schedule.model_timesteps * scale)
