"""Seconds and memory that the metrics take, the features being there.

    python -m benchmarks.metrics_cost
    python -m benchmarks.metrics_cost --num 10000 --metrics fid,precision --json FILE

Features are random numbers, as wide as Inception's; the metrics take as long with any.
"""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import report
from ddpm_jax.config import command_line
from ddpm_jax.errors import UserError, suggestion
from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.metrics import METRICS, Reference, Samples
from ddpm_jax.evaluation.sample_suite import checked_measure
from ddpm_jax.evaluation.statistics import fit
from ddpm_jax.runtime.script import reporting_errors

POOL, SPATIAL, CLASSES = 2048, 2023, 1008


@dataclass(frozen=True)
class Args:
    num: int = 50_000  # samples
    real: int = 10_000  # real images, as many as ADM's evaluator compares with
    metrics: str = "fid,sfid,is,kid,precision,recall"
    json: Path | None = None  # file for the figures


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__ or "")
    names = args.metrics.split(",")
    if unknown := set(names) - set(METRICS):
        raise UserError(f"--metrics {min(unknown)}: {suggestion(min(unknown), METRICS)}")
    random = np.random.default_rng(0)
    pool, spatial, logits = (
        random.standard_normal((args.num, width), dtype=np.float32)
        for width in (POOL, SPATIAL, CLASSES)
    )
    real = random.standard_normal((args.real, POOL), dtype=np.float32)
    samples = Samples(
        Features(pool, logits=logits, spatial=spatial),
        Reference(fit(real), fit(real[:, :SPATIAL]), real),
    )
    seconds = {}
    for name in names:
        started = time.perf_counter()
        checked_measure(samples, [name], "a set of random features")
        seconds[name] = time.perf_counter() - started
        print(f"{name:10} {seconds[name]:6.1f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"memory     {peak / 1e9:6.1f} GB at the peak")
    if args.json is not None:
        sizes = {"num": args.num, "real": args.real}
        found = {"command": report.command(), **sizes, "seconds": seconds, "peak_bytes": peak}
        report.write(args.json, found | report.about())


if __name__ == "__main__":
    with reporting_errors():
        main()
