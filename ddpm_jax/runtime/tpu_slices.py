"""TPU slices by name, and programs compiled for them on a machine that has none.

libtpu, a wheel, holds the compiler: it needs no TPU. Only its presence is asked for here.
"""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from ddpm_jax.config import ParallelConfig
from ddpm_jax.errors import UserError, closest


class Chip(NamedTuple):
    """What is known of one chip of a generation; from Google's data sheets but for the clock."""

    kind: str  # as JAX names its devices
    hbm_bytes: int
    bandwidth: float  # of its memory, bytes a second
    clock: float  # Hz; assumed: no kernel of known cost would beat the chip's peak
    axes: int  # of a slice


GIB = 2**30
CHIPS = {
    "v5e": Chip("TPU v5e", 16 * GIB, 819e9, 1.5e9, 2),
    "v5p": Chip("TPU v5", 95 * GIB, 2765e9, 1.75e9, 3),
    "v6e": Chip("TPU v6", 32 * GIB, 1640e9, 1.75e9, 2),
}
# Slices that are rented; the compiler knows others too.
SHAPES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16"),
}
SLICES = tuple(f"{name}:{shape}" for name, chip in CHIPS.items() for shape in SHAPES[chip.axes])
MISSING = (
    "compiling for a TPU needs its compiler, libtpu: pip install 'jax[tpu]' "
    "(in an environment of its own, unless this machine has a TPU)"
)


class TPUSlice(NamedTuple):
    """Chips that are rented together, such as v5e:2x4."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of chips."""
        return math.prod(self.shape)


def tpu_slice(name: str) -> TPUSlice:
    """The slice of that name; raises UserError, with the name that was meant, if there is none."""
    if name not in SLICES:
        raise UserError(f"--tpu {name}: {_meant(name)}")
    generation, _, shape = name.partition(":")
    return TPUSlice(name, CHIPS[generation], tuple(map(int, shape.split("x"))))


def _meant(name: str) -> str:
    """The slice with as many chips if a number is given, else the one of the most similar name."""
    parts = re.fullmatch(r"(v\d\w*?)(?:litepod)?[-:](\d+)", name)
    generation = {"v5": "v5e", "v6": "v6e"}.get(parts[1], parts[1]) if parts else ""
    if parts and generation in CHIPS:
        # The names of v5p slices count cores, two a chip.
        chips = int(parts[2]) // (2 if generation == "v5p" else 1)
        same = [each for each in SLICES if each.startswith(f"{generation}:")]
        for each in same:
            if tpu_slice(each).size == chips:
                return f"did you mean {each}?"
        return f"there are: {', '.join(same)}"
    close = closest(name, SLICES, cutoff=0.7)
    return f"did you mean {close}?" if close else f"there are: {', '.join(SLICES)}"


def slice_mesh(target: TPUSlice, parallel: ParallelConfig, batch_size: int) -> Mesh:
    """A mesh (data, fsdp) of the chips of a slice, none of which need be there.

    Raises UserError if the mesh or the batch do not suit the slice.
    """
    data = parallel.data or target.size // parallel.fsdp
    if data * parallel.fsdp != target.size:
        raise UserError(
            f"--parallel.data {parallel.data} --parallel.fsdp {parallel.fsdp}: "
            f"{target.name} has {target.size} chips"
        )
    if batch_size % target.size:
        raise UserError(
            f"a batch of {batch_size} cannot be split evenly over the {target.size} chips of "
            f"{target.name}: change the batch size or the slice"
        )
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=target.name, **_host_bounds(target)
    ).devices
    return Mesh(np.array(devices).reshape(data, parallel.fsdp), ("data", "fsdp"))


def _host_bounds(target: TPUSlice) -> dict[str, tuple[int, ...]]:
    """A single chip has a host to itself; others come four to a host."""
    return {"chips_per_host_bounds": (1, 1, 1)} if target.size == 1 else {}


def prepare(name: str) -> TPUSlice:
    """Checks the name of a slice, and that its compiler is here. Call it before JAX starts.

    Raises UserError.
    """
    target = tpu_slice(name)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(MISSING)
    use_no_tpu()
    return target


def use_no_tpu() -> None:
    """Lets libtpu compile without asking for a TPU of this machine. Call it before JAX starts."""
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # in processes beside each other
    }.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
