"""How the cost of our steps grows with the batch, the resolution and the length of the chain.

    python -m benchmarks.growth --json benchmarks/results/growth.json

The network is that of the case small32; at other resolutions it has the same widths, and attends at
16 x 16. On a CPU there is a device a core throughout. FLOPs are counted by XLA. The memory is what
the forward pass keeps for the backward pass, which does not depend on the device, with and without
`model.remat`. Each size is a program: it is compiled once, by the first step, and never again.
"""

import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import cases, ours, report
from benchmarks.cases import Measured, Work
from ddpm_jax.config import Config, command_line, data_shape
from ddpm_jax.models import build_network
from ddpm_jax.runtime import devices
from ddpm_jax.training.throughput import TRAINING_EVALUATIONS, evaluation_flops

BATCHES, SIDES, CHAINS = (2, 4, 8, 16, 32, 64), (16, 32, 64), (5, 10, 20, 40, 80)
COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Args:
    rounds: int = 5  # measurements of each size; medians count
    json: Path | None = None  # file for the figures


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event == COMPILED else None
    )
    devices.use_every_core()
    config = cases.load("small32").model

    def timed(measured: Measured) -> tuple[float, int]:
        """Seconds, and the programs that were compiled after the first time."""
        measured.run()
        before, seconds = len(compiled), []
        for _ in range(args.rounds):
            start = time.perf_counter()
            measured.run()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds), len(compiled) - before

    tables: dict[str, list[dict[str, Any]]] = {"batch": [], "resolution": [], "chain": []}

    def train(table: str, size: int, config: Config) -> None:
        work = Work("small32", "train_step", size, 3, "float32", "cpu")
        seconds, again = timed(ours.build(work, config))
        rate = size * work.count / seconds
        flops = TRAINING_EVALUATIONS * evaluation_flops(config, build_network(config))
        kept = [residual_bytes(config, size, remat) for remat in (False, True)]
        found = {
            "batch": size,
            "side": config.data.image_size,
            "images_per_second": rate,
            "gflop_per_image": flops / 1e9,
            "gflop_per_second": rate * flops / 1e9,
            "kept_mb": kept[0] / 1e6,
            "kept_mb_remat": kept[1] / 1e6,
            "compiled_again": again,
        }
        tables[table].append(found)
        print(found, flush=True)

    for size in BATCHES:
        train("batch", size, config)
    for side in SIDES:
        data = replace(config.data, image_size=side)
        train("resolution", 8, replace(config, data=data))
    for steps in CHAINS:
        work = Work("small32", "sample_step", 16, steps, "float32", "cpu")
        seconds, again = timed(ours.build(work, config))
        found = {"steps": steps, "seconds": seconds, "compiled_again": again}
        tables["chain"].append(found)
        print(found, flush=True)
    if args.json is not None:
        report.write(args.json, {"command": report.command()} | report.about() | tables)


def residual_bytes(config: Config, batch_size: int, remat: bool) -> int:
    """What the network's forward pass keeps for its backward pass, parameters apart."""
    config = replace(config, model=replace(config.model, remat=remat, dropout=0.0))
    network = build_network(config)
    x = jax.ShapeDtypeStruct((batch_size, *data_shape(config)), np.float32)
    t = jax.ShapeDtypeStruct((batch_size,), np.float32)

    def backward(params: dict, x: jax.Array, t: jax.Array) -> Any:
        return jax.vjp(lambda params: network.apply(params, x, t), params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, network.abstract, x, t))
    weights = sum(leaf.size for leaf in network.abstract.values())
    return 4 * (sum(leaf.size for leaf in kept) - weights)


if __name__ == "__main__":
    main()
