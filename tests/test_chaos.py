"""A short run of benchmarks/chaos.py."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path):
    options = ["--kills", "6", "--elsewhere", "3", "--write", "False", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "digests of parameters, average and optimizer equal" in done.stdout
