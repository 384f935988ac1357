"""What the reference runs were made with: diffusions, a network by formula, a linear classifier."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.process import Denoiser, Diffusion
from ddpm_jax.diffusion.schedules import NoiseSchedule, make_schedule, named_betas, rescaled
from ddpm_jax.diffusion.spacing import respace
from tests.parity.golden import GoldenFile

PREDICTION = {"PREVIOUS_X": "x_prev", "START_X": "x_start", "EPSILON": "eps"}
VARIANCE = {
    "LEARNED": "learned",
    "FIXED_SMALL": "fixed_small",
    "FIXED_LARGE": "fixed_large",
    "LEARNED_RANGE": "learned_range",
}


def schedule_of(case: dict) -> NoiseSchedule:
    """The schedule of a `meta` entry: {"schedule", "T"}, perhaps "respacing" and "rescale"."""
    respacing = case.get("respacing") or None
    spec = tuple(respacing) if isinstance(respacing, list) else respacing
    return _schedule(case["schedule"], case["T"], spec, case.get("rescale", False))


@cache
def _schedule(name: str, num_timesteps: int, spec: str | tuple | None, scale: bool):
    schedule = make_schedule(named_betas(name, num_timesteps))
    schedule = rescaled(schedule) if scale else schedule
    return schedule if spec is None else respace(schedule, spec)


def diffusion_of(case: dict, mean: str, var: str) -> Diffusion:
    """The diffusion of a `meta` entry, for the original's names of the mean and variance types."""
    return Diffusion(schedule_of(case), PREDICTION[mean], VARIANCE[var])


def fake_model(file: GoldenFile, var: str) -> Denoiser:
    """The formula that stood for the network (`fake_model_doc` in the file's meta), in NHWC."""
    c = file.meta["fake_model"]
    offset = {"LEARNED": c["v0_learned"], "LEARNED_RANGE": c["v0_range"]}.get(var)

    def denoise(x: jax.Array, model_t: jax.Array) -> jax.Array:
        shift = model_t[:, None, None, None] / 1000
        mean = c["a"] * x + c["b"] * jnp.sin(3 * x + shift)
        if offset is None:
            return mean
        return jnp.concatenate([mean, offset + c["v1"] * jnp.cos(2 * x + shift)], axis=-1)

    return denoise


def classifier_gradient(file: GoldenFile) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The gradient of the linear classifier (`cond_doc`) at an NHWC x, times `cond_scale`."""
    weight, bias, labels = (file.array(f"in/{name}") for name in ("cls_W", "cls_b", "y"))

    def log_prob(x: jax.Array, t: jax.Array) -> jax.Array:
        flat = jnp.moveaxis(x, -1, -3).reshape(len(x), -1)
        logits = flat @ weight.T / (1 + t[:, None] / 500) + bias
        return jax.nn.log_softmax(logits)[jnp.arange(len(x)), labels].sum()

    return lambda x, t: jax.grad(log_prob)(x, t) * file.meta["cond_scale"]
