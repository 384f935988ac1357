"""The reference numbers as a fixture, and a count of those that were compared."""

from collections.abc import Callable

import pytest

from tests.parity.golden import GoldenFile, compared, load, totals


@pytest.fixture(scope="session")
def golden() -> Callable[[str], GoldenFile]:
    """golden("schedules.npz") -> GoldenFile."""
    return load


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not any(compared.values()):
        return
    counts = totals()
    done = {name: len(compared[name]) for name in counts if compared[name]}
    line = f"golden: {sum(done.values())} of {sum(counts.values())} arrays compared"
    terminalreporter.write_line(line)
    for name, count in done.items():
        terminalreporter.write_line(f"{name.rsplit('.', 1)[0]} {count}/{counts[name]}")
