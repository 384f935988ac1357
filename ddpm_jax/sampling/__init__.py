"""Reverse chains as pure functions of arrays: samplers, guidance, and the loop around them."""

from ddpm_jax.sampling.guidance import (
    class_log_prob,
    classifier_free,
    guidance_gradient,
    guided_denoiser,
    summed,
    within,
)
from ddpm_jax.sampling.loop import ChainOptions, Samples, make_sampling_loop
from ddpm_jax.sampling.sampler import Sampler
from ddpm_jax.sampling.samplers import SAMPLERS, sampler_name

__all__ = [
    "SAMPLERS",
    "ChainOptions",
    "Sampler",
    "Samples",
    "class_log_prob",
    "classifier_free",
    "guidance_gradient",
    "guided_denoiser",
    "make_sampling_loop",
    "sampler_name",
    "summed",
    "within",
]
