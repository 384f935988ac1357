"""What a run would need: FLOPs, memory, disk, devices. Nothing is computed, nothing is written."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, build_diffusion, data_shape
from ddpm_jax.models import Network, count_parameters
from ddpm_jax.runtime.compiled_cost import program_memory
from ddpm_jax.runtime.tpu_slices import TPUSlice
from ddpm_jax.training.state import TrainState, make_optimizer
from ddpm_jax.training.step import abstract_batch, make_train_step
from ddpm_jax.training.throughput import count_flops, evaluation_flops
from ddpm_jax.training.tpu_dry_run import slice_lines


def report(
    config: Config,
    network: Network,
    abstract: TrainState,
    sharding: Any,
    mesh: Mesh,
    train_step: jax.stages.Wrapped,
    target: TPUSlice | None = None,
) -> Iterator[str]:
    """Yields lines about a run that starts with `abstract`, the slowest ones last.

    That is the peak of memory, for which `train_step` is compiled; it takes about as long as the
    first step of the run. The others need no compilation. For a `target`, whose chips are in
    `mesh`, the last lines are those of `slice_lines`.
    """
    model, train = config.model, config.train
    yield "dry run: nothing is trained, nothing is written"
    parameters = f"{count_parameters(abstract.params):,} parameters"
    yield f"model        {model.kind}, {parameters}, computed in {model.dtype}"
    yield f"a step       {train.batch_size} examples of {'x'.join(map(str, data_shape(config)))}"
    yield flops_line(config, network, abstract)
    device = mesh.devices.flat[0]
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    yield f"devices      {mesh.devices.size} of kind {device.device_kind}; mesh: {axes}"
    yield from state_table(abstract, sharding)
    size = in_bytes(abstract)
    yield (
        f"checkpoint   {si(size, 'B')}; {train.keep_checkpoints} are kept: "
        f"{si(train.keep_checkpoints * size, 'B')}"
    )
    if target is not None:
        yield from slice_lines(config, network, target)
        return
    yield memory_line(train_step, abstract, abstract_batch(config), device.platform)


def flops_line(config: Config, network: Network, abstract: TrainState) -> str:
    """FLOPs of an image in a training step, optimizer and averages included, and in an evaluation.

    XLA counts the body of a loop only once, so a step with micro-batches is counted as one without.
    The recomputation of `remat` is included.
    """
    whole = replace(config, train=replace(config.train, grad_accumulation_steps=1))
    diffusion, optimizer = build_diffusion(config.diffusion), make_optimizer(config.train)
    step = make_train_step(whole, diffusion, network, optimizer)
    training = count_flops(step, abstract, abstract_batch(config))
    evaluation = evaluation_flops(config, network)
    if training is None or evaluation is None:
        return "FLOPs        not known: JAX was started without CPUs, which count them"
    per_image = training / config.train.batch_size
    return (
        f"FLOPs        {si(per_image, 'FLOP')} an image in training, {si(evaluation, 'FLOP')} in "
        f"one evaluation of the network; {si(training, 'FLOP')} a step"
    )


def state_table(abstract: TrainState, sharding: Any) -> Iterator[str]:
    """For each part of the state: arrays, how many of them are split, bytes, bytes a device."""
    rows = {
        "parameters": ("params",),
        "averages": ("ema", "extra_ema"),
        "optimizer": ("opt_state",),
        "state in all": TrainState._fields,
    }
    yield f"{'state':12} {'arrays':>7} {'split':>7} {'bytes':>12} {'a device':>12}"
    for name, fields in rows.items():
        arrays, places = (
            jax.tree.leaves([getattr(tree, field) for field in fields])
            for tree in (abstract, sharding)
        )
        split = sum(not place.is_fully_replicated for place in places)
        on_one = sum(
            int(np.prod(place.shard_shape(leaf.shape))) * leaf.dtype.itemsize
            for leaf, place in zip(arrays, places, strict=True)
        )
        total = in_bytes(arrays)
        yield f"{name:12} {len(arrays):7} {split:7} {si(total, 'B'):>12} {si(on_one, 'B'):>12}"


def memory_line(
    train_step: jax.stages.Wrapped,
    abstract: TrainState,
    batch: dict[str, jax.ShapeDtypeStruct],
    platform: str,
) -> str:
    """The peak of memory on a device, by XLA's analysis of the step, compiled for this platform."""
    started = time.monotonic()
    found = program_memory(train_step.lower(abstract, batch).compile())
    seconds = time.monotonic() - started
    if found is None:
        return f"memory       not known: XLA does not analyse it for {platform}"
    return (
        f"memory       {si(sum(found), 'B')} a device at the peak of a step: "
        f"{si(found.kept, 'B')} of state and batch, {si(found.temporary, 'B')} for a while (as XLA "
        f"lays it out for {platform}; compiled in {seconds:.0f} s)"
    )


def in_bytes(tree: Any) -> int:
    """The bytes of all arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def si(value: float, unit: str) -> str:
    """1234567 "B" -> "1.23 MB"."""
    for prefix, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:,.2f} {prefix}{unit}"
    return f"{value:,.0f} {unit}"
