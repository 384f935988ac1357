"""Our steps beside those of PyTorch peers: the same networks, weights and arithmetic, in turn.

    python -m benchmarks.run --case small32 --peers ours,diffusers,torch_adm --json FILE
    python -m benchmarks.run --case ddpm_cifar --steps train_step --dtype bfloat16 --device gpu

Cases: small32 (32 channels), ddpm_cifar (DDPM's 35.7 M), adm64 (ADM's at 64x64; a GPU), pipeline
(data alone, benchmarks/pipeline.py, whose peer is a DataLoader). Peers: ours; diffusers (its
UNet2DModel); torch_adm (benchmarks/torch_adm.py, eager); torch_compiled (the same, compiled). Each
is a process of its own, all stay alive, and one works at a time: A B C, A B C, ... Before that all
must agree on parameter counts, outputs, losses and gradients. What is printed are medians: the
milliseconds of a step, and in brackets the speed of the first peer as a multiple of this one's.
"""

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import cases, report
from benchmarks.cases import Work
from ddpm_jax.config import command_line
from ddpm_jax.runtime import huge_pages

EAGER = {"diffusers", "torch_adm"}
# Of the largest number of each array that is compared.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "uint8": 0}


@dataclass(frozen=True)
class Args:
    case: Literal["small32", "ddpm_cifar", "adm64", "pipeline"] = "small32"
    peers: str = "ours,diffusers,torch_adm"
    steps: str = ",".join(cases.STEPS)
    batch_size: int = 0  # 0: that of the case
    dtype: Literal["float32", "bfloat16"] = "float32"  # of ours and the peers, but eager ones
    device: Literal["cpu", "gpu"] = "cpu"
    rounds: int = 7  # measurements of each peer
    count: int = 30  # steps of a measurement: after a pause the first is slower
    repeats: int = 1  # measurements of a peer in a row, at each of its turns
    json: Path | None = None  # file for the figures, which are added to those of other cases


def worker(pipe: Connection, peer: str, work: Work) -> None:
    """Builds a peer, and does what it is told: "check", "run" or "peak_bytes"."""
    os.environ["JAX_PLATFORMS"] = "cuda" if (peer, work.device) == ("ours", "gpu") else "cpu"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # peers share the memory
    try:
        if work.case == "pipeline":
            from benchmarks import pipeline

            measured = (pipeline.ours if peer == "ours" else pipeline.torch_loader)(work)
        elif peer == "ours":
            from benchmarks import ours

            measured = ours.build(work)
        else:
            from benchmarks import torch_peers

            measured = torch_peers.build(work, peer)
        pipe.send(measured.parameters)
        while (asked := pipe.recv()) is not None:
            start = time.perf_counter()
            answer = getattr(measured, asked)()
            pipe.send((answer, time.perf_counter() - start))
    except Exception:
        pipe.send(traceback.format_exc())


class Peer:
    """A worker process."""

    def __init__(self, name: str, work: Work):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=worker, args=(other, name, work))
        self._process.start()
        self.parameters = self._answer()

    def ask(self, what: str) -> tuple[Any, float]:
        """What it answers, and the seconds that took."""
        self._pipe.send(what)
        return self._answer()

    def _answer(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, str):
            sys.exit(answer)
        return answer

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def measure(names: list[str], work: Work, rounds: int, repeats: int) -> dict[str, dict[str, Any]]:
    """By peer: parameters, milliseconds a step and their median, peak bytes, the first's speed."""
    works = {name: work for name in names}
    if work.device == "gpu":  # what people do who do no more than run it
        works |= {name: replace(work, dtype="float32") for name in EAGER & set(names)}
    peers = {name: Peer(name, works[name]) for name in names}
    try:
        agree({name: peer.parameters for name, peer in peers.items()})
        compare({name: peer.ask("check")[0] for name, peer in peers.items()}, work.dtype)
        # The first compiles, and reads images for the first time.
        first = {name: peer.ask("run")[1] for name, peer in peers.items()}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name, peer in peers.items():
                seconds[name] += [peer.ask("run")[1] for _ in range(repeats)]
        peak = {name: peer.ask("peak_bytes")[0] for name, peer in peers.items()}
    finally:
        for peer in peers.values():
            peer.close()
    reference = seconds[names[0]]
    return {
        name: {
            "parameters": peers[name].parameters,
            "ms": 1000 * statistics.median(each) / work.count,
            "mean_ms": 1000 * statistics.mean(each) / work.count,
            "speed_of_first": statistics.median(
                b / a for a, b in zip(reference, each, strict=True)
            ),
            "all_ms": [1000 * n / work.count for n in each],
            "first_ms": 1000 * first[name] / work.count,
            "peak_bytes": peak[name],
        }
        for name, each in seconds.items()
    }


def agree(parameters: dict[str, int]) -> None:
    """Exits unless all peers have as many parameters."""
    if len(set(parameters.values())) > 1:
        sys.exit(f"the networks differ in size: {parameters}")


def compare(checks: dict[str, dict[str, np.ndarray]], dtype: str) -> None:
    """Exits unless all peers have the numbers of the first, up to rounding."""
    (first, wanted), *others = checks.items()
    for name, found in others:
        for what, value in wanted.items():
            error = np.abs(found[what] - value).max() / np.abs(value).max()
            if not error <= TOLERANCE[dtype]:
                sys.exit(f"{what} of {name} differs from that of {first} by {error:.1e}")


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    if value := huge_pages.setting():  # for all peers, as train.py asks for them
        os.environ[huge_pages.VARIABLE] = value
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for work in works(args, Path(folder)):
            names = ["ours", "torch_loader"] if args.case == "pipeline" else args.peers.split(",")
            found = {"command": report.command(), **asdict(work)}
            found["peers"] = measure(names, work, args.rounds, args.repeats)
            found.pop("folder")
            results.append(found)
            print(row(found), flush=True)
    if args.json is not None:
        write(args.json, results)


def works(args: Args, folder: Path) -> Iterator[Work]:
    """What the arguments ask for, one after the other."""
    if args.case == "pipeline":
        from benchmarks import pipeline

        pipeline.make_folder(folder)
        size = args.batch_size or 128
        yield Work("pipeline", "batch", size, pipeline.IMAGES // size, "uint8", "cpu", str(folder))
        return
    case = cases.load(args.case)
    batches = case.gpu_batches if args.device == "gpu" else (case.cpu_batch,)
    for batch_size in (args.batch_size,) if args.batch_size else batches:
        for step in args.steps.split(","):
            yield Work(args.case, step, batch_size, args.count, args.dtype, args.device)


def row(result: dict[str, Any]) -> str:
    """A line of the table: milliseconds a step, and the speed of the first as a share."""
    cells = [
        f"{name} {peer['ms']:.1f} ms" + (f" (x {peer['speed_of_first']:.2f})" if i else "")
        for i, (name, peer) in enumerate(result["peers"].items())
    ]
    return f"{result['case']} {result['step']}, batch {result['batch_size']}: {', '.join(cells)}"


def write(path: Path, results: list[dict[str, Any]]) -> None:
    """Adds the results to those in the file, with the machine they are of."""
    old = json.loads(path.read_text())["results"] if path.exists() else []
    key = ("case", "step", "batch_size", "dtype", "device")
    fresh = {tuple(result[name] for name in key) for result in results}
    kept = [result for result in old if tuple(result[name] for name in key) not in fresh]
    report.write(path, report.about() | {"results": kept + results})


if __name__ == "__main__":
    main()
