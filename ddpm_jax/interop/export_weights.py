"""Writes a run's averaged weights for OpenAI's code or for diffusers.

    python -m ddpm_jax.interop.export_weights --workdir runs/cifar10 --to cifar10.pt
    python -m ddpm_jax.interop.export_weights --workdir runs/cifar10 --to cifar10-ddpm

A .pt file is a state dict of guided-diffusion. A folder is a pipeline of diffusers:
DDPMPipeline.from_pretrained(FOLDER) loads it, UNet2DModel.from_pretrained(FOLDER, subfolder="unet")
its network alone.
"""

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from ddpm_jax.config import Config, ParallelConfig, command_line, serialization
from ddpm_jax.errors import UserError
from ddpm_jax.interop import diffusers, openai, weight_files
from ddpm_jax.interop.diffusers_scheduler import pipeline_settings, scheduler_settings
from ddpm_jax.interop.diffusers_settings import unet_settings
from ddpm_jax.models import Params, build_network, count_parameters
from ddpm_jax.runs import checkpoints
from ddpm_jax.runtime import devices
from ddpm_jax.runtime.script import run_script, start_logging

logger = logging.getLogger("ddpm_jax")


@dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder that train.py or import_weights wrote
    to: Path  # the .pt file, or the folder for diffusers
    format: Literal["openai", "diffusers"] | None = None  # None: openai for .pt, else diffusers
    force: bool = False  # write a .pt that OpenAI's code computes something else with


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    jax.config.update("jax_platforms", "cpu")  # leaves an accelerator to other processes
    weight_files.return_freed_memory()
    as_folder = (args.format or _format_of(args.to)) == "diffusers"
    config = serialization.read_config(args.workdir / "config.json")
    if args.to.exists() and (not args.to.is_dir() or any(args.to.iterdir())):
        raise UserError(f"--to {args.to} is there already: name another, or remove it")
    settings = unet_settings(config) if as_folder else {}
    if not as_folder:
        _check_openai_has(config, args)

    network = build_network(config)
    mesh = devices.make_mesh(ParallelConfig(data=1), 1)  # one copy is enough
    abstract = devices.replicated_abstract(network.abstract, mesh)
    loaded = checkpoints.load_ema(args.workdir / "checkpoints", abstract)
    count = count_parameters(loaded.items["ema"])
    try:
        (args.to if as_folder else args.to.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--to {args.to} cannot be written: {error.strerror}") from error
    if as_folder:
        _to_folder(args.to, loaded.items["ema"], config, settings)
    else:
        _to_pt(args.to, loaded.items["ema"], config)
    print(f"{args.to}: {count:,} parameters after step {loaded.step} of {args.workdir}")


def _check_openai_has(config: Config, args: Args) -> None:
    """Raises UserError for a network that OpenAI's code lacks; unless forced."""
    if config.model.kind == "mlp":
        raise UserError(f"{args.workdir} is a model of points: OpenAI's code has no such network")
    unknown = openai.unknown_settings(config.model)
    if unknown and not args.force:
        raise UserError(
            f"OpenAI's code has no {', '.join(unknown)}: with these weights it would compute "
            "something else; --force True writes them anyway, a --to without .pt is for diffusers"
        )


def _format_of(path: Path) -> str:
    return "openai" if path.suffix in (".pt", ".pth") else "diffusers"


def _to_pt(path: Path, params: Params, config: Config) -> None:
    pool = config.model.pool if config.model.kind == "classifier" else None
    weight_files.write_pt(path, openai.exported(params, pool))


def _to_folder(folder: Path, params: Params, config: Config, settings: dict[str, Any]) -> None:
    """Writes unet/ and scheduler/, and last model_index.json, which makes them a pipeline."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weight_files.write_safetensors(path, diffusers.exported(params, config.model))
    _write_json(folder / "unet" / "config.json", settings)
    scheduler = scheduler_settings(config)
    if scheduler is None:
        logger.warning("no scheduler of diffusers has this diffusion: only the U-Net is written")
        return
    if config.model.num_classes:
        logger.warning("a pipeline passes no labels: call its U-Net with class_labels")
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(folder / "model_index.json", pipeline_settings(scheduler))


def _write_json(path: Path, settings: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
