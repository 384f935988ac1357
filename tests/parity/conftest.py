"""The reference numbers as a fixture, and a count of those that were compared."""

from collections.abc import Callable, Iterator

import pytest

from tests.parity.golden import SPACE_TIMESTEPS, GoldenFile, compared, load, totals


@pytest.fixture(scope="session")
def golden() -> Callable[[str], GoldenFile]:
    """golden("schedules.npz") -> GoldenFile."""
    return load


@pytest.fixture(scope="session", autouse=True)
def everything_is_read() -> Iterator[None]:
    """Fails the session if a test compares a file's outputs without reading all that made them.

    A setting that is ignored has the same value in ours by luck alone. A session that compares only
    some outputs of a file need not read the whole of it.
    """
    yield
    counts = totals()
    whole = [name for name in compared if len(compared[name]) == counts.get(name)]
    unread = {name: load(name).unread() for name in whole if name != SPACE_TIMESTEPS}
    lines = [f"{name}: {', '.join(keys[:9])}" for name, keys in unread.items() if keys]
    assert not lines, "no test has read\n" + "\n".join(lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not any(compared.values()):
        return
    counts = totals()
    done = {name: len(compared[name]) for name in counts if compared[name]}
    line = f"golden: {sum(done.values())} of {sum(counts.values())} arrays compared"
    terminalreporter.write_line(line)
    for name, count in done.items():
        terminalreporter.write_line(f"{name.rsplit('.', 1)[0]} {count}/{counts[name]}")
