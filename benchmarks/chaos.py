"""Kills a training run again and again, at random moments, and checks that nothing was lost.

    python -m benchmarks.chaos                 # 30 on one mesh, 10 on changing ones; minutes
    python -m benchmarks.chaos --kills 5 --elsewhere 2 --write False
    python -m benchmarks.chaos --processes 2   # every run as two processes that share the mesh

It goes on until there were so many SIGKILLs; about as often a start is ended by SIGTERM or SIGINT.
They come soon after it began, amid steps, amid a picture, or while a checkpoint is half-written,
and of two processes to both, or to one. After each the next start must resume from the newest whole
checkpoint, after a signal that can be heard from the very step that it said it saved. On one mesh
(2 x 2, of 4 to 8 devices) the run must end with the digests of an undisturbed one; on changing
meshes with the same parameters up to rounding. Writes a table into docs/reliability.md and the
numbers into benchmarks/results/chaos_1.json, or chaos_2.json for two processes.
"""

import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np

from benchmarks.chaos_run import LIMIT_SECONDS, ROOT, Mesh, Pace, Run, digests, parameters
from ddpm_jax.config import command_line
from ddpm_jax.runtime.signals import EXIT_CODE

PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results"


PACES = {"same": Pace(20, 32, 60), "others": Pace(5, 8, 20)}
SAME = [Mesh(2, 2, devices) for devices in (4, 6, 8)]
OTHERS = [Mesh(1, 1, 1), Mesh(2, 1, 2), Mesh(8, 1, 8), Mesh(1, 2, 4), Mesh(1, 4, 4), Mesh(2, 4, 8)]
SETS = {"same": SAME, "others": OTHERS}
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


@dataclass(frozen=True)
class Args:
    kills: int = 30  # SIGKILLs on one mesh
    elsewhere: int = 10  # SIGKILLs on changing meshes
    seed: int = 0  # of signals, moments and meshes
    processes: int = 1  # that share the devices; those of a mesh must be a multiple
    out: Path | None = None  # folder for the runs; None: a temporary one
    write: bool = True  # the table and the numbers into this repository


@dataclass(frozen=True)
class Kill:
    """One end of the run, and what came of it."""

    mesh: Mesh
    signal: str
    hit: tuple[int, ...]  # the processes that it was sent to
    moment: str
    logged: int  # the last step in the log
    whole: int  # the newest whole checkpoint when all was over
    exit_codes: tuple[int, ...]  # of each process
    seconds: float  # from the signal to the end of all


def choose_moment(run: Run, rng: random.Random) -> tuple[str, Callable[[], bool]]:
    """A moment to kill at: its name, and whether it has come. All but the first need progress."""
    done, started = max(run.newest(), run.logged()), time.monotonic()
    kind = rng.choice(["start", "step", "save", "save", "picture"])
    if kind == "start":
        delay = rng.uniform(0, 6)
        return f"{delay:.1f} s after the start", lambda: time.monotonic() > started + delay
    if kind == "step":
        step = done + rng.randint(1, run.pace.checkpoint_steps)
        return f"step {step}", lambda: run.logged() >= step
    if kind == "save":
        delay = rng.choice([0, 0, 0.01, 0.05])  # within a save, which takes about 0.2 s
        before, seen = run.half_written(), []

        def saving() -> bool:
            if run.half_written() - before:
                seen.append(time.monotonic())
            return bool(seen) and time.monotonic() >= seen[0] + delay

        return "a save", saving
    step = (done // run.pace.picture_steps + 1) * run.pace.picture_steps
    return f"the picture of step {step}", lambda: run.logged() >= step


def kill(run: Run, meshes: Sequence[Mesh], rng: random.Random) -> tuple[Kill, str]:
    """Starts the run and kills it; what came of it, and what it said."""
    mesh, signum = rng.choice(meshes), rng.choice(SIGNALS)
    everyone = tuple(range(run.count))
    hit = rng.choice([everyone, everyone, (rng.choice(everyone),)])
    moment, reached = choose_moment(run, rng)
    run.start(mesh)
    deadline = time.monotonic() + LIMIT_SECONDS
    while not reached() and run.running():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{moment} did not come")
        time.sleep(0.001)
    sent = time.monotonic()
    run.signal(signum, hit)
    codes, output = run.end()
    name = signal.Signals(signum).name
    seconds = time.monotonic() - sent
    return Kill(mesh, name, hit, moment, run.logged(), run.newest(), codes, seconds), output


def check_end(done: Kill, output: str) -> None:
    """Raises AssertionError unless the processes ended as the signal asks for."""
    struck = {done.exit_codes[i] for i in done.hit}
    if done.signal == "SIGKILL":
        assert struck == {-signal.SIGKILL} and 0 not in done.exit_codes, (done, output)
        return
    if "parameters" not in output:
        # Before it listens, which is the first second, a signal ends Python as it always does; some
        # imports make an error of their own of a KeyboardInterrupt.
        signum = signal.Signals[done.signal]
        assert struck <= {-signum, EXIT_CODE} or "KeyboardInterrupt" in output, (done, output)
        assert 0 not in done.exit_codes, (done, output)
        return
    assert set(done.exit_codes) == {EXIT_CODE}, (done, output)
    assert "Traceback" not in output, (done, output)
    if said := re.search(r"stopped by \w+ after step (\d+), saved;", output):
        assert done.whole == int(said[1]) == done.logged, (done, output)


def resumed_step(output: str) -> int | None:
    """The step that a start went on from; None if it was killed before its first progress line."""
    said = re.search(r": (\d+)/\d+ steps", output)
    return int(said[1]) if said else None


def disturbed(run: Run, meshes: Sequence[Mesh], kills: int, rng: random.Random) -> list[Kill]:
    """SIGKILLs the run so often, checks each end and each beginning, and lets it finish."""
    done: list[Kill] = []
    whole = 0
    while [each.signal for each in done].count("SIGKILL") < kills:
        latest, output = kill(run, meshes, rng)
        check_end(latest, output)
        resumed = resumed_step(output)
        assert resumed in (None, whole), (latest, f"resumed after {resumed}, not {whole}", output)
        assert latest.whole >= whole, (latest, "a whole checkpoint is lost", output)
        whole = latest.whole
        done.append(latest)
        print(f"{len(done)}: {_row(len(done), latest)}", flush=True)
    run.start(meshes[0])
    codes, output = run.end()
    assert set(codes) == {0}, output
    return done


def check_log(run: Run) -> None:
    """Raises AssertionError unless the log holds each step once and each picture is there."""
    logged = [record["step"] for record in run.records() if "loss" in record]
    assert logged == list(range(1, run.steps + 1)), logged
    drawn = {path.name for path in (run.workdir / "samples").glob("*.png")}
    steps = range(1, run.steps + 1)
    due = {n for n in steps if n % run.pace.picture_steps == 0 or n == run.steps}
    assert drawn == {f"step_{n:08d}.png" for n in due}, drawn


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Over all arrays: the largest difference, by the array's largest element."""
    return max(float(np.abs(a[name] - b[name]).max() / np.abs(a[name]).max()) for name in a)


def _row(number: int, done: Kill) -> str:
    mesh = f"{done.mesh.data} x {done.mesh.fsdp} of {done.mesh.devices}"
    one = "" if len(done.hit) == len(done.exit_codes) else f" to process {done.hit[0]}"
    codes = ", ".join(map(str, done.exit_codes))
    cells = (number, mesh, done.signal + one, done.moment, done.logged, done.whole, codes)
    return f"| {' | '.join(map(str, cells))} | {done.seconds:.1f} |"


def _counts(kills: list[Kill]) -> str:
    signals = [each.signal for each in kills]
    return ", ".join(f"{signals.count(name)} x {name}" for name in sorted(set(signals)))


def table(results: dict) -> str:
    """The kills of both runs as Markdown, and how they ended."""
    head = "| | mesh, of devices | signal | moment | logged | whole | exit code | seconds |"
    lines = [
        f"JAX {results['jax']}, Python {results['python']}.",
        "",
        f"**One mesh**: {_counts(results['same'])}, and {results['steps_same']} steps done: "
        "digests of parameters, average and optimizer equal to those of the undisturbed run.",
        "",
        head,
        "|-" * 8 + "|",
        *(_row(i, done) for i, done in enumerate(results["same"], 1)),
        "",
        f"**Changing meshes**: {_counts(results['others'])}, and {results['steps_others']} steps "
        f"done: parameters within {results['difference']:.1e} of the undisturbed run's.",
        "",
        head,
        "|-" * 8 + "|",
        *(_row(i, done) for i, done in enumerate(results["others"], 1)),
    ]
    return "\n".join(lines)


def write(results: dict) -> None:
    """The table into the page, between its marks, and the numbers as JSON."""
    processes = results["processes"]
    before, mark, rest = PAGE.read_text().partition(f"<!-- chaos {processes} -->\n")
    _, end, after = rest.partition(f"<!-- end {processes} -->")
    PAGE.write_text(f"{before}{mark}{table(results)}\n{end}{after}")
    plain = results | {name: [asdict(done) for done in results[name]] for name in SETS}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"chaos_{processes}.json").write_text(json.dumps(plain, indent=1) + "\n")


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    # Behind `nohup` or a shell's `&` SIGINT is ignored, and so it would be by what is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = args.out or Path(tempfile.mkdtemp(prefix="chaos"))
    results: dict = {
        "seed": args.seed,
        "processes": args.processes,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
    }
    wanted = {"same": args.kills, "others": args.elsewhere}
    runs = {
        (name, kind): Run(out / name / kind, kills, PACES[name], args.processes)
        for name, kills in wanted.items()
        for kind in ("undisturbed", "killed")
    }
    for (name, kind), run in runs.items():
        shutil.rmtree(run.workdir, ignore_errors=True)
        results[f"steps_{name}"] = run.steps
        meshes = [mesh for mesh in SETS[name] if mesh.devices % args.processes == 0]
        kills = wanted[name] if kind == "killed" else 0
        try:
            results[name] = disturbed(run, meshes, kills, random.Random(args.seed))
        finally:
            run.signal(signal.SIGKILL)  # if a check failed while it ran
        check_log(run)
    assert digests(runs["same", "killed"]) == digests(runs["same", "undisturbed"])
    pair = [parameters(runs["others", kind]) for kind in ("undisturbed", "killed")]
    results["difference"] = largest_difference(*pair)
    print(table(results))
    assert results["difference"] < 1e-5, results["difference"]
    if args.write:
        write(results)
    if args.out is None:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
