"""Progress bars: lines in a log, a bar on a terminal that has room for it."""

import io

import pytest

from ddpm_jax.runtime import progress as progress_module
from ddpm_jax.runtime.progress import progress


def test_progress_prints_few_whole_lines_without_a_terminal(capsys):
    with progress(1000, 100, "step", "training") as bar:
        for _ in range(900):
            bar.set_postfix(loss=0.125, refresh=False)
            bar.update(1)
    lines = capsys.readouterr().err.split("\n")
    assert lines[-1] == "" and len(lines) == 3, "the first, the last"
    assert lines[0].startswith("training: 100/1000 steps")
    assert lines[1].startswith("training: 1000/1000 steps") and "loss=0.125" in lines[1]
    assert not any("\r" in line for line in lines)


def test_two_bars_at_once_write_plain_lines_without_a_terminal(capsys):
    """As when training draws a picture: tqdm would move between two rows by escape codes."""
    with progress(10, 0, "step", "training") as steps:
        for _ in range(5):
            with progress(4, 0, "sample", "samples") as samples:
                for _ in range(4):
                    samples.update(1)
                    samples.refresh()
            steps.update(2)
            steps.refresh()
    text = capsys.readouterr().err
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()
    assert all(line.startswith(("training: ", "samples: ")) for line in lines)
    assert any(line.startswith("samples: 4/4 samples") for line in lines)
    assert lines[-1].startswith("training: 10/10 steps")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def fileno(self):
        return 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("columns", "redraws"), [(80, True), (0, False)])
def test_progress_draws_a_bar_where_it_fits(monkeypatch, columns, redraws):
    terminal = Terminal()
    monkeypatch.setattr(progress_module.sys, "stderr", terminal)
    size = progress_module.os.terminal_size((columns, 24))
    monkeypatch.setattr(progress_module.os, "get_terminal_size", lambda _: size)
    with progress(10, 0, "step", "training") as bar:
        for _ in range(110):
            bar.update(1 / 11)  # these add up to 10.000000000000012
    assert ("\r" in terminal.getvalue()) == redraws
    assert "10/10" in terminal.getvalue() and "0.99" not in terminal.getvalue()
