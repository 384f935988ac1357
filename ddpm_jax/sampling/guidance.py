"""Guidance: how log p(y | x_t), or a network that knows y, steers a reverse step.

By Bayes' rule the score of p(x_t | y) is that of p(x_t) plus the gradient of log p(y | x_t), which
a scale s > 1 sharpens (Dhariwal and Nichol 2021, section 4; equations and algorithms are theirs).
Any differentiable function will do for log p(y | x_t); several add up.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.process import Denoiser, Diffusion, ReverseStep, extract, q_posterior

# log p(y | x_t), [B], at x_t [B, ...] and what a network is told of t, float32 [B].
LogProb = Callable[[jax.Array, jax.Array], jax.Array]
# A guidance scale at what a network is told of t: float32 [B] -> [B].
Scale = Callable[[jax.Array], jax.Array]


def class_log_prob(classify: Denoiser, labels: jax.Array) -> LogProb:
    """log p(y | x_t) of a classifier `classify(x_t, model_t) -> logits [B, classes]`.

    labels: int32 [B]; a label of -1 asks for nothing, and its log-probability is 0.
    """

    def log_prob(x_t: jax.Array, model_t: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(classify(x_t, model_t))
        chosen = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
        return jnp.where(labels >= 0, chosen, 0)

    return log_prob


def log_gradient(log_prob: LogProb, scale: float | jax.Array | Scale) -> Denoiser:
    """s * grad of log p(y | x_t) with respect to x_t: a function (x_t, model_t) -> [B, ...].

    The scale s is a number, one for each sample [B], or a function of time.
    """

    def gradient(x_t: jax.Array, model_t: jax.Array) -> jax.Array:
        s = scale(model_t) if callable(scale) else jnp.broadcast_to(scale, model_t.shape)
        grad = jax.grad(lambda x: log_prob(x, model_t).sum())(x_t)
        return _column(s, x_t) * grad

    return gradient


def summed(*gradients: Denoiser) -> Denoiser:
    """The gradient of several conditions at once, independent of each other given x_t."""

    def gradient(x_t: jax.Array, model_t: jax.Array) -> jax.Array:
        return sum(each(x_t, model_t) for each in gradients)

    return gradient


def within(interval: tuple[float, float], last: float, scale: float | jax.Array) -> Scale:
    """`scale` while t / T is in the `interval`, else 0 (Kynkaanniemi et al. 2024).

    `last` is what the network is told at the last timestep of the chain, t / T = 1.
    """
    low, high = interval

    def at(model_t: jax.Array) -> jax.Array:
        time = model_t / last
        return jnp.where((low <= time) & (time <= high), scale, 0.0)

    return at


def classifier_free(
    denoise: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    labels: jax.Array,
    scale: float | jax.Array | Scale,
    channels: int,
) -> Denoiser:
    """eps(x_t) + s (eps(x_t, y) - eps(x_t)), by one evaluation of a batch twice as large.

    `denoise(x_t, model_t, labels)` is a network trained with label dropout, which a label of -1
    tells nothing; s = 1 is the conditional network, 0 the unconditional one (Ho and Salimans 2022,
    with s = 1 + w). `channels`: of x_t; a learned variance behind them stays the conditional's.
    """

    def guided(x_t: jax.Array, model_t: jax.Array) -> jax.Array:
        s = scale(model_t) if callable(scale) else jnp.broadcast_to(scale, model_t.shape)
        told = jnp.concatenate([labels, jnp.full_like(labels, -1)])
        output = denoise(jnp.tile(x_t, (2,) + (1,) * (x_t.ndim - 1)), jnp.tile(model_t, 2), told)
        conditional, unconditional = jnp.split(output, 2)
        mean, free = conditional[..., :channels], unconditional[..., :channels]
        mean = free + _column(s, mean) * (mean - free)
        return jnp.concatenate([mean, conditional[..., channels:]], axis=-1)

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


def _column(values: jax.Array, like: jax.Array) -> jax.Array:
    """[B] -> [B, 1, ...], to broadcast against `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
