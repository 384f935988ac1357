"""A script restarts itself once with huge pages; other processes are left alone."""

import json
import os
import subprocess
import sys

import pytest

from ddpm_jax.runtime import huge_pages

SCRIPT = """
import json, os, sys
from pathlib import Path

from ddpm_jax.runtime import huge_pages

huge_pages.MODE = Path(os.environ["MODE"])
with open(os.environ["STARTS"], "a") as file:
    print(os.getpid(), file=file)
if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    memory = b"1" * 2**26
    rollup = Path("/proc/self/smaps_rollup")
    lines = rollup.read_text().splitlines() if rollup.exists() else []
    huge = sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))
    found = {"argv": sys.argv[1:], "tunables": os.environ.get("GLIBC_TUNABLES"), "huge_kb": huge}
    print(json.dumps(found))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start(*args)`: what the script found out, and the process number of each of its starts."""
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    script, mode, starts = (tmp_path / name for name in ("script.py", "mode", "starts"))
    script.write_text(SCRIPT)

    def run(*args: str, linux_mode: str = "always [madvise] never", tunables: str = ""):
        mode.write_text(linux_mode)
        env = {"MODE": str(mode), "STARTS": str(starts), "PYTHONPATH": os.getcwd()}
        env |= {huge_pages.VARIABLE: tunables} if tunables else {}
        before = [arg.replace("SCRIPT", str(script)) for arg in args]
        done = subprocess.run(
            [sys.executable, *before], env=os.environ | env, capture_output=True, check=True
        )
        return json.loads(done.stdout), starts.read_text().split()

    return run


def test_a_script_restarts_as_the_same_process_with_its_arguments(start):
    found, starts = start("-u", "SCRIPT", "--name", "a b", "-m")
    assert found["argv"] == ["--name", "a b", "-m"]
    assert found["tunables"] == "glibc.malloc.hugetlb=1"
    assert len(starts) == 2 and starts[0] == starts[1]


def test_the_users_own_settings_are_kept(start):
    found, starts = start("SCRIPT", tunables="glibc.malloc.tcache_count=9")
    assert found["tunables"] == "glibc.malloc.tcache_count=9:glibc.malloc.hugetlb=1"
    assert len(starts) == 2
    found, starts = start("SCRIPT", tunables="glibc.malloc.hugetlb=0")
    assert found["tunables"] == "glibc.malloc.hugetlb=0"
    assert len(starts) == 3


@pytest.mark.parametrize("mode", ["[always] madvise never", "always madvise [never]"])
def test_nothing_restarts_where_linux_leaves_no_choice(start, mode):
    found, starts = start("SCRIPT", linux_mode=mode)
    assert found["tunables"] is None and len(starts) == 1


def test_there_is_no_setting_without_linux(monkeypatch, tmp_path):
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    for elsewhere in (tmp_path / "none", tmp_path):
        monkeypatch.setattr(huge_pages, "MODE", elsewhere)
        assert huge_pages.setting() == ""


@pytest.mark.parametrize(
    "args",
    [
        (
            "-c",
            "import runpy, sys; sys.argv = ['SCRIPT']; runpy.run_path('SCRIPT', {}, '__main__')",
        ),
        ("-m", "trace", "--count", "--missing", "--coverdir", "/dev/null", "SCRIPT"),
    ],
    ids=["from another program, as a notebook does", "by a tool"],
)
def test_a_process_that_another_program_started_does_not_restart(start, args):
    found, starts = start(*args)
    assert found["tunables"] is None and len(starts) == 1


needs_choice = pytest.mark.skipif(
    not huge_pages.MODE.is_file() or "[madvise]" not in huge_pages.MODE.read_text(),
    reason="Linux does not leave the choice to the program here",
)


@needs_choice
def test_after_the_restart_memory_lies_in_huge_pages(start):
    assert start("SCRIPT")[0]["huge_kb"] >= 2**15
    assert start("SCRIPT", tunables="glibc.malloc.hugetlb=0")[0]["huge_kb"] < 2**15


@needs_choice
@pytest.mark.parametrize("form", ["train.py", "-m ddpm_jax train"])
def test_train_restarts_before_the_imports_that_take_seconds(form, monkeypatch):
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    command = [sys.executable, "-Ximporttime", *form.split(), "--config", "none.py"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2
    imported = [line.rpartition("|")[2].strip() for line in found.stderr.splitlines()]
    assert imported.count("ddpm_jax.runtime.huge_pages") == 2 and imported.count("jax") == 1
