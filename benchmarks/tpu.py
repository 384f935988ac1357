"""What our steps would cost on a TPU, beside the same networks of Flax's own parts. No TPU is used.

    python -m benchmarks.tpu --case ddpm_cifar --steps train_step,sample_step --json FILE
    python -m benchmarks.tpu --case adm64 --topology v5p:2x2x1 --batch-per-chip 64

libtpu compiles each step for the slice and leaves its estimate of the cycles beside each
instruction; `pip install 'jax[tpu]'` in an environment of its own brings it. Peers: ours;
plain_flax (benchmarks/plain_flax.py). Before they are compiled their parameters are counted and
their outputs compared on the CPU. Each step is compiled in a process of its own, for minutes.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks import cases, plain_flax, report
from ddpm_jax.config import Config, ParallelConfig, build_diffusion, command_line
from ddpm_jax.errors import UserError
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.guided_chain import GuidanceModels
from ddpm_jax.generation.sample_batch import Scales
from ddpm_jax.models import Network, build_network, count_parameters
from ddpm_jax.runtime import devices
from ddpm_jax.runtime.compiled_cost import program_cost
from ddpm_jax.runtime.script import reporting_errors
from ddpm_jax.runtime.tpu_slices import prepare, slice_mesh, tpu_slice, use_no_tpu
from ddpm_jax.training.state import init_state, make_optimizer
from ddpm_jax.training.step import abstract_batch, make_train_step

LIMITS = """
How to read it. Cycles are the compiler's estimates for one core, added up: no TPU has run this.
Element-wise work in bfloat16 has the price of float32. Copies are assumed to hide behind other
work. Collectives, custom calls and the hardware's random bits have no price; they are listed.
Compare programs for one chip; differences under 3 % decide nothing.
""".strip()
# Of the largest output.
TOLERANCE = 1e-4
BUILDERS = {"ours": build_network, "plain_flax": plain_flax.build_network}


@dataclass(frozen=True)
class Args:
    case: Literal["small32", "ddpm_cifar", "adm64"] = "ddpm_cifar"
    steps: str = ",".join(cases.STEPS)
    topology: str = "v5e:2x2"  # a slice of chips
    batch_per_chip: int = 0  # images; 0: 128, and 16 for adm64
    peers: str = "ours,plain_flax"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of computation
    json: Path | None = None  # file for the rows, which are added to those of other cases


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__ or "")
    steps, peers = args.steps.split(","), args.peers.split(",")
    if unknown := set(steps) - set(cases.STEPS) | set(peers) - set(BUILDERS):
        raise UserError(f"unknown: {', '.join(sorted(unknown))}")
    prepare(args.topology)
    if len(peers) > 1:
        in_a_process(compare, args.case, peers)
    rows: list[dict[str, Any]] = []
    for step in steps:
        for peer in peers:
            rows.append(in_a_process(measure, args, step, peer))
            print_row(rows[-1], rows)
            if args.json:
                write(args.json, rows[-1:])
    print(LIMITS)


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns that starts JAX in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(function, *arguments).result()


def compare(case: str, peers: list[str]) -> None:
    """Exits unless the peers have as many parameters, and the same outputs up to rounding."""
    use_no_tpu()
    models = cases.load(case)
    for config in (models.model, models.classifier):
        config = replace(config, model=replace(config.model, dtype="float32", dropout=0.0))
        networks = {peer: BUILDERS[peer](config) for peer in peers}
        shapes = {peer: network.abstract for peer, network in networks.items()}
        if len({str(sorted(each.items())) for each in shapes.values()}) > 1:
            sys.exit(f"{case}: the networks have not the same parameters")
        print(f"{case}: {count_parameters(shapes[peers[0]]):,} parameters each", flush=True)
        numbers = cases.examples(config, 2)
        t = numbers["t"].astype(np.float32)
        first, *others = (
            jax.jit(network.apply)(
                cases.network_weights(network), numbers["noise"], t, numbers["label"]
            )
            for network in networks.values()
        )
        for other in others:
            difference = float(jnp.abs(first - other).max() / jnp.abs(first).max())
            if not difference <= TOLERANCE:
                sys.exit(f"{case}: the outputs differ by {difference:.1e} of the largest")


def measure(args: Args, step: str, peer: str) -> dict[str, Any]:
    """The row of one step of one peer."""
    use_no_tpu()
    case = cases.load(args.case)
    batch = args.batch_per_chip or (16 if args.case == "adm64" else 128)
    target = tpu_slice(args.topology)
    size = batch * target.size
    mesh = slice_mesh(target, ParallelConfig(), size)
    model, classifier = (
        replace(
            config,
            model=replace(config.model, dtype=args.dtype),
            train=replace(config.train, batch_size=size, grad_accumulation_steps=1),
        )
        for config in (case.model, case.classifier)
    )
    started = time.monotonic()
    network = BUILDERS[peer](model)
    if step == "train_step":
        lowered = lower_training(peer, model, network, mesh)
    else:
        guide = (BUILDERS[peer](classifier),) if step == "guided_step" else ()
        lowered = lower_chain(model, network, mesh, *guide)
    compiled = lowered.compile()
    cost, memory = program_cost(compiled), compiled.memory_analysis()
    analysis = compiled.cost_analysis()
    return {
        "case": args.case,
        "step": step,
        "peer": peer,
        "topology": args.topology,
        "batch_per_chip": batch,
        "dtype": args.dtype,
        "cycles": cost.total_cycles,
        "bytes": analysis["bytes accessed"],
        "flops": analysis["flops"],
        "temporaries": memory.temp_size_in_bytes,
        "cycles_by_kind": dict(cost.cycles.most_common()),
        "collective_bytes": dict(cost.collectives),
        "uncounted": dict(cost.uncounted),
        "compile_seconds": round(time.monotonic() - started),
    }


def lower_training(peer: str, config: Config, network: Network, mesh: Mesh) -> jax.stages.Lowered:
    """A training step, with its optimizer and the average of the weights."""
    if peer == "ours":
        optimizer = make_optimizer(config.train)
        step = make_train_step(config, build_diffusion(config.diffusion), network, optimizer)
        state = jax.eval_shape(
            lambda params: init_state(params, optimizer, config), network.abstract
        )
    else:
        init, step = plain_flax.make_train_step(config, network)
        state = jax.eval_shape(init, network.abstract)
    jitted = devices.pmapped(step, mesh, devices.state_sharding(state, mesh))
    return jitted.lower(state, abstract_batch(config))


def lower_chain(
    config: Config, network: Network, mesh: Mesh, classifier: Network | None = None
) -> jax.stages.Lowered:
    """The chain of DDPM, a loop over its steps; its estimate is that of one step."""
    sample = replace(config.sample, sampler="ddpm", batch_size=config.train.batch_size)
    guidance = GuidanceModels(classifier)
    generator = Generator(replace(config, sample=sample), network, mesh, guidance=guidance)
    return generator.lower(network.abstract, Scales(guidance=float(classifier is not None)))


def print_row(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """A line of the table, and where the cycles go."""
    first = next(each for each in rows if each["step"] == row["step"])
    ratio = first["cycles"] / row["cycles"]
    print(
        f"{row['case']} {row['step']:12} {row['peer']:10} {row['topology']} x "
        f"{row['batch_per_chip']}: {row['cycles'] / 1e6:.1f} M cycles, "
        f"{row['cycles'] / row['flops'] * 1e6:.1f} M a TFLOP; {first['peer']} takes {ratio:.2f} of "
        f"them; {row['flops'] / 1e12:.2f} TFLOP, {row['bytes'] / 1e9:.1f} GB accessed, "
        f"{row['temporaries'] / 1e9:.2f} GB for a while; compiled in {row['compile_seconds']} s"
    )
    kinds = (f"{kind} {n / 1e6:.1f}" for kind, n in row["cycles_by_kind"].items())
    print(f"    {', '.join(kinds)}", flush=True)
    if row["uncounted"]:
        print(f"    without a price: {row['uncounted']}", flush=True)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Adds the rows to the list in the file, in place of those of the same program."""
    key = ("case", "step", "peer", "topology", "batch_per_chip", "dtype")
    about = {"command": report.command(), "versions": report.about()["versions"]}
    old = json.loads(path.read_text()) if path.exists() else []
    by_key = {tuple(row[name] for name in key): row for row in [*old, *(r | about for r in rows)]}
    report.write(path, list(by_key.values()))


if __name__ == "__main__":
    with reporting_errors():
        main()
