"""The variational bound of a run over a set of images, in bits per dimension, batch by batch.

Each batch leaves a file, so that an evaluation that was stopped goes on at its next batch. The
noise of example i depends on (seed, i, t) alone, not on its batch.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, DataConfig, build_diffusion
from ddpm_jax.data import Source, ordered_batches
from ddpm_jax.data.model_range import low_res_of, to_model_range
from ddpm_jax.diffusion.likelihood import Bound, variational_bound
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.errors import UserError
from ddpm_jax.generation import Run
from ddpm_jax.models import Network, Params
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.partial_results import (
    create_results_folder,
    read_partial_together,
    save_partial,
)
from ddpm_jax.runtime import processes, signals
from ddpm_jax.runtime.devices import shard_global_batch, to_host
from ddpm_jax.runtime.files import replacing
from ddpm_jax.runtime.progress import progress
from ddpm_jax.visualization.plots import save_bound

# Keeps the noise of an evaluation apart from that of training and sampling with the same seed.
EVALUATION = 0xB9D
PROGRESS_SLICES = 50
BY_TIMESTEP = ("vb", "xstart_mse", "eps_mse")

Batch = dict[str, Any]  # "x": uint8 [B, H, W, C]; "label", "index": int32 [B]
BoundFn = Callable[[Params, Batch, Callable[[float], None]], Bound]


class Evaluation(NamedTuple):
    """A run, and how it is evaluated on which examples."""

    run: Run
    mesh: Mesh
    source: Source
    data: DataConfig  # of `source`
    num: int  # examples, from the first
    batch_size: int
    steps: str  # length of the chain, as in `SampleConfig`
    seed: int  # of the noise
    out: Path | None  # folder for the results; None: one in the run folder


def make_bound(config: Config, network: Network, mesh: Mesh, steps: str, seed: int) -> BoundFn:
    """`bound(params, batch, on_progress)` over the chain that `steps` keeps.

    `on_progress(share)` is called when a further share of the chain is done. Raises UserError for
    steps that are no respacing.
    """
    diffusion = build_diffusion(config.diffusion, steps)
    num_steps = diffusion.schedule.num_timesteps
    program = _make_program(config, network, diffusion, seed)
    # Equal slices of the chain, the last one filled up, so that one program serves all.
    length = math.ceil(num_steps / PROGRESS_SLICES)
    count = math.ceil(num_steps / length)
    slices = np.minimum(np.arange(count * length), num_steps - 1).reshape(count, length)

    def bound(params: Params, batch: Batch, on_progress: Callable[[float], None]) -> Bound:
        batch = shard_global_batch(batch, mesh)
        found = []
        for timesteps in slices:
            found.append(program(params, batch, jax.numpy.asarray(timesteps)))
            if len(found) > 1:  # one slice behind, so that the device never waits
                jax.block_until_ready(found[-2])
                on_progress(1 / count)
        found = to_host(found)
        on_progress(1 / count)
        terms: dict[str, Any] = {
            name: np.concatenate([getattr(terms, name) for terms in found], axis=1)[:, :num_steps]
            for name in BY_TIMESTEP
        }
        prior = found[0].prior_bpd
        return Bound(prior + terms["vb"].sum(axis=1), prior, **terms)

    return bound


def evaluate(evaluation: Evaluation) -> str:
    """Writes the bound of a run over its examples, batch by batch; returns a line that sums it up.

    Raises UserError.
    """
    run, data, steps = evaluation.run, evaluation.data, evaluation.steps
    if run.config.model.kind != "unet":
        raise UserError(
            f"metrics=bpd is for models of images, not --model.kind {run.config.model.kind}"
        )
    bound = make_bound(run.config, run.network, evaluation.mesh, steps, evaluation.seed)
    loaded = run.load_weights(evaluation.mesh)
    weights = "" if run.weights_item == "ema" else run.weights_item
    identity = str((replace(data, dir=""), run.config.model, run.config.diffusion))
    settings = {
        "checkpoint": loaded.step,
        "data": f"{data.name} {data.split}",
        "steps": steps,
        "seed": evaluation.seed,
        "weights": weights or None,
        "run": sha256([identity, loaded.items["ema"]])[:16],
    }
    name = "_".join(filter(None, ["bpd", data.split, f"{loaded.step:08d}", steps, weights]))
    out = evaluation.out or run.results / "evaluation" / name
    processes.on_main_process(lambda: create_results_folder(out, settings))
    with progress(evaluation.num, 0, "example", f"step {loaded.step}") as bar:
        update = signals.with_stop_check(bar.update)
        found = bound_of_examples(bound, loaded.items["ema"], evaluation, out, update)
    timesteps = build_diffusion(run.config.diffusion, steps).schedule.timestep_map
    return processes.on_main_process(lambda: report(found, timesteps, out))


def bound_of_examples(
    bound: BoundFn,
    params: Params,
    evaluation: Evaluation,
    out: Path,
    on_progress: Callable[[float], None],
) -> Bound:
    """The bound of each example, [N] and [N, T]; batches that `out` holds are read.

    `on_progress(n)` is called when n more examples, or a fraction of one, are done.
    """
    found, first, size = [], 0, evaluation.batch_size
    for batch in ordered_batches(evaluation.source, evaluation.data, size, evaluation.num):
        real = len(batch["x"])
        path = out / "parts" / f"{first:08d}_{real}.npz"
        part: dict[str, Any] | None = read_partial_together(path, Bound._fields)
        if part is None:
            filled = {
                name: np.resize(value, (size, *value.shape[1:])) for name, value in batch.items()
            }
            filled["index"] = np.arange(first, first + size, dtype=np.int32)
            terms = bound(params, filled, partial(_scaled, on_progress, real))
            part = {name: values[:real] for name, values in terms._asdict().items()}
            processes.on_main_process(partial(save_partial, path, part))
        else:
            on_progress(real)
        found.append(Bound(**part))
        first += real
    return Bound._make(np.concatenate(values) for values in zip(*found, strict=True))


def report(found: Bound, timesteps: np.ndarray, out: Path) -> str:
    """Writes bpd.json and bpd.png, the terms by timestep; returns a line that sums them up.

    `timesteps` [T] are those of the chain of training at which the terms were taken.
    """
    count = len(found.total_bpd)
    by_t = {name: getattr(found, name).mean(axis=0) for name in BY_TIMESTEP}
    numbers = {
        "examples": count,
        "total_bpd": float(found.total_bpd.mean()),
        "total_bpd_standard_error": float(found.total_bpd.std() / math.sqrt(count)),
        "prior_bpd": float(found.prior_bpd.mean()),
        "timesteps": timesteps.tolist(),
        **{name: values.astype(float).tolist() for name, values in by_t.items()},
    }
    with replacing(out / "bpd.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n")
    save_bound(timesteps, by_t["vb"], by_t["xstart_mse"], by_t["eps_mse"], out / "bpd.png")
    return (
        f"{numbers['total_bpd']:.4f} +- {numbers['total_bpd_standard_error']:.4f} bits per "
        f"dimension ({count} examples; decoder {by_t['vb'][0]:.4f}, prior "
        f"{numbers['prior_bpd']:.6f}): {out / 'bpd.png'}"
    )


def _make_program(
    config: Config, network: Network, diffusion: Diffusion, seed: int
) -> Callable[[Params, Batch, jax.Array], Bound]:
    """The bound of a batch at some timesteps of the chain, jitted."""

    @jax.jit
    def program(params: Params, batch: Batch, timesteps: jax.Array) -> Bound:
        x = to_model_range(batch["x"])
        low_res = low_res_of(config, x).values()
        key = jax.random.fold_in(jax.random.key(seed), EVALUATION)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch["index"])

        def noise(t: jax.Array) -> jax.Array:
            at_t = jax.vmap(lambda key: jax.random.fold_in(key, t))(keys)
            return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(at_t)

        def denoise(x_t: jax.Array, model_t: jax.Array) -> jax.Array:
            return network.apply(params, x_t, model_t, batch["label"], None, *low_res)

        return variational_bound(diffusion, denoise, x, noise, timesteps=timesteps)

    return program


def _scaled(on_progress: Callable[[float], None], examples: int, share: float) -> None:
    on_progress(examples * share)
