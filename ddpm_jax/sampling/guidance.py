"""How a gradient of log p(y | x_t) changes a reverse step (Dhariwal and Nichol 2021, section 4).

`gradient`: float [B, ...], the gradient with respect to x_t, times the guidance scale.
"""

import jax

from ddpm_jax.diffusion.process import (
    Diffusion,
    ReverseStep,
    eps_from_xstart,
    extract,
    q_posterior,
    xstart_from_eps,
)


def shift_mean(reverse: ReverseStep, gradient: jax.Array) -> ReverseStep:
    """Algorithm 1: the mean moves by variance * gradient; the predicted x_0 stays as it was."""
    return reverse._replace(mean=reverse.mean + reverse.variance * gradient)


def shift_score(
    diffusion: Diffusion, reverse: ReverseStep, x_t: jax.Array, t: jax.Array, gradient: jax.Array
) -> ReverseStep:
    """Algorithm 2: eps - sqrt(1 - alpha_bar_t) * gradient; the new x_0 is not clipped again."""
    schedule = diffusion.schedule
    eps = eps_from_xstart(schedule, x_t, t, reverse.pred_xstart)
    eps = eps - extract(schedule.sqrt_one_minus_alphas_cumprod, t, x_t) * gradient
    pred_xstart = xstart_from_eps(schedule, x_t, t, eps)
    mean, _, _ = q_posterior(schedule, pred_xstart, x_t, t)
    return reverse._replace(mean=mean, pred_xstart=pred_xstart)
