"""The loss on held-out examples, and early stopping by it."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, EvaluateConfig
from ddpm_jax.data import Source, ordered_batches
from ddpm_jax.data.model_range import low_res_of, to_model_range
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.evaluation.metrics import METRICS
from ddpm_jax.models import Network, Params
from ddpm_jax.runtime.devices import replicated, shard_global_batch
from ddpm_jax.training.metric_window import quarter_means
from ddpm_jax.training.objectives import Examples, make_objective
from ddpm_jax.training.step import Batch, Metrics, by_quarter

MAX_EXAMPLES = 4096  # of a larger set, only the first ones are used
# Separates its t and noise from those of training, sampling and evaluation with the same seed.
VALIDATION = 0x7A11D


def make_validator(
    config: Config, diffusion: Diffusion, network: Network, mesh: Mesh, source: Source
) -> Callable[[Params], dict[str, float]]:
    """`validate(params) -> {"held_out_loss": ..., "held_out_loss_q0": ..., ...}`.

    Each example of `source` has one t and one noise, the same at every validation, so that the
    numbers of two steps differ only by the parameters. There is no dropout, random flip or crop.
    """
    num_timesteps = diffusion.schedule.num_timesteps
    objective = make_objective(config, diffusion, network)

    @partial(jax.jit, out_shardings=replicated(mesh))
    def quarter_sums(params: Params, batch: Batch) -> Metrics:
        examples = _examples(config, num_timesteps, batch)
        return by_quarter(objective(params, examples, None), examples, num_timesteps)

    def validate(params: Params) -> dict[str, float]:
        size, first, found = config.train.batch_size, 0, []
        for batch in ordered_batches(source, config.data, size, MAX_EXAMPLES):
            real = len(batch["x"])
            batch = {name: np.resize(a, (size, *a.shape[1:])) for name, a in batch.items()}
            batch["index"] = np.arange(first, first + size, dtype=np.int32)
            batch["real"] = (np.arange(size) < real).astype(np.float32)
            found.append(quarter_sums(params, shard_global_batch(batch, mesh)))
            first += real
        total: Any = jax.tree.map(lambda *batches: np.sum(batches, axis=0), *jax.device_get(found))
        weight = total["quarter_weight"]
        means = {name: by.sum() / weight.sum() for name, by in total["quarter_sums"].items()}
        numbers = means | quarter_means(total["quarter_sums"], weight)
        return {f"held_out_{name}": float(value) for name, value in numbers.items()}

    return validate


def _examples(config: Config, num_timesteps: int, batch: Batch) -> Examples:
    """A batch with a timestep and noise for each example, functions of its "index" in the set.

    Its weight is "real": 0 for the examples that only fill the last batch up.
    """
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
    return examples | low_res_of(config, x)


class EarlyStop:
    """`over` once this many validations in a row had no new lowest held-out loss; 0: never.

    It starts from `records`, the entries of the run's log, so that a resumed run stops at the same
    step as an undisturbed one.
    """

    def __init__(self, validations: int, records: Iterable[Mapping[str, Any]] = ()):
        self._patience, self._lowest, self._since = validations, math.inf, 0
        for record in records:
            if "held_out_loss" in record:
                self.add(record["held_out_loss"])

    def add(self, loss: float | None) -> float | None:
        """Counts a validation. Returns its loss if it is the lowest so far, else None.

        The checkpoint of the lowest loss is to be kept. Returns None if early stopping is off.
        """
        if loss is None or not loss < self._lowest:
            self._since += 1
            return None
        self._since, self._lowest = 0, loss
        return loss if self._patience else None

    @property
    def over(self) -> bool:
        return 0 < self._patience <= self._since


class BestScore:
    """The best value so far of the first metric in `evaluate.metrics`; it keeps its checkpoint.

    It starts from `records`, the entries of the run's log.
    """

    def __init__(self, config: EvaluateConfig, records: Iterable[Mapping[str, Any]] = ()):
        self._name = config.metrics.split(",")[0].strip() if config.every_steps else ""
        self._sign = -1 if self._name and METRICS[self._name].more_is_better else 1
        self._lowest = math.inf
        for record in records:
            self.add(record)

    @property
    def at_work(self) -> bool:
        """False if nothing is measured."""
        return bool(self._name)

    def add(self, results: Mapping[str, Any]) -> float | None:
        """Returns the score of these results, the lower the better, if none was better so far."""
        if self._name not in results:
            return None
        score = self._sign * float(results[self._name])
        if not score < self._lowest:
            return None
        self._lowest = score
        return score
