"""`python -m ddpm_jax`: its list of commands, what it refuses, and that neither takes long."""

import importlib
import subprocess
import sys

import pytest

from ddpm_jax import __main__
from ddpm_jax.commands import COMMANDS
from tests.test_imports import third_party


def start(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ddpm_jax", *words],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("words", [(), ("--help",), ("trian",)], ids=str)
def test_without_a_command_nothing_heavy_is_loaded(words):
    done = start(*words)
    rows = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = third_party({row[2].strip().partition(".")[0] for row in rows[1:]})
    assert "ddpm_jax" in loaded and not loaded & {"jax", "numpy", "tyro", "flax", "PIL"}
    assert done.returncode == (0 if "--help" in words else 2)


def test_the_list_names_every_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["__main__.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        __main__.main()
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"\n  {name} " in shown and callable(importlib.import_module(command.module).main)


@pytest.mark.parametrize(
    ("word", "said"), [("trian", "did you mean train? there are: "), ("x", "x: there are: train,")]
)
def test_an_unknown_command_is_answered_by_those_there_are(word, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["__main__.py", word])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {word}: ") and said in line


def test_a_command_starts_with_its_options():
    command = [sys.executable, "-m", "ddpm_jax", "sample", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere is no run folder")
