"""Training objectives: a loss for each example, and further numbers for the log."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config import Config
from ddpm_jax.diffusion.losses import WeightingSettings, timestep_weights, training_losses
from ddpm_jax.diffusion.process import Diffusion, model_timesteps, q_sample
from ddpm_jax.models import Network, Params

# "x": float [B, ...] in [-1, 1], "label": int32 [B], "t": int32 [B], "noise": as "x", "weight":
# float [B], of each example in the mean; for super-resolution "low_res": float [B, h, w, C].
Examples = dict[str, jax.Array]
# objective(params, examples, dropout_key) -> {name: number of each example, float32 [B]}. "loss" is
# minimised; the others are only logged.
Objective = Callable[[Params, Examples, jax.Array | None], dict[str, jax.Array]]


def denoising(config: Config, diffusion: Diffusion, network: Network) -> Objective:
    """The loss that `config.diffusion` names, and its terms "mse" and "vb" if it has both."""
    settings = config.diffusion
    constants = WeightingSettings(settings.min_snr_gamma, settings.p2_gamma, settings.p2_k)
    weights = timestep_weights(diffusion, settings.weighting, settings.loss, constants)

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
            settings.loss,
            weights,
        )
        terms = {} if losses.mse is None or losses.vb is None else losses._asdict()
        return terms | {"loss": losses.loss}

    return objective


def classification(config: Config, diffusion: Diffusion, network: Network) -> Objective:
    """Cross-entropy of the class of a noisy image (Dhariwal and Nichol 2021, section 4).

    "accuracy" is 1 if the label is the likeliest class. "accuracy_top5", which exists with more
    than ten classes, is 1 if it is among the five likeliest.
    """

    def objective(
        params: Params, examples: Examples, dropout_key: jax.Array | None
    ) -> dict[str, jax.Array]:
        schedule, t, label = diffusion.schedule, examples["t"], examples["label"]
        x_t = q_sample(schedule, examples["x"], t, examples["noise"])
        logits = network.apply(params, x_t, model_timesteps(schedule, t), None, dropout_key)
        chosen = jnp.take_along_axis(logits, label[:, None], axis=1)
        numbers = {
            "loss": optax.softmax_cross_entropy_with_integer_labels(logits, label),
            "accuracy": (jnp.argmax(logits, axis=1) == label).astype(jnp.float32),
        }
        if config.model.num_classes > 10:
            better = jnp.sum(logits > chosen, axis=1)
            numbers["accuracy_top5"] = (better < 5).astype(jnp.float32)
        return numbers

    return objective


# By `config.model.kind`.
OBJECTIVES = {"unet": denoising, "mlp": denoising, "classifier": classification}


def make_objective(config: Config, diffusion: Diffusion, network: Network) -> Objective:
    """The objective of the config's kind of network."""
    return OBJECTIVES[config.model.kind](config, diffusion, network)
