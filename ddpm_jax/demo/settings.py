"""What the page's controls say, as the project's options, a command and a link.

Errors name an option as a keyword, `seed=-1`, as those of `GenerationOptions` do.
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ddpm_jax.errors import UserError
from ddpm_jax.generation import GenerationOptions
from ddpm_jax.generation.options import as_text

# What may guide, and the option that says how strongly.
GUIDANCE = {"none": "", "classifier-free": "cfg_scale", "classifier": "guidance_scale"}


@dataclass(frozen=True)
class Limits:
    """The most that one request may ask for, and how many requests may wait."""

    num: int = 64  # samples at each scale, copies of an edited image
    steps: int = 1000  # of a chain
    rows: int = 8  # scales side by side, strengths
    resample: int = 20  # visits of each step of an inpainting
    waiting: int = 8  # requests in the queue
    upload_bytes: int = 8 * 2**20
    upload_side: int = 4096  # pixels

    def check(self, name: str, value: float, least: float = 1) -> None:
        """Raises UserError unless the value of the option lies between `least` and the limit."""
        most = getattr(self, name)
        if not least <= value <= most:
            raise UserError(f"{name}={value:g}: must be {least:g} to {most:g}")


@dataclass(frozen=True)
class ChainSettings:
    """How a chain is run; "" and 0 stand for what suits the run, or the edit."""

    seed: int = 0
    sampler: str = ""
    steps: int = 0
    guidance: str = "none"  # a name in GUIDANCE
    scales: str = ""  # of the guidance, as 3 or 0,1,4; "": 1
    start: float = 0.0  # of the part of t/T that is guided
    end: float = 1.0

    def options(self, batch_size: int, classifier: Path | None, limits: Limits) -> dict[str, Any]:
        """Keywords of GenerationOptions; raises UserError for what is above the limits."""
        for name in ("seed", "steps"):
            if getattr(self, name) is None:
                raise UserError(f"{name}=: give a number")
        limits.check("steps", self.steps, least=0)
        chosen: dict[str, Any] = {"seed": int(self.seed), "batch_size": batch_size}
        if self.sampler:
            chosen["sampler"] = self.sampler
        if self.steps:
            chosen["steps"] = str(int(self.steps))
        if self.guidance not in GUIDANCE:
            raise UserError(f"guidance={self.guidance}: there are: {', '.join(GUIDANCE)}")
        if option := GUIDANCE[self.guidance]:
            text = self.scales or "1"
            limits.check("rows", len(text.split(",")))
            chosen[option] = text.replace(" ", "")
            if self.guidance == "classifier":
                if classifier is None:
                    raise UserError("guidance=classifier: the studio was started without one")
                chosen["classifier"] = classifier
            if (self.start, self.end) != (0, 1):
                chosen["guidance_interval"] = as_text([self.start, self.end])
        return chosen


@dataclass(frozen=True)
class DrawSettings(ChainSettings):
    """What is drawn from noise."""

    labels: str = ""  # a class, or several; "": all in turn; random
    num: int = 16


@dataclass(frozen=True)
class EditSettings(ChainSettings):
    """What is done with one picture, or two."""

    task: str = "vary"  # a name in EDITS
    labels: str = ""  # of the first picture and of the second; "": none
    num: int = 8  # variations, fillings, or pictures of a row between two
    strengths: str = "0.3,0.5,0.7"  # of variations: parts of the chain to go back
    method: str = "slerp"  # of interpolation
    resample: int = 4  # of inpainting: how often each jump of RePaint is taken; 1: no jumps


def sample_command(options: GenerationOptions, loading: Mapping[str, Any]) -> str:
    """The command that draws the same files: `loading` says of what run, with what weights."""
    words = ["python", "-m", "ddpm_jax", "sample"]
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    default = vars(GenerationOptions())
    for name, value in (dict(loading) | given).items():
        if value is not None and value != default.get(name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def query_of(settings: DrawSettings) -> str:
    """The seed and the settings that are not the default, as the query of a link."""
    default = vars(DrawSettings()) | {"seed": None}
    return urlencode({k: v for k, v in vars(settings).items() if v != default[k]})


def settings_of(query: Sequence[tuple[str, str]], start: DrawSettings) -> DrawSettings:
    """The settings of a link's query, or `start` if it has none. Raises UserError.

    Names that are no settings are left alone: other tools add theirs.
    """
    kinds: dict[str, type] = {name: type(value) for name, value in vars(DrawSettings()).items()}
    found: dict[str, Any] = {}
    for name, value in query:
        try:
            if name in kinds:
                found[name] = kinds[name](value)
        except ValueError as error:
            raise UserError(f"{name}={value}: the link must have a number here") from error
    return DrawSettings(**found) if found else start
