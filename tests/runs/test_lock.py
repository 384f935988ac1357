"""Two trainings never share a run folder, and a killed one locks nobody out; real processes."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ddpm_jax.commands import sample, train
from ddpm_jax.errors import UserError
from ddpm_jax.runs.lock import LOCK, locked
from ddpm_jax.runtime.script import run_script
from tests.run_folders import make_run, tiny

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from ddpm_jax.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder() -> Iterator[Callable[[Path], subprocess.Popen]]:
    """`holder(workdir)`: another process, which has the lock of that folder."""
    started = []

    def start(workdir: Path) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, str(workdir)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def run(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
    try:
        run_script(main)
    except SystemExit as end:
        return end.code
    return 0


def test_a_second_training_is_refused_in_one_line_that_names_the_first(
    holder, tmp_path, tiny_options, monkeypatch, capsys
):
    workdir = tmp_path / "run"
    first = holder(workdir)
    assert run(train.main, monkeypatch, "--workdir", workdir, *tiny_options) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: --workdir {workdir}: another training runs there (process ")
    assert f"(process {first.pid} on {socket.gethostname()}, since 2" in line
    assert line.count("\n") == 1
    assert [path.name for path in workdir.iterdir()] == [LOCK], "it has written nothing"
    assert first.poll() is None


def test_a_training_that_was_killed_leaves_a_file_but_no_lock(holder, tmp_path):
    first = holder(tmp_path)
    with pytest.raises(UserError, match="another training"), locked(tmp_path):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_sampling_needs_no_lock(holder, tmp_path, monkeypatch):
    workdir = make_run(tmp_path / "run", tiny(num_classes=0))
    holder(workdir)
    out = tmp_path / "out"
    assert run(sample.main, monkeypatch, "--workdir", workdir, "--num", 1, "--out", out) == 0
    assert (out / "samples.npz").exists()


def test_the_text_of_the_file_alone_locks_nothing(tmp_path):
    """As another container or another boot has left it, where the number is some other process."""
    (tmp_path / LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": 0}))
    with locked(tmp_path):
        pass


def test_a_file_that_the_last_holder_deletes_meanwhile_is_no_lock(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not calls:  # another process ends between our opening of the file and our lock
            (tmp_path / LOCK).unlink()
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        assert len(calls) == 2
        held = os.open(tmp_path / LOCK, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)


def test_a_file_system_without_locks_is_only_warned_of(tmp_path, monkeypatch, caplog):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        pass
    (message,) = caplog.messages
    assert "No locks available" in message and "start no second training there" in message
