"""What training minimises, for each example: L_simple, L_vlb, and their sum L_hybrid."""

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.likelihood import mean_flat, variational_bound_term
from ddpm_jax.diffusion.process import (
    Denoiser,
    Diffusion,
    extract,
    model_timesteps,
    prediction_target,
    q_sample,
    split_output,
)

if TYPE_CHECKING:
    from ddpm_jax.config import DiffusionConfig

Loss = Literal["mse", "l1", "rescaled_mse", "kl", "rescaled_kl"]


class Losses(NamedTuple):
    """float32 [B] each; None where the loss has no such term.

    Of "mse" and "rescaled_mse", loss = mse + vb, both with their weights.
    """

    loss: jax.Array
    mse: jax.Array | None
    vb: jax.Array | None


def training_losses(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_start: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    loss: Loss = "mse",
    weights: np.ndarray | None = None,
) -> Losses:
    """The loss of each example; `denoise` is evaluated once, at x_t = q_sample(x_start, t, noise).

    x_start, noise: float [B, ...]; t: int32 [B]; weights: [T], of L_simple (`timestep_weights`).

    "mse", "l1": L_simple, the mean square or absolute value of the error of what is predicted.
    With a learned variance, plus the term of L_vlb at t, in bits per dimension, which trains the
    variance and leaves the mean alone.
    "rescaled_mse": as "mse", with T/1000 of that term (Improved DDPM, eq. 16; L_vlb is T of them).
    "kl", "rescaled_kl": that term, or T times it, trains mean and variance.
    Raises ValueError for another.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"unknown loss: {loss}")
    schedule = diffusion.schedule
    x_t = q_sample(schedule, x_start, t, noise)
    output = denoise(x_t, model_timesteps(schedule, t)).astype(jnp.float32)

    # L_vlb (DDPM, eq. 5): one term of it, its x_0 not clipped.
    num_timesteps = schedule.num_timesteps
    scale = {"rescaled_mse": num_timesteps / 1000, "rescaled_kl": num_timesteps}.get(loss, 1)

    def vlb(output: jax.Array) -> jax.Array:
        bits, _ = variational_bound_term(diffusion, output, x_start, x_t, t, clip=False)
        return scale * bits

    if loss in ("kl", "rescaled_kl"):
        return Losses(vlb(output), None, None)

    # L_simple (DDPM, eq. 14), for whichever prediction.
    prediction, variance = split_output(diffusion, output)
    error = prediction_target(diffusion, x_start, x_t, t, noise) - prediction
    simple = mean_flat(jnp.abs(error) if loss == "l1" else jnp.square(error))
    if weights is not None:
        simple = extract(weights, t, simple) * simple
    mse = None if loss == "l1" else simple
    if variance is None:
        return Losses(simple, mse, None)

    # L_hybrid (Improved DDPM, eq. 16): L_vlb trains the variance, with the mean held still.
    vb = vlb(jnp.concatenate([jax.lax.stop_gradient(prediction), variance], axis=-1))
    return Losses(simple + vb, mse, vb)


def timestep_weights(config: "DiffusionConfig", diffusion: Diffusion) -> np.ndarray | None:
    """The weight of L_simple at each timestep, float64 [T]; None for a weighting of "none".

    Both weightings are defined for the error of eps, by the signal-to-noise ratio snr:
    "min_snr" as min(1, gamma / snr) (Hang et al. 2023), "p2" as (k + snr)^-gamma (Choi et al.
    2022). They are converted to the error of what the network predicts, so that the loss is the
    same function of the predicted x_0 whatever the prediction.
    """
    schedule = diffusion.schedule
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    match config.weighting:
        case "none":
            return None
        case "min_snr":
            weights = config.min_snr_gamma / np.maximum(snr, config.min_snr_gamma)
        case "p2":
            weights = (config.p2_k + snr) ** -config.p2_gamma
        case _:
            raise ValueError(f"unknown weighting: {config.weighting}")
    # The squared error of eps over that of the prediction, for the same predicted x_0.
    ratio = {
        "eps": np.ones_like(snr),
        "x_start": snr,
        "x_prev": snr / schedule.posterior_mean_coef1**2,
        "v": snr / (snr + 1),
    }[diffusion.prediction]
    return weights * (np.sqrt(ratio) if config.loss == "l1" else ratio)
