"""Every word about devices: the mesh, who holds what, and programs over all of them.

The mesh has two axes. A batch is split over both; parameters are split over `fsdp` and copied
along `data`.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.config import ParallelConfig
from ddpm_jax.errors import UserError

# Below this many elements, splitting an array costs more than it saves.
MIN_SHARDED_SIZE = 2**14
MAX_CPU_DEVICES = 8
MIN_EXAMPLES = 4  # of a training batch, on each core of a CPU


def use_every_core(config: ParallelConfig | None = None, batch_size: int = 0) -> None:
    """Makes one virtual device of each CPU core, if JAX has not started and nobody chose a number.

    XLA's convolutions use 1.4 of 2 cores on one device; one device a core is 1.2 to 1.4 times as
    fast. Training, each device updates all parameters: where `config` leaves the mesh open, and
    `batch_size` leaves a core fewer than MIN_EXAMPLES, fewer devices, which share the cores, are
    1.05 to 1.2 times as fast.
    """
    chosen = jax.config.jax_num_cpu_devices >= 0  # by JAX_NUM_CPU_DEVICES, for one
    if chosen or "device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = min(cores or 1, MAX_CPU_DEVICES)
    if config == ParallelConfig():
        devices = max(1, min(devices, batch_size // MIN_EXAMPLES))
    jax.config.update("jax_num_cpu_devices", devices)


def make_mesh(config: ParallelConfig, batch_size: int) -> Mesh:
    """A mesh (data, fsdp); raises UserError if the devices or the batch do not allow it.

    `config.data` 0 takes the most devices whose number divides the batch. Every process has as many
    devices in it as any other, and those follow one another: part i of a batch belongs to process
    i, and where `fsdp` divides the devices of a process, none shares parameters with another.
    """
    by_process = [jax.local_devices(process_index=i) for i in range(jax.process_count())]
    processes, total = len(by_process), min(map(len, by_process)) * len(by_process)
    fsdp, most = config.fsdp, total // config.fsdp
    if config.data:
        data = config.data
    else:
        suits = (
            n for n in range(1, most + 1) if not (batch_size % (n * fsdp) or n * fsdp % processes)
        )
        data = max(suits, default=most)
    if data * fsdp > total or data == 0:
        raise UserError(
            f"--parallel.data {config.data} --parallel.fsdp {fsdp}: there are only {total} "
            "devices (on CPU, JAX_NUM_CPU_DEVICES=N makes N)"
        )
    if data * fsdp % processes:
        raise UserError(
            f"--parallel.data {data} --parallel.fsdp {fsdp}: {data * fsdp} devices are no multiple "
            f"of the {processes} processes, of which each needs as many"
        )
    if batch_size % (data * fsdp):
        raise UserError(
            f"a batch of {batch_size} cannot be split evenly over {data * fsdp} devices: "
            "change the batch size, --parallel.data or --parallel.fsdp"
        )
    each = data * fsdp // processes
    devices = [sorted(of, key=lambda device: device.id)[:each] for of in by_process]
    mesh = Mesh(np.array(devices).reshape(data, fsdp), ("data", "fsdp"))
    if processes > 1 and mesh.devices.flat[0].platform == "cpu":
        _connect(mesh)
    return mesh


def _connect(mesh: Mesh) -> None:
    """Lets the devices meet along each axis, while all processes are at the same place.

    Gloo, which connects CPUs, fails if one is 30 s later than another where a group of devices
    first meets; in the training step one may compile for minutes what another finds compiled.
    """
    ones = shard_global_batch(np.ones(mesh.devices.size, np.float32), mesh)
    for axes in (*(axis for axis, size in mesh.shape.items() if size > 1), mesh.axis_names):
        meet = jax.shard_map(
            partial(jax.lax.psum, axis_name=axes),
            mesh=mesh,
            in_specs=PartitionSpec(mesh.axis_names),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        jax.jit(meet)(ones).block_until_ready()


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_sharding(abstract: Any, mesh: Mesh) -> Any:
    """A sharding for each array of a tree: its largest axis that `fsdp` divides is split.

    Small arrays, and all of them where `fsdp` is 1, are replicated.
    """
    parts = mesh.shape["fsdp"]

    def rule(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or not axes or leaf.size < MIN_SHARDED_SIZE:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        spec = [None] * len(leaf.shape)
        spec[largest] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(rule, abstract)


def abstract_on(abstract: Any, shardings: Any) -> Any:
    """The abstract tree with its shardings attached, as a restore needs it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def replicated_abstract(abstract: Any, mesh: Mesh) -> Any:
    """The abstract tree as a restore needs it, to lie on every device."""
    return abstract_on(abstract, jax.tree.map(lambda _: replicated(mesh), abstract))


def pmapped(step: Callable, mesh: Mesh, sharding: Any) -> Callable:
    """`step(state, batch) -> (state, metrics)` as one program mapped over all devices of the mesh.

    `jax.pmap` itself has been jit + shard_map since JAX 0.10; here the map is over a named mesh, so
    that parameters may be split too, and random bits do not depend on the number of devices. The
    state, of the given `sharding`, is donated; the batch is split; the metrics are replicated.
    """
    return jax.jit(
        step,
        in_shardings=(sharding, batch_sharding(mesh)),
        out_shardings=(sharding, replicated(mesh)),
        donate_argnums=0,
    )


def shard_local_batch(batch: Any, mesh: Mesh) -> Any:
    """Host arrays [B / processes, ...] of each process -> global arrays [B, ...] on the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), batch
    )


def shard_global_batch(batch: Any, mesh: Mesh) -> Any:
    """Host arrays [B, ...], the same in every process -> global arrays [B, ...] on the mesh."""
    sharding = batch_sharding(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)

    def split(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(split, batch)


def to_host(tree: Any) -> Any:
    """Global arrays -> whole NumPy arrays in every process, which must all call this."""

    def fetch(array: jax.Array) -> np.ndarray:
        here = not isinstance(array, jax.Array) or array.is_fully_addressable
        if here or array.is_fully_replicated:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(fetch, tree)
