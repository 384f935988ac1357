"""The table that names the samplers."""

import re

from ddpm_jax.errors import closest
from ddpm_jax.sampling.guidance import shift_mean
from ddpm_jax.sampling.heun import churned, heun
from ddpm_jax.sampling.multistep import (
    Multistep,
    deis,
    dpmpp,
    dpmpp_sde,
    pndm,
    unipc,
    unipc_corrector,
)
from ddpm_jax.sampling.one_step import ancestral, ddim
from ddpm_jax.sampling.sampler import Sampler, SamplerStep


def _with_eta(step: SamplerStep, fixed: float) -> SamplerStep:
    return lambda diffusion, denoise, x_t, t, noise, memory, eta: step(
        diffusion, denoise, x_t, t, noise, memory, fixed
    )


def _multistep(
    solver: Multistep, about: str, *other_names: str, spacing: str = "log_snr"
) -> Sampler:
    return Sampler(
        solver.step, about, solver.init, other_names=other_names, spacing=spacing, steps="20"
    )


SAMPLERS = {
    "ddpm": Sampler(
        ancestral,
        "the chain of training, step by step: best with many steps",
        guide=shift_mean,
        other_names=("ancestral", "p_sample"),
    ),
    "ddim": Sampler(ddim, "deterministic at eta 0: good with 20 to 100 steps", takes_eta=True),
    # In x / alpha, as a function of sigma / alpha, Euler's method is DDIM at eta 0, and the step
    # that k-diffusion calls ancestral is DDIM at eta 1.
    "euler": Sampler(
        _with_eta(ddim, 0),
        "DDIM as an ODE solver of first order",
        spacing="karras",
        steps="50",
    ),
    "euler_ancestral": Sampler(
        _with_eta(ddim, 1),
        "DDIM at eta 1: noise at each step",
        spacing="karras",
        steps="50",
        other_names=("euler_a",),
    ),
    "heun": Sampler(
        heun,
        "second order, two evaluations a step: accurate from 18 steps",
        spacing="karras",
        steps="18",
        evaluations=lambda steps: 2 * steps - 1,
    ),
    "edm": Sampler(
        churned,
        "Heun with noise added at each step: best quality, with 100 steps or more",
        spacing="karras",
        steps="100",
        evaluations=lambda steps: 2 * steps - 1,
    ),
    "dpmpp_2m": _multistep(
        Multistep(dpmpp, 2),
        "second order, one evaluation a step: the first to try, with 10 to 25 steps",
        "dpm_solver",
    ),
    "dpmpp_3m": _multistep(Multistep(dpmpp, 3), "third order: for unguided chains of 15 or more"),
    "dpmpp_2m_sde": _multistep(
        Multistep(dpmpp_sde, 2), "DPM-Solver++ with noise: closer to the data with 25 or more"
    ),
    "unipc": _multistep(
        Multistep(unipc, 2, corrector=unipc_corrector),
        "second order with a corrector: for 5 to 15 steps",
    ),
    "unipc_3": _multistep(
        Multistep(unipc, 3, corrector=unipc_corrector), "third order with a corrector: as unipc"
    ),
    "deis": _multistep(
        Multistep(deis, 3, predicts="eps"), "third order in the noise: for 10 to 20 steps"
    ),
    "pndm": Sampler(
        pndm.step,
        "fourth order in equal steps of t, as early Stable Diffusion: 50 steps",
        pndm.init,
        other_names=("plms",),
        spacing="leading",
        steps="50",
        evaluations=lambda steps: steps + 1,
    ),
}


def described() -> str:
    """A line for each sampler: its name and what it is for."""
    width = max(map(len, SAMPLERS))
    return "\n".join(f"    {name:{width}}  {row.about}" for name, row in SAMPLERS.items())


def sampler_name(word: str) -> str:
    """The name in SAMPLERS of a sampler, however it is spelt: `DDIM`, `ddim`, `p-sample`.

    Raises ValueError for a word that names none, with the closest that does.
    """
    known = {
        _plain(each): name for name, row in SAMPLERS.items() for each in (name, *row.other_names)
    }
    if _plain(word) in known:
        return known[_plain(word)]
    close = closest(_plain(word), known)
    hint = f"; did you mean {known[close]}?" if close else ""
    raise ValueError(f"unknown sampler: {word}; there are: {', '.join(SAMPLERS)}{hint}")


def _plain(word: str) -> str:
    """`DPM++ 2M` -> dpmpp2m: the same for all usual spellings of a name."""
    return re.sub(r"[^a-z0-9]", "", word.lower().replace("+", "p"))
