"""A full disk while a checkpoint is written: one clear error, and nothing of before is lost."""

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest

from ddpm_jax.commands import train as script
from ddpm_jax.runs.checkpoints import Checkpoints
from ddpm_jax.runs.checksums import CHECKSUMS
from ddpm_jax.runtime.script import run_script

ROOT = Path(__file__).resolve().parents[2]
ROOM = 100_000  # bytes: enough for the log, too little for a checkpoint


LIMITED = pytest.param("a limit for files", marks=pytest.mark.slow)  # the same by another means


@pytest.fixture(params=["a small file system", LIMITED])
def cramped(request, tiny_run, tmp_path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A copy of the tiny run at step 4 that cannot save step 6, and what limits the process."""
    if "limit" in request.param:
        workdir = shutil.copytree(tiny_run, tmp_path / "run")
        shutil.rmtree(workdir / "checkpoints" / "6")
        yield workdir, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))
        return
    size = sum(4096 * (1 + path.stat().st_size // 4096) for path in tiny_run.rglob("*"))
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size + ROOM}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        workdir = shutil.copytree(tiny_run, place / "run")
        shutil.rmtree(workdir / "checkpoints" / "6")
        with (place / "filler").open("wb") as filler:
            filler.write(bytes(shutil.disk_usage(place).free - ROOM))
        yield workdir, lambda: None
    finally:
        subprocess.run(["umount", str(place)], check=True)


def train(workdir: Path, options: list[str], limit: Callable[[], None] | None = None) -> tuple:
    done = subprocess.run(
        [sys.executable, "train.py", "--workdir", str(workdir), *options],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    return done.returncode, done.stdout, done.stderr


def last_line(workdir: Path) -> str:
    return (workdir / "metrics.jsonl").read_text().splitlines()[-1]


def test_a_full_disk_stops_the_run_and_keeps_what_was_saved(cramped, tiny_options, tiny_run):
    workdir, limit = cramped
    code, stdout, stderr = train(workdir, tiny_options, limit)
    assert code == 1 and "resumed after step 4" in stdout
    assert "Traceback" not in stderr
    pattern = r"stopped: cannot write a checkpoint to .*: .*(No space left|File too large).*; the "
    assert re.search(pattern + "older ones are kept$", stderr.splitlines()[-1])

    (workdir.parent / "filler").unlink(missing_ok=True)
    code, stdout, stderr = train(workdir, tiny_options)
    assert code == 0 and "resumed after step 4" in stdout, stderr
    assert last_line(workdir) == last_line(tiny_run)


GOES_ON = f"""
--config {ROOT}/configs/s_curve.py --model.num-res-blocks 1 --diffusion.timesteps 20
--train.batch-size 8 --train.steps 6 --train.warmup-steps 0 --train.sample-every-steps 0
--train.checkpoint-every-steps 2 --train.stop-on-failed-save False
""".split()


@pytest.mark.parametrize("room_again_at", [6, None])
def test_a_run_may_go_on_without_the_saves_that_fail_but_not_without_the_last(
    tmp_path, monkeypatch, capsys, caplog, room_again_at
):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = Checkpoints.save

    def cramped_save(self: Checkpoints, step: int, *saved: object) -> None:
        if self._written is not None:
            wait([self._written])
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
        elif step == room_again_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        save(self, step, *saved)

    monkeypatch.setattr(Checkpoints, "save", cramped_save)
    monkeypatch.setattr(sys, "argv", ["train.py", "--workdir", str(tmp_path / "run"), *GOES_ON])
    code = 0
    try:
        run_script(script.main)
    except SystemExit as end:
        code = end.code
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "ddpm_jax"]
    assert re.match("cannot write a checkpoint to .*File too large.*; the run goes on$", warning)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    if room_again_at:
        assert code == 0 and kept == ["2", "6"]
        assert (tmp_path / "run" / "checkpoints" / "6" / CHECKSUMS).exists()
    else:
        assert code == 1 and "stopped: cannot write" in capsys.readouterr().err.splitlines()[-1]
        assert [name for name in kept if name.isdigit()] == ["2"]
