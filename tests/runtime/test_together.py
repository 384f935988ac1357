"""What two processes agree on and how they stop, seen in one pair that does nothing else."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from ddpm_jax import errors
from ddpm_jax.runtime import processes, signals
from tests.runtime.test_processes import ROOT, environ, free_port

WORKER = """
import json, os, sys, time
from pathlib import Path
from typing import NamedTuple
import jax
import numpy as np
from ddpm_jax import errors
from ddpm_jax.config import ParallelConfig
from ddpm_jax.runs import checkpoints as checkpoints_module, partial_results
from ddpm_jax.runs.checkpoints import Checkpoints
from ddpm_jax.runtime import devices, processes, signals
from ddpm_jax.runtime.files import replacing
from ddpm_jax.runtime.script import run_script

folder = Path(sys.argv[1])

def report(**what):
    print(json.dumps(what), file=sys.stderr, flush=True)

def agreements():
    mesh = devices.make_mesh(ParallelConfig(data=2, fsdp=2), 4)
    print("all met", flush=True)
    batch = devices.shard_global_batch(np.arange(4.0), mesh)
    weights = jax.ShapeDtypeStruct((2**14,), np.float32)
    split = devices.state_sharding(weights, mesh)
    weights = jax.jit(lambda: jax.numpy.ones(weights.shape), out_shardings=split)()
    mean = jax.jit(lambda a, b: a.mean() + b.sum(), out_shardings=devices.replicated(mesh))
    devices.to_host([mean(batch, weights), batch, weights])
    print("computed", flush=True)
    try:
        processes.assert_equal_across_processes({"examples": 7 + jax.process_index(), "seed": 0})
    except errors.UserError as error:
        report(differ=str(error))

def partial_results_are_read():
    shared, own = folder / "part.npz", folder / f"{jax.process_index()}" / "part.npz"
    if processes.is_main_process():
        for path in (shared, own):
            partial_results.save_partial(path, {"x": np.arange(3)})
    processes.all_gather_objects(None)
    sent = []
    on_main_process = processes.on_main_process
    processes.on_main_process = lambda make: sent.append(1) or on_main_process(make)
    paths = shared, own, folder / "none.npz"
    found = [partial_results.read_partial_together(path, ["x"]) for path in paths]
    report(partial=[part and part["x"].tolist() for part in found], sent=len(sent))

class State(NamedTuple):
    params: dict
    ema: dict

def saved():
    def slow_checksums(path):
        time.sleep(1)
        with replacing(path / "checksummed") as temporary:
            temporary.write_text("")

    checkpoints_module.write_checksums = slow_checksums
    everywhere = devices.replicated(devices.make_mesh(ParallelConfig(), 4))
    weights = jax.jit(lambda: {"w": jax.numpy.ones(4)}, out_shardings=everywhere)()
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, State(weights, weights), '{"seed": 0}')
        checkpoints.wait()
        report(checksummed=(folder / "checkpoints/1/checksummed").exists())

def stops(name, safe_point):
    try:
        for n in range(1, 2000):
            if n == 15:
                report(ready=name)
            time.sleep(0.01)
            safe_point(n)
    except signals.Interrupted:
        report(**{name: n})
        raise

def first():
    processes.join()
    agreements()
    partial_results_are_read()
    saved()
    stops("steps", signals.check_together)

def second():
    stops("slices", signals.with_stop_check(lambda n: None))

for main in (first, second):
    try:
        run_script(main)
    except SystemExit as end:
        report(exit=end.code)
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[dict]]]:
    """The stdout and the reports of each of two processes; the second one got the signals."""
    folder = tmp_path_factory.mktemp("pair")
    shared = environ(JAX_COORDINATOR_ADDRESS=f"localhost:{free_port()}", JAX_NUM_CPU_DEVICES="2")
    outputs = [(folder / f"{i}.out", folder / f"{i}.err") for i in range(2)]
    both = []
    for i, (out, err) in enumerate(outputs):
        with out.open("w") as stdout, err.open("w") as stderr:
            command = [sys.executable, "-c", WORKER, str(folder)]
            env = os.environ | shared | {processes.INDEX: str(i)}
            both.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=stdout, stderr=stderr))
    try:
        for name in ("steps", "slices"):
            while f'"ready": "{name}"' not in outputs[1][1].read_text():
                assert both[1].poll() is None, [err.read_text() for _, err in outputs]
                time.sleep(0.01)
            both[1].send_signal(signal.SIGTERM)
        assert [process.wait(timeout=120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    return [(out.read_text(), reports(err)) for out, err in outputs]


def reports(path: Path) -> list[dict]:
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def named(pair: list[tuple[str, list[dict]]], name: str) -> list:
    """The reports of that name, of each process."""
    return [[line[name] for line in lines if name in line] for _, lines in pair]


def test_gloo_connects_them_before_anything_takes_time(pair):
    out = pair[0][0]
    assert out.index("[Gloo]") < out.index("all met") < out.index("computed")
    assert "[Gloo]" not in out[out.index("all met") : out.index("computed")]
    assert "all met" not in pair[1][0]  # the second one is quiet


def test_what_differs_is_named_by_both(pair):
    [said], [same] = named(pair, "differ")
    assert said == same and "examples is 7 in process 0 and 8 in process 1: start all" in said


def test_each_reads_shared_files_itself_and_is_sent_those_that_only_the_first_sees(pair):
    assert named(pair, "partial") == [[[[0, 1, 2], [0, 1, 2], None]]] * 2
    assert named(pair, "sent") == [[1]] * 2


def test_both_wait_for_the_checksums_of_the_last_checkpoint(pair):
    assert named(pair, "checksummed") == [[True]] * 2


def test_both_stop_after_the_same_step_or_slice_if_one_hears_a_signal(pair):
    [step], [same_step] = named(pair, "steps")
    [slice_], [same_slice] = named(pair, "slices")
    assert step == same_step and step % signals.AGREE_EVERY_STEPS == 0
    assert slice_ == same_slice
    assert named(pair, "exit") == [[75, 75]] * 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (signals.Interrupted(signal.SIGTERM, "after step 3"), 75, "stopped by SIGTERM after"),
        (errors.UserError("no such set"), 2, "error: no such set\n"),
        (errors.RunError("disk full"), 1, "stopped: disk full\n"),
        (ZeroDivisionError("by zero"), 1, "Traceback .*ZeroDivisionError: by zero\n$"),
    ],
)
def test_a_process_that_ends_alone_says_why_at_once_and_leaves_with_its_code(
    error, code, line, monkeypatch, capsys
):
    left = []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(processes, "LEAVE_SECONDS", 0)
    monkeypatch.setattr(processes, "_leave", lambda *args: left.append(args))
    with pytest.raises(SystemExit) as end, processes.exit_together():
        raise error
    assert re.match(line, capsys.readouterr().err, re.DOTALL)
    while not left:
        time.sleep(0.001)
    assert end.value.code == code and left == [(code,)]
