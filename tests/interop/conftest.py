"""What several tests of published weights share."""

import sys
from types import SimpleNamespace

import pytest

from ddpm_jax.interop import import_weights, pretrained
from tests.interop.small import command


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Imports are made here: a process of their own takes five seconds, most of it imports."""

    def run(words: list[str], **_: object) -> SimpleNamespace:
        assert words[:3] == [sys.executable, "-m", "ddpm_jax.interop.import_weights"]
        code, _, stderr = command(import_weights.main, words[3:], capsys)
        # As Orbax's threads complain when the process ends on a full disk.
        more = "RuntimeError: Event loop is closed\n" if code else ""
        return SimpleNamespace(returncode=code, stderr=stderr + more)

    monkeypatch.setattr(pretrained, "subprocess", SimpleNamespace(run=run))
