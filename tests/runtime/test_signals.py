"""SIGTERM and SIGINT: a stop at any moment loses nothing, and exits with the code for it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ddpm_jax.commands import evaluate, sample, train
from ddpm_jax.evaluation import bits_per_dimension, guidance_sweep
from ddpm_jax.generation import run as generation_run
from ddpm_jax.generation import sample_batch
from ddpm_jax.runs import checkpoints, folder
from ddpm_jax.runtime import signals
from ddpm_jax.runtime.script import run_script
from ddpm_jax.training import evaluators, validation
from tests.run_folders import make_run, tiny

ROOT = Path(__file__).resolve().parents[2]

# hashlib holds the main thread as XLA's compiler does: signals wait, other threads run.
BUSY = """import hashlib, threading
threading.Timer(0.3, lambda: print("ready", flush=True)).start()
hashlib.pbkdf2_hmac("sha256", b"", b"", 3 * 10**8)"""


@pytest.fixture(autouse=True)
def sigint_is_heard():
    """Behind `nohup` or a shell's `&` it is ignored, also by what is started from there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def script():
    """`script(body)`: a process that runs `body`, which prints "ready" when it may be stopped.

    None outlives its test.
    """
    started: list[subprocess.Popen] = []
    yield lambda body: started.append(start_script(body)) or started[-1]
    for process in started:
        process.kill()


def start_script(body: str) -> subprocess.Popen:
    lines = [f"    {line}" for line in body.splitlines()]
    code = "\n".join(
        [
            "import time",
            "from ddpm_jax.runtime import signals",
            "from ddpm_jax.runtime.script import run_script",
            "def main():",
            *lines,
            "run_script(main)",
        ]
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


@pytest.mark.parametrize("signum", signals.SIGNALS)
def test_a_signal_ends_a_script_where_it_is_in_one_line(script, signum):
    process = script("print('ready', flush=True)\ntime.sleep(60)")
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == signals.EXIT_CODE == 75
    assert stderr == f"stopped by {signum.name}; the same command goes on\n"


@pytest.mark.parametrize("end", ["signals.check()", ""])
def test_a_signal_waits_for_a_safe_point_or_for_the_end_of_the_block(script, end):
    process = script(f"""with signals.deferred(lambda: "after a save"):
    print('ready', flush=True)
    while not signals._received:
        time.sleep(0.001)
    print('saved', flush=True)
    {end}
    {"print('too late')" if end else ""}
print('too late')""")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75 and stdout == "saved\n"
    assert stderr == "stopped by SIGTERM after a save; the same command goes on\n"


@pytest.mark.parametrize("second", signals.SIGNALS)
def test_a_second_signal_ends_even_what_python_cannot_interrupt(script, second):
    process = script(BUSY)
    process.send_signal(signal.SIGINT)
    assert "once more to stop at once" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(second)
    assert process.stderr.readline() == (
        f"stopped at once by a second signal, {second.name}; the same command goes on\n"
    )
    assert process.wait(timeout=60) == 75


IGNORED = {
    "a destructor": """class Collected:
    __del__ = amid
Collected()""",
    "the callback of a reference": """class Collected:
    pass
collected = Collected()
reference = weakref.ref(collected, amid)
del collected""",
    # Disabled, it collects when it is told, not in another thread.
    "a callback of the garbage collector": """gc.disable()
gc.callbacks.append(amid)
gc.collect()""",
}


@pytest.mark.parametrize("where", IGNORED)
def test_a_signal_that_comes_where_python_ignores_exceptions_is_heard_after_it(script, where):
    process = script(f"""import gc, weakref
def amid(*_):
    gc.callbacks.clear()
    print('ready', flush=True)
    while not signals._received:
        time.sleep(0.001)
{IGNORED[where]}
time.sleep(60)
print('too late')""")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 75 and stdout == ""
    assert stderr == "stopped by SIGTERM; the same command goes on\n"


def test_what_else_python_ignores_it_prints_as_ever(script):
    process = script("""class Collected:
    def __del__(self):
        raise KeyError("lost")
Collected()
print('ready', flush=True)""")
    assert "KeyError: 'lost'" in process.communicate(timeout=60)[1]
    assert process.returncode == 0


def test_a_signal_that_the_parent_ignores_stays_ignored():
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(2, signal.SIG_IGN)\n" + IGNORES],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "went on\n" and process.returncode == 0


IGNORES = """
import time
from ddpm_jax.runtime.script import run_script
def main():
    print("ready", flush=True)
    time.sleep(0.5)
    print("went on")
run_script(main)
"""


def test_handlers_are_those_of_before_afterwards():
    run_script(lambda: None)  # what it leaves, it leaves once
    signums = *signals.SIGNALS, signal.SIGALRM
    before = [signal.getsignal(signum) for signum in signums], sys.unraisablehook
    with pytest.raises(SystemExit) as end:
        run_script(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert end.value.code == 75
    assert ([signal.getsignal(signum) for signum in signums], sys.unraisablehook) == before
    signals.check()  # the signal is over, too


def signal_within(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int = 1
) -> pytest.MonkeyPatch:
    """Has a function of the project receive SIGTERM when it is called for that time."""
    function, calls = getattr(owner, name), []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapper)


def start(main: Callable[[], None], arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    try:
        run_script(main)
    except SystemExit as end:
        return end.code
    return 0


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


MORE = """
--data.held-out 5% --train.validate-every-steps 2 --train.early-stop-validations 9
--train.sample-every-steps 3 --train.checkpoint-every-steps 0 --sample.steps 5
""".split()


@pytest.mark.slow  # over a minute; kill -9 at any moment is not slow: test_train.py
def test_a_run_stopped_at_any_moment_ends_as_if_undisturbed(
    tmp_path, tiny_options, monkeypatch, capsys
):
    def train_in(name: str, *within: Any) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            if within:
                signal_within(patch, *within)
            code = start(
                train.main, ["--workdir", str(tmp_path / name), *tiny_options, *MORE], patch
            )
        return code, capsys.readouterr().err

    assert train_in("whole")[0] == 0
    stopped = tmp_path / "stopped"
    for within, step in [
        ((folder, "create_run_folder"), None),  # before there is anything to save
        ((train, "make_train_step"), None),
        ((train.devices, "shard_local_batch"), 1),  # before the first step compiles
        ((validation.EarlyStop, "add"), 2),
        ((evaluators, "picture_inputs"), 3),
        ((evaluators, "picture_inputs"), 3),  # it is drawn again
        ((train.devices, "shard_local_batch", 2), 5),
        ((checkpoints.Checkpoints, "save"), 6),
    ]:
        code, stderr = train_in("stopped", *within)
        where = f" after step {step}, saved" if step else ""
        assert code == 75 and f"stopped by SIGTERM{where}; the same command goes on" in stderr
        if step:
            assert (stopped / "checkpoints" / str(step)).exists()
        if step == 3:
            assert not (stopped / "samples" / "step_00000003.png").exists()
    assert train_in("stopped")[0] == 0

    *ours, our_end = lines(stopped)
    *theirs, their_end = lines(tmp_path / "whole")
    assert our_end == their_end
    assert [r for r in ours if "held_out_loss" in r] == [r for r in theirs if "held_out_loss" in r]
    # Steps that a stop had not logged yet have a line of their own.
    assert [r["step"] for r in ours if "loss" in r] == [1, 2, 3, 4, 5, 6]
    for name in ("samples/step_00000003.png", "samples/step_00000006.png"):
        assert (stopped / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


PICTURES = f"""
--config {ROOT}/configs/s_curve.py --model.channels 8 --model.num-res-blocks 1 --sample.num 4
--diffusion.timesteps 20 --train.batch-size 8 --train.steps 3 --train.warmup-steps 0
--train.sample-every-steps 2 --train.checkpoint-every-steps 2
""".split()


@pytest.mark.slow  # compiles a run of its own
def test_what_ends_a_run_amid_a_picture_costs_no_step(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    arguments = ["--workdir", str(workdir), *PICTURES]
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(evaluators, "picture_inputs", mock.Mock(side_effect=MemoryError))
        start(train.main, arguments, patch)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["2"]
    assert start(train.main, arguments, monkeypatch) == 0
    pictures = sorted(path.name for path in (workdir / "samples").iterdir())
    assert pictures == ["step_00000002.png", "step_00000003.png"]


def test_sampling_stops_too(tiny_run, tmp_path, monkeypatch, capsys):
    arguments = ["--workdir", str(tiny_run), "--num", "4", "--out", str(tmp_path / "drawn")]
    with monkeypatch.context() as patch:
        signal_within(patch, sample_batch, "save_arrays")
        assert start(sample.main, arguments, patch) == 75
    assert "stopped by SIGTERM; the same command goes on" in capsys.readouterr().err
    assert start(sample.main, arguments, monkeypatch) == 0


@pytest.mark.parametrize(
    ("script", "module"),
    [
        (sample, generation_run),
        (evaluate, bits_per_dimension),
        (guidance_sweep, generation_run),
    ],
)
def test_a_signal_that_nobody_passed_on_is_heard_at_the_next_batch(
    tiny_run, tmp_path, monkeypatch, capsys, script, module
):
    """As in a `deferred` block that ends with an error, or one that a library took for its own."""
    arguments = ["--workdir", str(tiny_run), "--num", "8", "--out", str(tmp_path / "out")]
    progress = module.progress

    def unheard(*arguments: Any) -> Any:
        signals._received = signal.SIGTERM
        return progress(*arguments)

    if script is guidance_sweep:
        make_run(
            tmp_path / "judge",
            tiny(kind="classifier", pool="adaptive", image_size=8, num_classes=10),
        )
        arguments += ["--judge", str(tmp_path / "judge"), "--steps", "5"]
    monkeypatch.setattr(module, "progress", unheard)
    assert start(script.main, arguments, monkeypatch) == 75
    assert "stopped by SIGTERM; the same command goes on" in capsys.readouterr().err
