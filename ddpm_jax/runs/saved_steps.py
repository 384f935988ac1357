"""Which checkpoints a folder holds, and which of them is the best. It reads no weights."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

LOSS = "held_out_loss"  # what checkpoints are compared by, if they were saved with it
IMPORTED = 0  # the step of imported weights


def saved_steps(directory: Path) -> list[int]:
    """The steps whose checkpoints a folder holds, oldest first."""
    return sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit())


def best_last(directory: Path, steps: Iterable[int]) -> list[int]:
    """The steps by rising worth: those without a held-out loss by age, then by falling loss."""

    def worth(step: int) -> tuple[float, int]:
        try:
            metrics = json.loads((directory / str(step) / "metrics" / "metrics").read_text())
            return -float(metrics[LOSS]), step
        except (OSError, ValueError, KeyError, TypeError):
            return -math.inf, step

    return sorted(steps, key=worth)


def only_imported(directory: Path) -> bool:
    """True if a run holds imported weights and nothing trained from them."""
    return saved_steps(directory) == [IMPORTED]
