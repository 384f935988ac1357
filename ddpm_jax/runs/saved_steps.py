"""Which checkpoints a folder holds, and which of them is the best. It reads no weights."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

# What checkpoints are compared by, if they were saved with it: a held-out loss, or a metric of
# samples. The name is that of the first versions, which knew losses alone.
SCORE = "held_out_loss"
IMPORTED = 0  # the step of imported weights


def saved_steps(directory: Path) -> list[int]:
    """The steps whose checkpoints a folder holds, oldest first."""
    return sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit())


def best_last(directory: Path, steps: Iterable[int]) -> list[int]:
    """The steps by rising worth: those without a score by age, then by falling score."""

    def worth(step: int) -> tuple[float, int]:
        try:
            metrics = json.loads((directory / str(step) / "metrics" / "metrics").read_text())
            return -float(metrics[SCORE]), step
        except (OSError, ValueError, KeyError, TypeError):
            return -math.inf, step

    return sorted(steps, key=worth)


def only_imported(directory: Path) -> bool:
    """True if a run holds imported weights and nothing trained from them."""
    return saved_steps(directory) == [IMPORTED]
