"""What a sampler is: one signature for all.

    step(diffusion, denoise, x_t, t, noise, memory, eta) -> (Step, memory)

`denoise(x_t, t)` is the guided denoiser (guidance.py): the one way to evaluate the network. A
sampler that uses earlier predictions keeps them in its memory, a tree of arrays that `init` makes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.shapes import Array, Float
from ddpm_jax.sampling.guidance import Guide, GuidedDenoiser, shift_score

Memory = Any


class Step(NamedTuple):
    """x_{t-1}, and the x_0 predicted on the way."""

    sample: Float[Array, "batch *shape"]
    pred_xstart: Float[Array, "batch *shape"]


SamplerStep = Callable[[Diffusion, GuidedDenoiser, Array, Array, Array, Memory, float], Any]


def no_memory(x_t: Float[Array, "batch *shape"]) -> Memory:
    """The memory of a sampler that needs none."""
    return ()


class Sampler(NamedTuple):
    """A row of SAMPLERS."""

    step: SamplerStep
    about: str  # what it is for, in a line
    init: Callable[[Array], Memory] = no_memory  # the memory before the first step, from x_T
    guide: Guide = shift_score  # how the gradient of a classifier enters
    takes_eta: bool = False  # its noise is scaled by eta
    other_names: tuple[str, ...] = ()
    spacing: str = "respaced"  # the row of SPACINGS that suits it
    steps: str = ""  # that suit it; "": all of the chain of training
    evaluations: Callable[[int], int] = lambda steps: steps  # of the network, in so many steps
