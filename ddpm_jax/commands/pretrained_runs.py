"""Runs as the commands name them: a folder, or a published model."""

import dataclasses
from pathlib import Path
from typing import TypeVar

from ddpm_jax.config import command_line
from ddpm_jax.generation import Run, load_run
from ddpm_jax.interop import pretrained

RESULTS = Path("pretrained")  # what is made of published models; never in the cache
AnyArgs = TypeVar("AnyArgs")


def open_run(
    workdir: str | Path | None,
    model: str | None,
    checkpoint: str = "best",
    ema: float | None = None,
) -> Run:
    """The run in `workdir`, or that of a published model; raises UserError unless one is given.

    What is made of the model goes to `pretrained/NAME` in the working directory.
    """
    folder = pretrained.folder_of(workdir, model)
    results = None if model is None else RESULTS / command_line.model_folder(model)
    return load_run(folder, checkpoint, ema, results)


def with_companions(args: AnyArgs) -> AnyArgs:
    """The options with the runs of the published classifier and upsampler that they name."""
    named = {role: getattr(args, role, None) for role in pretrained.COMPANIONS}
    found = {
        role: pretrained.companion(role, path) for role, path in named.items() if path is not None
    }
    return dataclasses.replace(args, **found)  # type: ignore[type-var]
