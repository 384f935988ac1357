"""The samplers, one signature for all, and the table that names them.

    step(diffusion, denoise, x_t, t, noise, memory, eta) -> (Step, memory)

`denoise(x_t, t)` is the guided denoiser (guidance.py): the one way to evaluate the network. A
sampler that uses earlier predictions keeps them in its memory, a tree of arrays that `init` makes.
"""

import difflib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.predictions import eps_from_xstart
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import extract
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.sampling.guidance import Guide, GuidedDenoiser, shift_mean, shift_score

Memory = Any


class Step(NamedTuple):
    """x_{t-1}, and the x_0 predicted on the way."""

    sample: Float[Array, "batch *shape"]
    pred_xstart: Float[Array, "batch *shape"]


def no_memory(x_t: Float[Array, "batch *shape"]) -> Memory:
    """The memory of a sampler that needs none."""
    return ()


class Sampler(NamedTuple):
    """A row of SAMPLERS."""

    step: Callable[[Diffusion, GuidedDenoiser, Array, Array, Array, Memory, float], Any]
    about: str  # what it is for, in a line
    init: Callable[[Array], Memory] = no_memory  # the memory before the first step, from x_T
    guide: Guide = shift_score  # how the gradient of a classifier enters
    takes_eta: bool = False  # its noise is scaled by eta
    other_names: tuple[str, ...] = ()


def ancestral(
    diffusion: Diffusion,
    denoise: GuidedDenoiser,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
    memory: Memory,
    eta: float,
) -> tuple[Step, Memory]:
    """x_{t-1} ~ p(x_{t-1} | x_t) (DDPM, algorithm 2), whatever eta; without noise at t = 0."""
    reverse = denoise(x_t, t)
    sample = reverse.mean + jnp.exp(0.5 * reverse.log_variance) * _but_at_0(noise, t)
    return Step(sample, reverse.pred_xstart), memory


def ddim(
    diffusion: Diffusion,
    denoise: GuidedDenoiser,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
    memory: Memory,
    eta: float,
) -> tuple[Step, Memory]:
    """DDIM (Song et al. 2021), eq. 12: deterministic at eta 0, ancestral variance at eta 1."""
    schedule = diffusion.schedule
    alpha_bar, previous = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    # Eq. 16. The tables stay in float64 until they are read: 1 - previous - sigma^2 nearly cancels.
    sigma = eta * np.sqrt((1 - previous) / (1 - alpha_bar)) * np.sqrt(1 - alpha_bar / previous)
    direction = np.sqrt(np.maximum(1 - previous - sigma**2, 0))

    pred_xstart = denoise(x_t, t).pred_xstart
    eps = eps_from_xstart(schedule, x_t, t, pred_xstart)
    mean = extract(np.sqrt(previous), t, x_t) * pred_xstart + extract(direction, t, x_t) * eps
    sample = mean + extract(sigma, t, x_t) * _but_at_0(noise, t)
    return Step(sample, pred_xstart), memory


def reverse_ddim(
    diffusion: Diffusion,
    denoise: GuidedDenoiser,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
) -> Step:
    """x_{t+1} from x_t along DDIM's ODE at eta 0: encodes an image as noise."""
    schedule = diffusion.schedule
    pred_xstart = denoise(x_t, t).pred_xstart
    eps = eps_from_xstart(schedule, x_t, t, pred_xstart)
    following = schedule.alphas_cumprod_next
    sample = (
        extract(np.sqrt(following), t, x_t) * pred_xstart
        + extract(np.sqrt(1 - following), t, x_t) * eps
    )
    return Step(sample, pred_xstart)


SAMPLERS = {
    "ddpm": Sampler(
        ancestral,
        "the chain of training, step by step: best with many steps",
        guide=shift_mean,
        other_names=("ancestral", "p_sample"),
    ),
    "ddim": Sampler(ddim, "deterministic at eta 0: good with 20 to 100 steps", takes_eta=True),
}


def sampler_name(word: str) -> str:
    """The name in SAMPLERS of a sampler, however it is spelt: `DDIM`, `ddim`, `p-sample`.

    Raises ValueError for a word that names none, with the closest that does.
    """
    known = {
        _plain(each): name for name, row in SAMPLERS.items() for each in (name, *row.other_names)
    }
    if _plain(word) in known:
        return known[_plain(word)]
    close = difflib.get_close_matches(_plain(word), known, n=1)
    hint = f"; did you mean {known[close[0]]}?" if close else ""
    raise ValueError(f"unknown sampler: {word}; there are: {', '.join(SAMPLERS)}{hint}")


def _plain(word: str) -> str:
    """`DPM++ 2M` -> dpmpp2m: the same for all usual spellings of a name."""
    return re.sub(r"[^a-z0-9]", "", word.lower().replace("+", "p"))


def _but_at_0(noise: Array, t: Array) -> Array:
    """The noise, and 0 for the examples whose t is 0."""
    return jnp.where(t.reshape(t.shape + (1,) * (noise.ndim - t.ndim)) > 0, noise, 0)
