"""What a program takes of each chip of a TPU slice, in lines for people."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import jax

from ddpm_jax.runtime.compiled_cost import PRODUCTS, Cost, program_cost, program_memory
from ddpm_jax.runtime.peak_flops import peak_flops
from ddpm_jax.runtime.tpu_slices import TPUSlice

# How far off the estimate may be: element-wise work in bfloat16 may take half of what it is priced;
# copies and collectives, which have no price, may be waited for.
ELEMENTWISE = 0.5
WAITING = 1.3
# "Used 18.21G of 15.75G hbm.", "... temporaries (36.00G) exceeds available HBM (15.75G)."
OUT_OF_MEMORY = r"([\d.]+)([KMG])\)? (?:of|exceeds available HBM) \(?([\d.]+)([KMG])"


class Fit(NamedTuple):
    """A program on a slice: what it takes of the memory of a chip, and whether that is there."""

    needed: int  # bytes
    available: int
    kept: int  # of them, state and inputs
    compiled: jax.stages.Compiled | None  # None if it does not fit

    @property
    def fits(self) -> bool:
        return self.compiled is not None


def compile_for(
    target: TPUSlice, lower: Callable[[], jax.stages.Lowered], quickly: bool = False
) -> Fit:
    """Compiles a program for the chips of its mesh.

    `quickly`, in a quarter of the time: memory within some percent; the cycles mean nothing.
    """
    available = target.chip.hbm_bytes
    try:
        with _little_effort() if quickly else nullcontext():
            compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(OUT_OF_MEMORY, str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not found:
            raise
        needed, available = (
            round(float(n) * 2 ** {"K": 10, "M": 20, "G": 30}[unit])
            for n, unit in (found.group(1, 2), found.group(3, 4))
        )
        return Fit(needed, available, 0, None)
    memory = program_memory(compiled)
    assert memory is not None  # as it is for TPUs
    needed = sum(memory)
    return Fit(needed, available, memory.kept, compiled if needed <= available else None)


@contextmanager
def _little_effort() -> Iterator[None]:
    """XLA leaves out its costly passes."""
    before = jax.config.jax_optimization_level  # type: ignore[attr-defined]
    jax.config.update("jax_optimization_level", "O0")
    try:
        yield
    finally:
        jax.config.update("jax_optimization_level", before)


def memory_line(fit: Fit) -> str:
    """Whether the program fits into the memory of a chip."""
    of = f"{gib(fit.needed)} of {gib(fit.available)} of a chip at the peak"
    if not fit.fits:
        return f"memory       does not fit: {of}"
    return f"memory       fits: {of}, {gib(fit.kept)} of them for state and inputs"


def cost_lines(
    target: TPUSlice, compiled: jax.stages.Compiled, dtype: str, flops: float, images: float
) -> Iterator[str]:
    """Cycles, time and images a second of a step, on which `flops` of a chip are spent.

    Of a chain, whose loop counts once, a step gives a fraction of its `images`.
    """
    cost, chip = program_cost(compiled), target.chip
    seconds = cost.total_cycles / chip.clock
    fast, slow = (each / chip.clock for each in cycles_range(cost))
    kinds = ", ".join(
        f"{kind} {n / cost.total_cycles:.0%}" for kind, n in cost.cycles.most_common(5)
    )
    yield f"cycles       {cost.total_cycles / 1e6:,.1f} M a chip, by the compiler: {kinds}"
    yield (
        f"a step takes {1e3 * seconds:,.1f} ms at an assumed {chip.clock / 1e9:.2f} GHz; likely "
        f"{1e3 * fast:,.1f} to {1e3 * slow:,.1f} ms, for no TPU has run this"
    )
    peak = peak_flops(chip.kind, dtype)
    assert peak is not None  # as for every chip of the table
    yield (
        f"speed        {two_digits(images / slow)} to {two_digits(images / fast)} images/s on "
        f"{target.name}; "
        f"{flops / slow / peak:.1%} to {flops / fast / peak:.1%} of the peak"
    )
    moved = ", ".join(f"{name} {n / 1e6:,.1f} MB" for name, n in cost.collectives.items())
    yield f"collectives  {moved or 'none'}"
    if calls := {name: n for name, n in cost.uncounted.items() if "loop" not in name}:
        yield f"not counted  {', '.join(f'{n} x {name}' for name, n in calls.items())}"


def cycles_range(cost: Cost) -> tuple[float, float]:
    """The least and the most cycles that the estimate may stand for."""
    products = cost.cycles[PRODUCTS] + cost.cycles["attention"]
    fast = products + ELEMENTWISE * (cost.total_cycles - products)
    return fast, WAITING * cost.total_cycles


def two_digits(value: float) -> str:
    """0.123 as 0.12, 1234.5 as 1,200: of an estimate no more digits mean anything."""
    return f"{float(f'{value:.2g}'):,g}"


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.2f} GiB"
