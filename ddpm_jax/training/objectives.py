"""What a network is trained to do: a loss for each example, and numbers for the log beside it."""

from collections.abc import Callable

import jax

from ddpm_jax.config import Config
from ddpm_jax.diffusion.losses import timestep_weights, training_losses
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.models import Network, Params

# "x": float [B, ...] in [-1, 1], "label": int32 [B], "t": int32 [B], "noise": as "x", "weight":
# float [B], of each example in the mean; for super-resolution "low_res": float [B, h, w, C].
Examples = dict[str, jax.Array]
# objective(params, examples, dropout_key) -> numbers of each example, float32 [B], by name; the
# one called "loss" is minimised.
Objective = Callable[[Params, Examples, jax.Array | None], dict[str, jax.Array]]


def denoising(config: Config, diffusion: Diffusion, network: Network) -> Objective:
    """The loss that `config.diffusion` names, and its parts, mse and vb, where there are two."""
    weights = timestep_weights(config.diffusion, diffusion)

    def objective(
        params: Params, examples: Examples, dropout_key: jax.Array | None
    ) -> dict[str, jax.Array]:
        low_res = (examples["low_res"],) if "low_res" in examples else ()
        losses = training_losses(
            diffusion,
            lambda x, t: network.apply(params, x, t, examples["label"], dropout_key, *low_res),
            examples["x"],
            examples["t"],
            examples["noise"],
            config.diffusion.loss,
            weights,
        )
        parts = {} if losses.mse is None or losses.vb is None else losses._asdict()
        return parts | {"loss": losses.loss}

    return objective
