"""What a compiled program costs, by the compiler's own estimates: memory, and cycles of a TPU.

XLA's TPU compiler leaves its estimate of the cycles beside each instruction of the program's text.
They hold for one core of a chip, and for instructions that run one after the other.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax

CALLS = re.compile(r"(?:calls|to_apply|body|async_computation)=%([\w.-]+)")
BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.-]+))")
CONDITION = re.compile(r"condition=%([\w.-]+)")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
NO_ESTIMATE = str(2**63 - 1)  # stands in the place of cycles
OP_NAME = re.compile(r'op_name="([^"]*)"')
TARGET = re.compile(r'custom_call_target="([^"]*)"')
HEADER = re.compile(r"^(ENTRY )?%([\w.-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
# Custom calls that stand for no work of the core.
FREE_CALLS = {"AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast"}
# The compiler gives these no cycles, though they take some.
UNPRICED = {"rng-bit-generator", "rng-get-and-update-state", "rng"}
# Part of an instruction's name in the program -> its kind; the first that fits. Matrix products are
# told from the others by what they compute.
KINDS = {
    "optimizer": "optimizer",
    "attention": "attention",
    "random_bits": "random bits",
    "threefry": "random bits",
    "dropout": "random bits",
    "group_norm": "norm",
}
PRODUCTS = "convolution"


@dataclass
class Cost:
    """Of one run of a program on one chip."""

    cycles: Counter[str] = field(default_factory=Counter)  # by kind
    collectives: Counter[str] = field(default_factory=Counter)  # bytes that each kind moves
    # Times that what has no estimate runs: custom calls, generators, loops whose trips are unknown.
    uncounted: Counter[str] = field(default_factory=Counter)

    @property
    def total_cycles(self) -> int:
        return self.cycles.total()

    def add(self, other: "Cost", times: int = 1) -> None:
        for mine, its in (
            (self.cycles, other.cycles),
            (self.collectives, other.collectives),
            (self.uncounted, other.uncounted),
        ):
            for name, value in its.items():
                mine[name] += times * value


@dataclass(frozen=True)
class Instruction:
    root: bool
    shape: str
    opcode: str
    rest: str  # operands and attributes

    def called(self) -> list[str]:
        return CALLS.findall(self.rest)


class Memory(NamedTuple):
    """Bytes of a device that a program takes: inputs, and what it needs beside them."""

    kept: int
    temporary: int


def program_memory(compiled: jax.stages.Compiled) -> Memory | None:
    """The peak of memory, by XLA's analysis; None where there is none."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    # Donated arrays share their memory with outputs.
    beside = found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
    return Memory(found.argument_size_in_bytes, beside)


def program_cost(compiled: jax.stages.Compiled) -> Cost:
    """The estimates added up; a loop as often as it runs, of a branch the dearer side.

    A loop whose trips are not written in the program counts once, and is named in `uncounted`.
    """
    computations, entry = _parse(compiled.as_text() or "")
    return _Reader(computations).cost(entry)


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Instructions by computation, and the name of the computation that the program starts with."""
    computations: dict[str, list[Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif name and (found := INSTRUCTION.match(line)):
            computations[name].append(Instruction(bool(found[1]), *found.groups()[2:]))
    return computations, entry


class _Reader:
    """Costs of the computations of a program, each worked out once."""

    def __init__(self, computations: dict[str, list[Instruction]]):
        self._computations = computations
        self._costs: dict[str, Cost] = {}

    def cost(self, name: str) -> Cost:
        if name not in self._costs:
            total = self._costs[name] = Cost()
            for instruction in self._computations.get(name, []):
                self._add(instruction, total)
        return self._costs[name]

    def _add(self, instruction: Instruction, total: Cost) -> None:
        opcode, rest = instruction.opcode, instruction.rest
        if opcode == "while":
            trips = self._trips(instruction)
            if trips is None:
                total.uncounted["loop of unknown length"] += 1
            for body in instruction.called():
                total.add(self.cost(body), 1 if trips is None else trips)
        elif opcode == "conditional":
            names = [name for pair in BRANCHES.findall(rest) for name in pair if name]
            branches = [self.cost(each.strip(" %")) for name in names for each in name.split(",")]
            if branches:
                total.add(max(branches, key=lambda cost: cost.total_cycles))
        elif opcode in ("call", "async-start"):
            for name in instruction.called():
                total.add(self.cost(name))
        else:
            self._add_own(instruction, total)

    def _add_own(self, instruction: Instruction, total: Cost) -> None:
        if (found := CYCLES.search(instruction.rest)) and found[1] == NO_ESTIMATE:
            total.uncounted[f"{instruction.opcode} without an estimate"] += 1
        elif found:
            total.cycles[self._kind(instruction)] += int(found[1])
        for each in self._with_fused(instruction):
            if (name := each.opcode.removesuffix("-start")) in COLLECTIVES:
                total.collectives[name] += _moved_bytes(each)
            elif each.opcode in UNPRICED:
                total.uncounted[each.opcode] += 1
            elif each.opcode == "custom-call":
                target = TARGET.search(each.rest)
                if target and target[1] not in FREE_CALLS:
                    total.uncounted[target[1]] += 1

    def _with_fused(self, instruction: Instruction) -> Iterable[Instruction]:
        """The instruction, and those that are fused into it."""
        yield instruction
        if instruction.opcode == "fusion":
            for name in instruction.called():
                for each in self._computations.get(name, []):
                    yield from self._with_fused(each)

    def _kind(self, instruction: Instruction) -> str:
        named = OP_NAME.search(instruction.rest)
        kind = kind_of(named[1] if named else "")
        multiplies = any(
            each.opcode in ("convolution", "dot") for each in self._with_fused(instruction)
        )
        return PRODUCTS if multiplies and kind != "attention" else kind

    def _trips(self, instruction: Instruction) -> int | None:
        """How often a loop runs whose condition is `i < constant`, as those of JAX are from 0."""
        condition = CONDITION.search(instruction.rest)
        instructions = self._computations.get(condition[1], []) if condition else []
        if not any(each.root and "direction=LT" in each.rest for each in instructions):
            return None
        constants = [
            int(each.rest.partition(")")[0])
            for each in instructions
            if each.opcode == "constant" and each.shape.startswith("s32[]")
        ]
        return constants[0] if len(constants) == 1 else None


def kind_of(op_name: str) -> str:
    """The kind of an instruction by its place in the program: norm, attention, ...; or other."""
    return next((kind for part, kind in KINDS.items() if part in op_name), "other")


def _moved_bytes(instruction: Instruction) -> int:
    """Bytes of the results; the start of a collective may list its operands before them."""
    sizes = [_array_bytes(*found) for found in ARRAY.findall(instruction.shape)]
    listed = instruction.opcode in ("all-gather-start", "collective-permute-start")
    return max(sizes, default=0) if listed else sum(sizes)


def _array_bytes(dtype: str, bits: str, sizes: str) -> int:
    count = 1
    for size in filter(None, sizes.split(",")):
        count *= int(size)
    return count * (1 if dtype == "pred" else int(bits)) // (1 if dtype == "pred" else 8)
