"""The mesh of devices, the shardings of arrays on it, and programs that run over all of it.

The mesh has two axes. A batch is split over both. Parameters are split over `fsdp` and copied
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
from jaxtyping import PyTree

from ddpm_jax.config import ParallelConfig
from ddpm_jax.errors import UserError

# Below this many elements, splitting an array costs more than it saves.
MIN_SHARDED_SIZE = 2**14
MAX_CPU_DEVICES = 8
MIN_EXAMPLES = 4  # of a training batch, on each core of a CPU


def use_every_core(config: ParallelConfig | None = None, batch_size: int = 0) -> None:
    """Makes each CPU core a virtual device. Call it before JAX starts.

    It does nothing where the user has chosen a number, as by JAX_NUM_CPU_DEVICES. On one device
    XLA's convolutions use 1.4 of 2 cores; one device a core is 1.2 to 1.4 times as fast.

    In training each device updates all parameters. If a batch has fewer than MIN_EXAMPLES for each
    core, fewer devices are 1.05 to 1.2 times as fast, and fewer are made, unless `config` sets the
    mesh.
    """
    chosen = jax.config.values["jax_num_cpu_devices"] >= 0
    if chosen or "device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = min(cores or 1, MAX_CPU_DEVICES)
    if config == ParallelConfig():
        devices = max(1, min(devices, batch_size // MIN_EXAMPLES))
    jax.config.update("jax_num_cpu_devices", devices)


def make_mesh(config: ParallelConfig, batch_size: int) -> Mesh:
    """A mesh (data, fsdp); raises UserError if the devices or the batch do not allow it.

    A `config.data` of 0 takes as many devices as divide the batch. Each process gives equally many
    devices, and its devices are neighbours in the mesh. So slice i of a batch belongs to process i,
    and where `fsdp` divides the devices of a process, its parameters stay within that process.
    """
    by_process = [jax.local_devices(process_index=i) for i in range(jax.process_count())]
    processes, fsdp = len(by_process), config.fsdp
    total = min(map(len, by_process)) * processes
    data = config.data or _largest_data_axis(total // fsdp, fsdp, batch_size, processes)
    size = data * fsdp
    if size > total or data == 0:
        raise UserError(
            f"--parallel.data {config.data} --parallel.fsdp {fsdp}: there are only {total} "
            "devices (on CPU, JAX_NUM_CPU_DEVICES=N makes N)"
        )
    if size % processes:
        raise UserError(
            f"--parallel.data {data} --parallel.fsdp {fsdp}: {size} devices cannot be shared "
            f"equally by {processes} processes; their number must be a multiple of {processes}"
        )
    if batch_size % size:
        raise UserError(
            f"a batch of {batch_size} cannot be split evenly over {size} devices: "
            "change the batch size, --parallel.data or --parallel.fsdp"
        )
    each = size // processes
    devices = [sorted(of, key=lambda device: device.id)[:each] for of in by_process]
    mesh = Mesh(np.array(devices).reshape(data, fsdp), ("data", "fsdp"))
    if processes > 1 and mesh.devices.flat[0].platform == "cpu":
        _connect(mesh)
    return mesh


def _largest_data_axis(most: int, fsdp: int, batch_size: int, processes: int) -> int:
    """The largest size up to `most` that suits batch and processes; `most` if none does."""
    sizes = (data for data in range(most, 0, -1) if (data * fsdp) % processes == 0)
    return next((data for data in sizes if batch_size % (data * fsdp) == 0), most)


def _connect(mesh: Mesh) -> None:
    """Runs one collective along each axis while all processes are at the same place.

    Gloo, which connects CPUs, fails if a process reaches the first collective of a group of devices
    30 s after another. In the first training step that happens easily: one process may compile for
    minutes what another finds compiled.
    """
    ones = shard_global_batch(np.ones(mesh.devices.size, np.float32), mesh)
    for axes in (*(axis for axis, size in mesh.shape.items() if size > 1), mesh.axis_names):
        psum = jax.shard_map(
            partial(jax.lax.psum, axis_name=axes),
            mesh=mesh,
            in_specs=PartitionSpec(mesh.axis_names),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        jax.jit(psum)(ones).block_until_ready()


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_sharding(abstract: PyTree[jax.ShapeDtypeStruct], mesh: Mesh) -> PyTree[NamedSharding]:
    """A sharding for each array of a tree: its largest axis that `fsdp` divides is split.

    Small arrays are replicated, and so are all where `fsdp` is 1.
    """
    fsdp = mesh.shape["fsdp"]

    def rule(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not axes or leaf.size < MIN_SHARDED_SIZE:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        spec = ("fsdp" if axis == largest else None for axis in range(len(leaf.shape)))
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(rule, abstract)


def abstract_on(
    abstract: PyTree[jax.ShapeDtypeStruct], shardings: PyTree[NamedSharding]
) -> PyTree[jax.ShapeDtypeStruct]:
    """The abstract tree with its shardings attached, as a restore needs it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def replicated_abstract(
    abstract: PyTree[jax.ShapeDtypeStruct], mesh: Mesh
) -> PyTree[jax.ShapeDtypeStruct]:
    """The abstract tree as a restore needs it that copies every array to every device."""
    return abstract_on(abstract, jax.tree.map(lambda _: replicated(mesh), abstract))


def pmapped(
    step: Callable[[Any, Any], tuple[Any, Any]], mesh: Mesh, sharding: PyTree[NamedSharding]
) -> jax.stages.Wrapped:
    """`step(state, batch) -> (state, metrics)` as one program mapped over all devices of the mesh.

    `jax.pmap` itself has been jit + shard_map since JAX 0.10. Here the map is over a named mesh:
    parameters may be split too, and random bits do not depend on the number of devices. The state
    has the given `sharding` and is donated; the batch is split; the metrics are replicated.
    """
    return jax.jit(
        step,
        in_shardings=(sharding, batch_sharding(mesh)),
        out_shardings=(sharding, replicated(mesh)),
        donate_argnums=0,
    )


def shard_local_batch(batch: PyTree[np.ndarray], mesh: Mesh) -> PyTree[jax.Array]:
    """Host arrays [B / processes, ...] of each process -> global arrays [B, ...] on the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), batch
    )


def shard_global_batch(batch: PyTree[np.ndarray], mesh: Mesh) -> PyTree[jax.Array]:
    """Host arrays [B, ...], the same in every process -> global arrays [B, ...] on the mesh."""
    sharding = batch_sharding(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)

    def split(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(split, batch)


def replicate(tree: PyTree[jax.Array | np.ndarray], mesh: Mesh) -> PyTree[jax.Array]:
    """Arrays, the same in every process -> the same arrays on every device of the mesh."""

    def place(array: jax.Array | np.ndarray) -> jax.Array:
        if isinstance(array, jax.Array) and array.sharding.device_set == set(mesh.devices.flat):
            return array
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, replicated(mesh), host.__getitem__)

    return jax.tree.map(place, tree)


def to_host(tree: PyTree[jax.Array | np.ndarray]) -> PyTree[np.ndarray]:
    """Global arrays -> whole NumPy arrays, in every process. All processes must call it."""

    def fetch(array: jax.Array | np.ndarray) -> np.ndarray:
        if not isinstance(array, jax.Array):
            return np.asarray(array)
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(fetch, tree)
