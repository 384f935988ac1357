"""Progress bars on stderr, with the time left."""

import os
import sys

from tqdm import tqdm

from ddpm_jax.runtime import processes


class Progress(tqdm):
    """A tqdm bar that can be advanced by fractions."""

    def update(self, n: float = 1) -> bool | None:
        # Fractions can add up to a hair more than the total, of which tqdm would warn.
        return super().update(min(n, self.total - self.n))


class _Lines:
    """What tqdm takes for a file; each redrawing becomes a line of stderr."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)


def progress(
    total: int, initial: int, unit: str, description: str, delay_seconds: float = 0.0
) -> Progress:
    """A bar on stderr with the time left; a line every 30 s where stderr is not a terminal.

    To be closed, or used in a `with`. It starts at `initial` of `total`, and is shown if the work
    takes longer than `delay_seconds`, by the first of several processes.
    """
    options = {"total": total, "initial": initial, "unit": f" {unit}", "desc": description}
    options |= {"delay": delay_seconds, "leave": not delay_seconds}
    # Some pseudo-terminals are 0 columns wide; tqdm shows nothing on them.
    if sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns:
        right = "| {n:.0f}/{total} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
        options |= {"mininterval": 0.5, "dynamic_ncols": True, "bar_format": "{l_bar}{bar}" + right}
    else:
        line = "{desc}: {n:.0f}/{total}{unit}s, {elapsed} gone, {remaining} left, {rate_fmt}"
        options |= {"mininterval": 30, "file": _Lines(), "bar_format": line + "{postfix}"}
    return Progress(**options, miniters=1, disable=not processes.is_main_process())
