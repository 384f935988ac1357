"""What a caller asks of a run: the keywords of `Run.generate` and the options of sample.py.

Errors about an option name it as a keyword, `seed=-1`; scripts turn that into `--seed -1`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddpm_jax.errors import UserError

Labels = str | int | Sequence[int | str] | np.ndarray | None
Numbers = float | str | Sequence[float] | None  # text is read as numbers with commas between them
LowRes = str | Path | np.ndarray | None

LIMITS = {"num": (1, 31), "seed": (0, 32), "frames": (0, 31)}  # least value, and bits


@dataclass(frozen=True)
class GenerationOptions:
    """How many samples, of which classes, drawn how. None: as the run's config has it."""

    num: int | None = None  # None: 64, or as many as `low_res` has
    labels: Labels = None  # numbers or names, in turn; "all" in turn; "random"; "0-9"
    seed: int = 0  # of the noise, and of random labels
    sampler: str | None = None  # another sampler than the run's own takes its own steps, at eta 0
    steps: int | str | None = None  # 250, "10,15,20" (a section each) or "ddim50"
    spacing: str | None = None  # how the steps are placed: a name in SPACINGS
    eta: float | None = None  # DDIM's noise, 0 to 1
    batch_size: int | None = None  # samples drawn at once
    classifier: str | Path | None = None  # run folder of the classifier that guides
    guidance_scale: Numbers = None  # of its gradient; several draw a row each. None: 1
    cfg_scale: Numbers = None  # of classifier-free guidance; 1 is the model itself
    guidance_interval: Numbers = None  # the two ends of the part of t/T that is guided
    low_res: LowRes = None  # what to enlarge: uint8 [N, h, w, C], a folder or a samples.npz
    upsampler: str | Path | None = None  # run folder of the model that enlarges the samples
    upsampler_steps: int | str | None = None
    frames: int = 0  # moments of the last model's chain that are kept

    def __post_init__(self) -> None:
        """Raises UserError for numbers out of range."""
        for name, (least, bits) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value < 2**bits:
                raise UserError(f"{name}={value}: must be at least {least} and below 2^{bits}")


def as_text(value: Labels | Numbers) -> str:
    """A value or several as on a command line: "0,1,2.5"; None is ""."""
    if value is None or isinstance(value, str):
        return value or ""
    return ",".join(each if isinstance(each, str) else f"{each:.9g}" for each in np.ravel(value))


def as_floats(value: Numbers) -> list[float]:
    """A number or several, also from text; raises ValueError."""
    return [float(number) for number in as_text(value).split(",")]
