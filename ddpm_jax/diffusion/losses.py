"""What training minimises, for each example: L_simple, L_vlb, and their sum L_hybrid."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.likelihood import mean_flat, variational_bound_term
from ddpm_jax.diffusion.predictions import PREDICTIONS, signal_to_noise_ratio
from ddpm_jax.diffusion.process import (
    Denoiser,
    Diffusion,
    model_timesteps,
    prediction_target,
    q_sample,
    split_output,
)
from ddpm_jax.diffusion.schedules import extract
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.diffusion.tables import look_up


class Loss(NamedTuple):
    """Which terms a loss has. T is the number of timesteps, of whose terms L_vlb is the sum."""

    error: Callable[[Array], Array] | None  # in L_simple, elementwise; None: there is no L_simple
    vlb_scale: Callable[[int], float] = lambda num_timesteps: 1  # of the one term of L_vlb
    logs_mse: bool = True  # L_simple is a mean squared error, logged beside the loss


LOSSES = {
    "mse": Loss(jnp.square),
    "l1": Loss(jnp.abs, logs_mse=False),
    "rescaled_mse": Loss(jnp.square, lambda num_timesteps: num_timesteps / 1000),
    "kl": Loss(None),
    "rescaled_kl": Loss(None, lambda num_timesteps: num_timesteps),
}


class Losses(NamedTuple):
    """None where the loss has no such term. Where it has both, loss = mse + vb."""

    loss: Float[Array, " batch"]
    mse: Float[Array, " batch"] | None
    vb: Float[Array, " batch"] | None


def training_losses(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_start: Float[Array, "batch *shape"],
    t: Int[Array, " batch"],
    noise: Float[Array, "batch *shape"],
    loss: str = "mse",
    weights: Float[np.ndarray, " T"] | None = None,
) -> Losses:
    """The loss of each example; `denoise` is evaluated once, at x_t = q_sample(x_start, t, noise).

    `loss` is a row of LOSSES; `weights` are those of L_simple (`timestep_weights`).

    "mse", "l1": L_simple, the mean square or absolute value of the error of what is predicted.
    With a learned variance, plus the term of L_vlb at t, in bits per dimension, which trains the
    variance and leaves the mean alone.
    "rescaled_mse": as "mse", with T/1000 of that term (Improved DDPM, eq. 16; L_vlb is T of them).
    "kl", "rescaled_kl": that term, or T times it, trains mean and variance.
    Raises ValueError for another.
    """
    schedule, row = diffusion.schedule, look_up(LOSSES, loss, "loss")
    x_t = q_sample(schedule, x_start, t, noise)
    output = denoise(x_t, model_timesteps(schedule, t)).astype(jnp.float32)

    # L_vlb (DDPM, eq. 5): one term of it, its x_0 not clipped.
    def vlb(output: Array) -> Array:
        bits, _ = variational_bound_term(diffusion, output, x_start, x_t, t, clip=False)
        return row.vlb_scale(schedule.num_timesteps) * bits

    if row.error is None:
        return Losses(vlb(output), None, None)

    # L_simple (DDPM, eq. 14), for any prediction.
    prediction, variance = split_output(diffusion, output)
    simple = mean_flat(row.error(prediction_target(diffusion, x_start, x_t, t, noise) - prediction))
    if weights is not None:
        simple = extract(weights, t, simple) * simple
    mse = simple if row.logs_mse else None
    if variance is None:
        return Losses(simple, mse, None)

    # L_hybrid (Improved DDPM, eq. 16): L_vlb trains the variance, with the mean held still.
    vb = vlb(jnp.concatenate([jax.lax.stop_gradient(prediction), variance], axis=-1))
    return Losses(simple + vb, mse, vb)


class WeightingSettings(NamedTuple):
    """The constants of the weightings."""

    min_snr_gamma: float = 5.0
    p2_gamma: float = 1.0
    p2_k: float = 1.0


def min_snr_weights(
    snr: Float[np.ndarray, " T"], settings: WeightingSettings
) -> Float[np.ndarray, " T"]:
    """min(1, gamma / snr) (Hang et al. 2023)."""
    return settings.min_snr_gamma / np.maximum(snr, settings.min_snr_gamma)


def p2_weights(
    snr: Float[np.ndarray, " T"], settings: WeightingSettings
) -> Float[np.ndarray, " T"]:
    """(k + snr)^-gamma (Choi et al. 2022)."""
    return (settings.p2_k + snr) ** -settings.p2_gamma


# The weight of the squared error of eps, by the signal-to-noise ratio; None: 1 throughout.
WEIGHTINGS: dict[str, Callable[[np.ndarray, WeightingSettings], np.ndarray] | None] = {
    "none": None,
    "min_snr": min_snr_weights,
    "p2": p2_weights,
}


def timestep_weights(
    diffusion: Diffusion,
    weighting: str,
    loss: str = "mse",
    settings: WeightingSettings = WeightingSettings(),
) -> Float[np.ndarray, " T"] | None:
    """The weight of L_simple at each timestep, float64; None for a weighting of "none".

    Every weighting is defined for the error of eps. It is converted to the error of what the
    network predicts, so that the loss is the same function of the predicted x_0 whatever the
    prediction. Raises ValueError for an unknown weighting.
    """
    weigh = look_up(WEIGHTINGS, weighting, "weighting")
    if weigh is None:
        return None
    ratio = PREDICTIONS[diffusion.prediction].eps_error_ratio(diffusion.schedule)
    weights = weigh(signal_to_noise_ratio(diffusion.schedule), settings)
    return weights * (np.sqrt(ratio) if loss == "l1" else ratio)
