"""The simple loss, and how its timesteps are drawn."""

from typing import Literal

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.process import (
    Denoiser,
    Diffusion,
    model_timesteps,
    prediction_target,
    q_sample,
)


def sample_timesteps(
    key: jax.Array, batch_size: int, num_timesteps: int, antithetic: bool = False
) -> jax.Array:
    """t: int32 [B], uniform on 0..T-1.

    Antithetic: the second half of the batch holds T-1-t for each t of the first, so that the spread
    of t in a batch varies less; each t alone is still uniform.
    """
    if not antithetic:
        return jax.random.randint(key, (batch_size,), 0, num_timesteps)
    half = jax.random.randint(key, ((batch_size + 1) // 2,), 0, num_timesteps)
    return jnp.concatenate([half, num_timesteps - 1 - half])[:batch_size]


def simple_loss(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_start: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    kind: Literal["l2", "l1"] = "l2",
) -> jax.Array:
    """E |target - denoise(x_t, t)|^2 (DDPM, eq. 14), or the absolute value: float32 [B].

    The mean runs over all axes but the first. `denoise(x_t, model_t)` is the network.
    """
    x_t = q_sample(diffusion.schedule, x_start, t, noise)
    error = prediction_target(diffusion, x_start, x_t, t, noise) - denoise(
        x_t, model_timesteps(diffusion.schedule, t)
    )
    distance = jnp.square(error) if kind == "l2" else jnp.abs(error)
    return jnp.mean(distance.reshape(len(t), -1).astype(jnp.float32), axis=1)
