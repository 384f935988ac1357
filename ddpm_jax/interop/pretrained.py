"""Published models by name: each is fetched once, and kept as a run in the cache folder.

    run_folder("imagenet64")                 # OpenAI's, of the table in published.py
    run_folder("google/ddpm-cifar10-32")     # any UNet2DModel of the Hugging Face hub

Such a run is like one that `import_weights` makes. Nothing is ever written into it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ddpm_jax.config import Config, command_line, serialization
from ddpm_jax.errors import RunError, UserError, closest, suggestion
from ddpm_jax.interop import hub, published
from ddpm_jax.interop.download import FULL, alone, download, in_cache
from ddpm_jax.interop.weight_files import require
from ddpm_jax.runs.folder import network_differences
from ddpm_jax.runtime.files import cache_folder, expanded

ORIGIN = "pretrained.json"  # in a run folder: the model that it starts from
COMPANIONS = {"classifier": "{}_classifier", "upsampler": "upsampler_{}"}  # imagenet64 -> ...


def folder_of(workdir: str | Path | None, model: str | None) -> Path:
    """The run folder that a command is given, or that of a published model instead.

    Raises UserError unless it is given one of them, and as `run_folder`.
    """
    if workdir is not None and model is None:
        return Path(workdir)
    if model is not None and workdir is None:
        return run_folder(model)
    raise UserError(
        "give a run folder, as workdir=DIR, or a published model, as pretrained=NAME, and not both"
    )


def run_folder(name: str) -> Path:
    """The run of a published model in the cache folder; it is fetched if it is not there.

    The import takes a process of its own. Its memory is free afterwards, and here JAX has not
    started, so that the caller can still choose devices and join other processes. Of several
    processes that call this one fetches the model; the others wait.

    Raises:
      UserError: there is no such model; it cannot be fetched, or is not the published one, and then
        nothing of it is left; torch or another package of the extra `interop` is missing.
      RunError: the disk is full. What was fetched is kept.
    """
    run = cache_folder() / "models" / command_line.model_folder(name)
    if (run / "config.json").is_file():
        return run
    check_name(name)
    with in_cache(run), alone(run):
        if not (run / "config.json").is_file():
            _fetch_and_import(name, run)
    return run


def check_name(name: str) -> None:
    """Raises UserError for a name that no published model can have."""
    if name in published.MODELS:
        return
    if name and expanded(name).is_dir():
        raise UserError(f"pretrained={name}: that is a folder; if it is a run, give workdir={name}")
    if not hub.is_name(name):
        raise UserError(
            f"pretrained={name}: unknown; {suggestion(name, published.MODELS)}; or "
            "OWNER/NAME of a UNet2DModel of the Hugging Face hub"
        )


def companion(role: str, named: str | Path) -> Path:
    """`named`, or where there is no such folder, the run of the published model that it means.

    `role` is "classifier" or "upsampler"; "imagenet64" and "64_256" suffice as names. Raises
    UserError as `run_folder`, and for a name that is nearly one of them.
    """
    pattern, text = COMPANIONS[role], str(named)
    if expanded(named).exists():
        return Path(named)
    for name in (pattern.format(text), text):
        if name in published.MODELS:
            return run_folder(name)
    before, after = pattern.split("{}")
    known = [
        name.removeprefix(before).removesuffix(after)
        for name in published.MODELS
        if name.startswith(before) and name.endswith(after)
    ]
    if "/" not in text and closest(text, known):
        hint = suggestion(text, known)
        raise UserError(f"{role}={text}: no such folder, nor a published one; {hint}")
    return Path(named)


def config_of(name: str) -> Config:
    """The settings of a published model; of one of the hub it must be fetched. Raises UserError."""
    if name in published.MODELS:
        return published.load_config(name)
    return serialization.read_config(run_folder(name) / "config.json")


def start_training(name: str, workdir: Path, config: Config) -> None:
    """Makes `workdir` a run that training under `config` goes on from; one made before stays.

    Raises UserError if it holds something else, or the weights do not fit `config`.
    """
    if (workdir / "config.json").exists():
        origin = workdir / ORIGIN
        if not origin.exists() or json.loads(origin.read_text())["name"] != name:
            raise UserError(
                f"--workdir {workdir} holds a run that did not start from {name}: choose another"
            )
        return
    source = run_folder(name)
    differ = network_differences(config, serialization.read_config(source / "config.json"))
    if differ:
        raise UserError(f"--pretrained {name}: its weights do not fit {', '.join(differ)}")
    aside = workdir.with_name(f".{workdir.name}.tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(source, aside)
        os.replace(aside, workdir)
    except OSError as error:  # which shutil.Error is, too
        shutil.rmtree(aside, ignore_errors=True)
        reason = error.strerror or " ".join(str(error).split())[-200:]
        if isinstance(error, shutil.Error) or error.errno in FULL:
            raise RunError(f"--workdir {workdir} cannot be written: {reason}") from error
        raise UserError(f"--workdir {workdir} cannot be made: {reason}; choose another") from error


def _fetch_and_import(name: str, run: Path) -> None:
    """Makes the run aside and renames it, so that a kill leaves it whole or not there."""
    require("torch")  # better told before a gigabyte is fetched than after
    fetched, model = False, published.MODELS.get(name)
    if model is None:
        address, source = name, hub.fetch_unet(name, run)
    else:
        address = published.url(f"{model.release}/{model.file}")
        source, own = run.parent / model.file, run.parent / "fetched" / model.file
        if not own.exists() and download(address, source, sha256=model.sha256):
            own.parent.mkdir(exist_ok=True)
            os.replace(source, own)  # apart from a file that the user put there, which stays
        if fetched := own.exists():
            source = own
    for left in run.parent.glob(f".{run.name}.*.tmp"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    # Of this process alone: the import of one that was killed may still be writing.
    aside = run.with_name(f".{run.name}.{os.getpid()}.tmp")
    print(f"{name}: importing {source.name} into {run}", flush=True)
    try:
        _import_weights(source, aside, name if model else "")
        (aside / ORIGIN).write_text(json.dumps({"name": name, "address": address}, indent=2) + "\n")
        os.replace(aside, run)
    except UserError as error:
        if model is None:
            raise UserError(f"{name} cannot be used: {error}") from error
        if not fetched:
            raise UserError(f"{source} is not what {address} holds: {error}") from error
        source.unlink()
        raise UserError(
            f"{address} sent another file than the published one, which was removed: {error}"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if fetched:  # the run holds the same numbers
        source.unlink()


def _import_weights(source: Path, out: Path, name: str) -> None:
    """Runs `import_weights`; raises its error, without the name of the file."""
    config = published.config_path(name) if name else None
    words = [source, "--out", out, *(["--model", config] if config else [])]
    path = [str(command_line.PACKAGE.parent), os.environ.get("PYTHONPATH")]
    python_path = os.pathsep.join(filter(None, path))
    done = subprocess.run(
        [sys.executable, "-m", "ddpm_jax.interop.import_weights", *map(str, words)],
        env=os.environ | {"PYTHONPATH": python_path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return
    # Not simply the last line: Orbax's threads may complain after it.
    said = re.findall(r"^(?:error|stopped): (.*)$", done.stderr, re.MULTILINE)
    reason = said[-1] if said else f"the import ended with {done.returncode}: {done.stderr[-300:]}"
    reason = reason.removeprefix(f"{source} ").replace(f"--model {config}", name)
    if done.returncode == 2 and said:
        raise UserError(reason)
    raise RunError(f"{' '.join(reason.split())}; nothing is lost, the same command goes on")
