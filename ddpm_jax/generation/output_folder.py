"""The folder that samples of a command go into. It never takes the place of another command's.

Each folder has a `command.json` with all that its samples depend on. The same command may be given
again, to go on after a stop or to draw more; another one needs another folder.
"""

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.generation.options import as_text
from ddpm_jax.generation.run import Plan
from ddpm_jax.generation.sample_batch import Scales
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.partial_results import changed_settings, write_settings
from ddpm_jax.runtime.files import expanded

UNFINISHED = ".unfinished"  # batches of samples that are not all there yet
MAY_GROW = ("num", "frames")  # a larger value of these keeps what a smaller one drew


def open_folder(plan: Plan, command: Mapping[str, Any], out: Path | None) -> Path:
    """Makes the folder `out`, or the first of the run's `drawn`, `drawn_2`, ... that is free.

    A folder is free for a command that keeps what is there: none, or samples of the same command,
    of which it may draw more. `command` is what `describe` says of the plan. Raises UserError if
    `out` is not free, cannot be written, or overlaps with the images to enlarge.
    """
    first = out or plan.models[0].run.results / "drawn"
    names = itertools.chain(
        [first], (first.with_name(f"{first.name}_{n}") for n in itertools.count(2))
    )
    free = next(folder for folder in names if not _other_command(folder, command))
    if free != first:
        held = f"{first} holds samples of another command ({_other_command(first, command)})"
        if out is not None:
            raise UserError(f"out={held}: choose another folder, as out={free}")
        print(f"{held}, and stays as it is")
    low_res = plan.options.low_res
    _make(free, expanded(low_res) if isinstance(low_res, str | Path) else None)
    write_settings(free / "command.json", command)
    return free


def drop_unfinished(out: Path) -> None:
    """Removes the batches that `out` keeps, once its samples are complete."""
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)


def describe(plan: Plan) -> dict[str, Any]:
    """What the samples of a plan depend on, as JSON has it. The batch size is not part of it.

    Loads the weights of all models, and so all processes must call it together.
    """
    options, sample, guidance = plan.options, plan.models[0].config.sample, plan.guidance
    scales = zip(Scales._fields, zip(*guidance.scales, strict=True), strict=True)
    low_res = options.low_res
    if isinstance(low_res, np.ndarray):
        inputs = sha256(low_res)[:16]
    else:
        inputs = "" if low_res is None else str(expanded(low_res).resolve())
    return {
        "num": len(plan.labels[0]),
        "frames": options.frames,
        **plan.identities(),
        **{
            name: getattr(sample, name)
            for name in ("sampler", "steps", "spacing", "eta", "clip", "clip_guided")
        },
        "upsampler_steps": plan.models[-1].config.sample.steps if options.upsampler else "",
        **{f"{name}_scale": list(values) for name, values in scales},
        "guidance_interval": list(guidance.interval),
        "labels": as_text(options.labels) or "all",
        "seed": options.seed,
        "low_res": inputs,
    }


def _other_command(folder: Path, command: Mapping[str, Any]) -> str:
    """How the command that drew a folder's samples differs; "" if it is the same, or none did."""
    if not (folder / "samples.npz").exists() and not any(folder.glob(f"{UNFINISHED}/*/*.npz")):
        return ""
    try:
        old = json.loads((folder / "command.json").read_text())
        grown = {name for name in MAY_GROW if old.get(name, 0) <= command[name]}
    except (OSError, ValueError, AttributeError, TypeError):
        return "it has no command.json"
    new = {name: value for name, value in command.items() if name not in grown}
    return ", ".join(changed_settings(old, new))


def _make(out: Path, inputs: Path | None) -> None:
    """Makes the folder; raises UserError if nothing can be written there.

    So too if samples in it would take the place of `inputs`, the images to enlarge; those in its
    folder `base` are safe.
    """
    if inputs is not None:
        inside, read = out.resolve(), inputs.resolve()
        if read in (inside, *inside.parents) or (
            inside in read.parents and inside / "base" not in (read, *read.parents)
        ):
            raise UserError(f"out={out} overlaps with low_res={inputs}: choose another folder")
    probe = out / ".probe"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"out={out} cannot be written: {error.strerror}") from error
