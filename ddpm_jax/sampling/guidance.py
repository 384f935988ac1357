"""Guidance: how log p(y | x_t), or a network that knows y, steers a reverse step.

By Bayes' rule the score of p(x_t | y) is that of p(x_t) plus the gradient of log p(y | x_t), which
a scale s > 1 sharpens (Dhariwal and Nichol 2021, section 4; equations and algorithms are theirs).
Any differentiable function will do for log p(y | x_t); several add up.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.process import Denoiser, Diffusion, ReverseStep, extract, q_posterior

# log p(y | x_t), [B], at x_t [B, ...] and what a network is told of t, float32 [B].
LogProb = Callable[[jax.Array, jax.Array], jax.Array]
# A guidance scale at what a network is told of t: float32 [B] -> [B].
Scale = Callable[[jax.Array], jax.Array]
# What a network is told besides x_t and t: any tree of arrays [B, ...], such as labels.
Condition = Any


def class_log_prob(classify: Denoiser, labels: jax.Array) -> LogProb:
    """log p(y | x_t) of a classifier `classify(x_t, model_t) -> logits [B, classes]`.

    labels: int32 [B]; a label of -1 asks for nothing, and its log-probability is 0.
    """

    def log_prob(x_t: jax.Array, model_t: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(classify(x_t, model_t))
        chosen = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
        return jnp.where(labels >= 0, chosen, 0)

    return log_prob


def guidance_gradient(log_prob: LogProb, scale: float | jax.Array | Scale) -> Denoiser:
    """s * grad of log p(y | x_t) with respect to x_t: a function (x_t, model_t) -> [B, ...].

    The scale s is a number, one for each sample [B], or a function of time; at times when such a
    function is 0 for all samples, `log_prob` is not evaluated.
    """

    def gradient(x_t: jax.Array, model_t: jax.Array) -> jax.Array:
        s = _at(scale, model_t)

        def scaled(x_t: jax.Array) -> jax.Array:
            return _column(s, x_t) * jax.grad(lambda x: log_prob(x, model_t).sum())(x_t)

        if not callable(scale):
            return scaled(x_t)
        return jax.lax.cond(jnp.any(s != 0), scaled, jnp.zeros_like, x_t)

    return gradient


def summed(*gradients: Denoiser) -> Denoiser:
    """The gradient of several conditions at once, independent of each other given x_t."""

    def gradient(x_t: jax.Array, model_t: jax.Array) -> jax.Array:
        return sum(each(x_t, model_t) for each in gradients)

    return gradient


def within(
    interval: tuple[float, float], total: float, scale: float | jax.Array, outside: float = 0.0
) -> Scale:
    """`scale` while t / T is in the closed `interval`, else `outside` (Kynkaanniemi et al. 2024).

    `total` is what a network would be told at t = T. For `classifier_free` the scale that leaves
    the network as it is, for `outside`, is 1.
    """
    first, last = (fraction * total for fraction in interval)

    def at(model_t: jax.Array) -> jax.Array:
        return jnp.where((first <= model_t) & (model_t <= last), scale, outside)

    return at


def classifier_free(
    denoise: Callable[[jax.Array, jax.Array, Condition], jax.Array],
    condition: Condition,
    null_condition: Condition,
    scale: float | jax.Array | Scale,
    channels: int,
) -> Denoiser:
    """eps(x_t) + s (eps(x_t, y) - eps(x_t)), by one evaluation of a batch twice as large.

    In terms of Ho and Salimans (2022) s is 1 + w: 1 is the network as it is, 0 the network told
    nothing. At times when a scale that is a function of time is 1 for all samples, the batch is
    not doubled. Predictions of x_0 and v mix as eps does: given x_t, each is linear in the others.

    Args:
      denoise: (x_t, model_t, condition) -> [B, ...], a network trained with label dropout.
      condition, null_condition: trees of arrays [B, ...]: y, and its place where y is dropped, such
        as labels and -1 throughout.
      scale: a number, one for each sample [B], or a function of time.
      channels: of x_t; those of a learned variance behind them stay the network's.
    """

    def guided(x_t: jax.Array, model_t: jax.Array) -> jax.Array:
        s = _at(scale, model_t)

        def alone(x_t: jax.Array) -> jax.Array:
            return denoise(x_t, model_t, condition)

        def both(x_t: jax.Array) -> jax.Array:
            # Each sample beside itself, so that none moves to another device.
            told = jax.tree.map(_interleaved, condition, null_condition)
            output = denoise(_interleaved(x_t, x_t), _interleaved(model_t, model_t), told)
            output = output.reshape(len(x_t), 2, *output.shape[1:])
            conditional, free = output[:, 0], output[:, 1, ..., :channels]
            mean = free + _column(s, free) * (conditional[..., :channels] - free)
            return jnp.concatenate([mean, conditional[..., channels:]], axis=-1)

        return jax.lax.cond(jnp.all(s == 1), alone, both, x_t) if callable(scale) else both(x_t)

    return guided


def shift_mean(reverse: ReverseStep, gradient: jax.Array) -> ReverseStep:
    """Algorithm 1: the mean moves by variance * gradient; the predicted x_0 stays as it was."""
    return reverse._replace(mean=reverse.mean + reverse.variance * gradient)


def shift_score(
    diffusion: Diffusion, reverse: ReverseStep, x_t: jax.Array, t: jax.Array, gradient: jax.Array
) -> ReverseStep:
    """Algorithm 2: eps - sqrt(1 - alpha_bar_t) * gradient; the new x_0 is not clipped again.

    In terms of x_0 that adds (1 - alpha_bar_t) / sqrt(alpha_bar_t) * gradient, Tweedie's formula,
    and a gradient of 0 changes no bit.
    """
    schedule = diffusion.schedule
    move = (1 - schedule.alphas_cumprod) * schedule.sqrt_recip_alphas_cumprod
    pred_xstart = reverse.pred_xstart + extract(move, t, x_t) * gradient
    mean, _, _ = q_posterior(schedule, pred_xstart, x_t, t)
    return reverse._replace(mean=mean, pred_xstart=pred_xstart)


def _at(scale: float | jax.Array | Scale, model_t: jax.Array) -> jax.Array:
    """The scale of each sample, [B]."""
    return scale(model_t) if callable(scale) else jnp.broadcast_to(scale, model_t.shape)


def _interleaved(a: jax.Array, b: jax.Array) -> jax.Array:
    """[B, ...] twice -> [2 B, ...]: a_0, b_0, a_1, b_1, ..."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _column(values: jax.Array, like: jax.Array) -> jax.Array:
    """[B] -> [B, 1, ...], to broadcast against `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
