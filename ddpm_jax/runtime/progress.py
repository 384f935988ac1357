"""Progress bars on stderr, with the time left."""

import os
import sys

from tqdm import tqdm

from ddpm_jax.runtime import processes


class Progress(tqdm):
    """A tqdm bar that can be advanced by fractions."""

    def update(self, n: float = 1) -> bool | None:
        # By rounding, fractions can add up to slightly more than the total; tqdm would warn.
        return super().update(min(n, self.total - self.n))


class _Lines:
    """A file for tqdm that turns each redrawing of a bar into a line on stderr."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)


def progress(
    total: int, initial: int, unit: str, description: str, delay_seconds: float = 0.0
) -> Progress:
    """A bar on stderr with the time left; a line every 30 s where stderr is not a terminal.

    It starts at `initial` of `total`, and appears once the work takes longer than `delay_seconds`.
    Of several processes only the first shows it. Close it, or use it in a `with` statement.
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
        # The second of two bars would go to the next row of the terminal by escape codes.
        options |= {"position": 0}
    return Progress(**options, miniters=1, disable=not processes.is_main_process())
