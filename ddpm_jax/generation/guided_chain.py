"""The chain of a config under each kind of guidance, for `make_sampling_loop`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.config import Config, data_shape
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.generation.sample_batch import Scales
from ddpm_jax.models import Network, Params
from ddpm_jax.sampling.editing import known_pixels
from ddpm_jax.sampling.guidance import (
    Scale,
    class_log_prob,
    classifier_free,
    guidance_gradient,
    within,
)
from ddpm_jax.sampling.loop import ChainOptions
from ddpm_jax.sampling.resampling import Resampling
from ddpm_jax.sampling.samplers import SAMPLERS

Weights = dict[str, Params]  # of the "model" and the "classifier"
Conditions = dict[str, jax.Array]  # "label", "cfg", "guidance", perhaps "low_res": [B, ...] each


class GuidanceModels(NamedTuple):
    """What guides besides the network itself, and when."""

    classifier: Network | None = None
    params: Params | None = None  # of the classifier
    interval: tuple[float, float] = (0.0, 1.0)  # of t / T


NO_GUIDANCE = GuidanceModels()


def kinds_of(scales: Scales) -> tuple[bool, bool]:
    """Whether a classifier guides at these scales, and whether the model itself does."""
    return scales.guidance != 0, scales.cfg != 1


def guided_chains(
    config: Config,
    diffusion: Diffusion,
    network: Network,
    guidance: GuidanceModels,
    keep: Sequence[int],
) -> Callable[..., tuple[Any, ...]]:
    """`chain(by_classifier, classifier_free, inpaints, resampling)`: for `make_sampling_loop`.

    It is the chain under both kinds of guidance or none, that keeps known pixels or not.
    """
    sample, shape = config.sample, data_shape(config)
    # All models of a cascade draw with one seed. Without a stream of its own, the noise of a large
    # image would begin with that of the small one.
    stream = config.data.low_res_size
    options = ChainOptions(sample.eta, sample.clip, sample.clip_guided, keep, stream)
    total = 1000 if config.diffusion.rescale_timesteps else config.diffusion.timesteps

    def timed(scale: jax.Array, outside: float) -> jax.Array | Scale:
        whole = guidance.interval == (0, 1)
        return scale if whole else within(guidance.interval, total, scale, outside)

    def apply(params: Weights, x: jax.Array, t: jax.Array, condition: Conditions) -> jax.Array:
        low_res = (None, condition["low_res"]) if "low_res" in condition else ()
        return network.apply(params["model"], x, t, condition["label"], *low_res)

    def apply_cfg(params: Weights, x: jax.Array, t: jax.Array, condition: Conditions) -> jax.Array:
        null_condition = condition | {"label": jnp.full_like(condition["label"], -1)}
        scale = timed(condition["cfg"], outside=1.0)
        denoise = partial(apply, params)
        return classifier_free(denoise, condition, null_condition, scale, shape[-1])(x, t)

    def gradient(params: Weights, x: jax.Array, t: jax.Array, condition: Conditions) -> jax.Array:
        assert guidance.classifier is not None  # else `generate` takes no scale of one
        classify = partial(guidance.classifier.apply, params["classifier"])
        scale = timed(condition["guidance"], outside=0.0)
        return guidance_gradient(class_log_prob(classify, condition["label"]), scale)(x, t)

    def chain(
        by_classifier: bool,
        free: bool,
        inpaints: bool = False,
        resampling: Resampling | None = None,
    ) -> tuple[Any, ...]:
        return (
            diffusion,
            SAMPLERS[sample.sampler],
            apply_cfg if free else apply,
            shape,
            options._replace(resampling=resampling),
            gradient if by_classifier else None,
            known_pixels(diffusion.schedule) if inpaints else None,
        )

    return chain
