"""The objective on examples that are kept from training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config
from ddpm_jax.data import Source, ordered_batches
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.models import Network, Params
from ddpm_jax.parallel import batch_sharding
from ddpm_jax.training.objectives import make_objective
from ddpm_jax.training.run import quarter_means
from ddpm_jax.training.step import Metrics, by_quarter, low_res_of, to_model_range

MAX_EXAMPLES = 4096  # of a larger set, the first ones
# Keeps its t and noise apart from those of training, sampling and evaluation of the same seed.
VALIDATION = 0x7A11D


def make_validator(
    config: Config, diffusion: Diffusion, network: Network, mesh: Mesh, source: Source
) -> Callable[[Params], dict[str, float]]:
    """`validate(params) -> {"held_out_loss": ..., "held_out_loss_q0": ..., ...}`.

    Each example of `source` comes with one t and one noise, the same every time, so that numbers of
    different steps differ by the parameters alone. Nothing is dropped out, flipped or cropped at
    random.
    """
    num_timesteps = diffusion.schedule.num_timesteps
    objective = make_objective(config, diffusion, network)

    @jax.jit
    def sums(params: Params, batch: dict[str, jax.Array]) -> Metrics:
        x = to_model_range(batch["x"])
        key = jax.random.fold_in(jax.random.key(0), VALIDATION)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch["index"])
        # Stratified: neighbours in the set have their t in different parts of the chain.
        shift = batch["index"] * 0.6180339887 + jax.random.uniform(key)
        examples = {
            "x": x,
            "label": batch["label"],
            "t": ((shift % 1) * num_timesteps).astype(jnp.int32),
            "noise": jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys),
            "weight": batch["real"],
        }
        examples |= low_res_of(config, x)
        return by_quarter(objective(params, examples, None), examples, num_timesteps)

    def validate(params: Params) -> dict[str, float]:
        size, first, found = config.train.batch_size, 0, []
        for batch in ordered_batches(source, config.data, size, MAX_EXAMPLES):
            real = len(batch["x"])
            batch = {name: np.resize(a, (size, *a.shape[1:])) for name, a in batch.items()}
            batch["index"] = np.arange(first, first + size, dtype=np.int32)
            batch["real"] = (np.arange(size) < real).astype(np.float32)
            found.append(sums(params, jax.device_put(batch, batch_sharding(mesh))))
            first += real
        total: Any = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *jax.device_get(found))
        weight = total["quarter_weight"]
        means = {name: by.sum() / weight.sum() for name, by in total["quarter_sums"].items()}
        numbers = means | quarter_means(total["quarter_sums"], weight)
        return {f"held_out_{name}": float(value) for name, value in numbers.items()}

    return validate
