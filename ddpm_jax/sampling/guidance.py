"""Guidance: how log p(y | x_t), or a network that knows y, steers a reverse step.

By Bayes' rule the score of p(x_t | y) is that of p(x_t) plus the gradient of log p(y | x_t), which
a scale s > 1 sharpens (Dhariwal and Nichol 2021, section 4; equations and algorithms are theirs).
Any differentiable function will do for log p(y | x_t); several add up.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.predictions import posterior_mean
from ddpm_jax.diffusion.process import (
    Denoiser,
    Diffusion,
    ReverseStep,
    model_timesteps,
    p_mean_variance,
)
from ddpm_jax.diffusion.schedules import NoiseSchedule, extract
from ddpm_jax.diffusion.shapes import Array, Float, Int

# log p(y | x_t), [B], at x_t and the timestep that a network embeds.
LogProb = Callable[[Float[Array, "batch *shape"], Float[Array, " batch"]], Float[Array, " batch"]]
# A guidance scale at the timestep that a network embeds.
Scale = Callable[[Float[Array, " batch"]], Float[Array, " batch"]]
# What a network is given besides x_t and t: any tree of arrays [B, ...], such as labels.
Condition = Any
# Every sampler evaluates the network through such a function: denoise(x_t, t), t an index into the
# chain, or into the levels of a third argument, a NoiseSchedule.
GuidedDenoiser = Callable[..., ReverseStep]
# guide(diffusion, reverse, x_t, t, gradient, clip): how a gradient enters a reverse step.
Guide = Callable[[Diffusion, ReverseStep, Array, Array, Array, bool], ReverseStep]


def class_log_prob(classify: Denoiser, labels: Int[Array, " batch"]) -> LogProb:
    """log p(y | x_t) of a classifier `classify(x_t, model_t) -> logits [B, classes]`.

    A label of -1 stands for no class: its log-probability is 0.
    """

    def log_prob(x_t: Array, model_t: Array) -> Array:
        log_probs = jax.nn.log_softmax(classify(x_t, model_t))
        chosen = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
        return jnp.where(labels >= 0, chosen, 0)

    return log_prob


def guidance_gradient(log_prob: LogProb, scale: float | Float[Array, " batch"] | Scale) -> Denoiser:
    """s * grad of log p(y | x_t) with respect to x_t: a function (x_t, model_t) -> [B, ...].

    The scale s is a number, one for each sample [B], or a function of time; at times when such a
    function is 0 for all samples, `log_prob` is not evaluated.
    """

    def gradient(x_t: Array, model_t: Array) -> Array:
        s = _at(scale, model_t)

        def scaled(x_t: Array) -> Array:
            return _column(s, x_t) * jax.grad(lambda x: log_prob(x, model_t).sum())(x_t)

        if not callable(scale):
            return scaled(x_t)
        return jax.lax.cond(jnp.any(s != 0), scaled, jnp.zeros_like, x_t)

    return gradient


def summed(*gradients: Denoiser) -> Denoiser:
    """The gradient of several conditions at once, independent of each other given x_t."""

    def gradient(x_t: Array, model_t: Array) -> Array:
        first, *others = (each(x_t, model_t) for each in gradients)
        return sum(others, first)

    return gradient


def within(
    interval: tuple[float, float],
    total: float,
    scale: float | Float[Array, " batch"],
    outside: float = 0.0,
) -> Scale:
    """`scale` while t / T is in the closed `interval`, else `outside` (Kynkaanniemi et al. 2024).

    `total` is the timestep that a network would embed at t = T. For `classifier_free`, `outside`
    is 1: the scale that leaves the network as it is.
    """
    first, last = (fraction * total for fraction in interval)

    def at(model_t: Array) -> Array:
        return jnp.where((first <= model_t) & (model_t <= last), scale, outside)

    return at


def classifier_free(
    denoise: Callable[[Array, Array, Condition], Array],
    condition: Condition,
    null_condition: Condition,
    scale: float | Float[Array, " batch"] | Scale,
    channels: int,
) -> Denoiser:
    """eps(x_t) + s (eps(x_t, y) - eps(x_t)), by one evaluation of a batch twice as large.

    In terms of Ho and Salimans (2022) s is 1 + w: 1 is the conditional network, 0 the
    unconditional one. Where a scale that is a function of time is 1 for all samples, the batch is
    not doubled. Predictions of x_0 and v mix as eps does: given x_t, each is linear in the others.

    Args:
      denoise: (x_t, model_t, condition) -> [B, ...], a network trained with label dropout.
      condition, null_condition: trees of arrays [B, ...]: y, and its place where y is dropped, such
        as labels and -1 throughout.
      scale: a number, one for each sample [B], or a function of time.
      channels: of x_t; those of a learned variance behind them stay the network's.
    """

    def guided(x_t: Array, model_t: Array) -> Array:
        s = _at(scale, model_t)

        def alone(x_t: Array) -> Array:
            return denoise(x_t, model_t, condition)

        def both(x_t: Array) -> Array:
            # Each sample beside itself, so that none moves to another device.
            conditions = jax.tree.map(_interleaved, condition, null_condition)
            output = denoise(_interleaved(x_t, x_t), _interleaved(model_t, model_t), conditions)
            output = output.reshape(len(x_t), 2, *output.shape[1:])
            conditional, free = output[:, 0], output[:, 1, ..., :channels]
            mean = free + _column(s, free) * (conditional[..., :channels] - free)
            return jnp.concatenate([mean, conditional[..., channels:]], axis=-1)

        return jax.lax.cond(jnp.all(s == 1), alone, both, x_t) if callable(scale) else both(x_t)

    return guided


def shift_mean(
    diffusion: Diffusion,
    reverse: ReverseStep,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    gradient: Float[Array, "batch *shape"],
    clip: bool = False,
) -> ReverseStep:
    """Algorithm 1: the mean moves by variance * gradient; the predicted x_0 stays as it was.

    With `clip` it moves no farther than the mean for an x_0 in [-1, 1].
    """
    move = reverse.variance * gradient
    if clip:
        weight = extract(diffusion.schedule.posterior_mean_coef1, t, x_t)  # of x_0 in the mean
        x_start = reverse.pred_xstart
        move = weight * (jnp.clip(x_start + move / weight, -1, 1) - x_start)
    return reverse._replace(mean=reverse.mean + move)


def shift_score(
    diffusion: Diffusion,
    reverse: ReverseStep,
    x_t: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    gradient: Float[Array, "batch *shape"],
    clip: bool = False,
) -> ReverseStep:
    """Algorithm 2: eps - sqrt(1 - alpha_bar_t) * gradient; `clip` bounds the new x_0 to [-1, 1].

    In terms of x_0 that adds (1 - alpha_bar_t) / sqrt(alpha_bar_t) * gradient, Tweedie's formula.
    Near the end of a cosine schedule the factor is in the thousands: without `clip`, which ADM's
    code does not have, the least gradient there spoils the sample.
    """
    schedule = diffusion.schedule
    factor = (1 - schedule.alphas_cumprod) * schedule.sqrt_recip_alphas_cumprod
    pred_xstart = reverse.pred_xstart + extract(factor, t, x_t) * gradient
    if clip:
        pred_xstart = jnp.clip(pred_xstart, -1, 1)
    mean = posterior_mean(schedule, pred_xstart, x_t, t)
    return reverse._replace(mean=mean, pred_xstart=pred_xstart)


def guided_denoiser(
    diffusion: Diffusion,
    denoise: Denoiser,
    clip: bool = True,
    gradient: Denoiser | None = None,
    guide: Guide = shift_score,
    clip_guided: bool = True,
) -> GuidedDenoiser:
    """p(x_{t-1} | x_t) from a network, and from the gradient that guides it, if there is one.

    `clip` bounds the predicted x_0 to [-1, 1], before guidance and, with `clip_guided`, after it.
    ADM's code clips before it alone. A gradient of 0 changes no bit.
    """

    def guided(x_t: Array, t: Array, levels: NoiseSchedule | None = None) -> ReverseStep:
        process = diffusion if levels is None else diffusion._replace(schedule=levels)
        model_t = model_timesteps(process.schedule, t)
        reverse = p_mean_variance(process, denoise(x_t, model_t), x_t, t, clip)
        if gradient is None:
            return reverse
        return guide(process, reverse, x_t, t, gradient(x_t, model_t), clip and clip_guided)

    return guided


def _at(scale: float | Float[Array, " batch"] | Scale, model_t: Array) -> Array:
    """The scale of each sample, [B]."""
    return scale(model_t) if callable(scale) else jnp.broadcast_to(scale, model_t.shape)


def _interleaved(a: Array, b: Array) -> Array:
    """[B, ...] twice -> [2 B, ...]: a_0, b_0, a_1, b_1, ..."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _column(values: Array, like: Array) -> Array:
    """[B] -> [B, 1, ...], to broadcast against `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
