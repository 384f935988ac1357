"""Writes a run's averaged weights for OpenAI's code or for diffusers.

    python -m ddpm_jax.interop.export_weights --workdir runs/cifar10 --to cifar10.pt
    python -m ddpm_jax.interop.export_weights --workdir runs/cifar10 --to cifar10-unet

A .pt file is a state dict of guided-diffusion; a folder is what UNet2DModel.from_pretrained loads,
with the settings of a scheduler beside it.
"""

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

from ddpm_jax.config import Config, ParallelConfig, command_line, serialization
from ddpm_jax.errors import UserError
from ddpm_jax.interop import diffusers, openai, weight_files
from ddpm_jax.interop.diffusers_settings import scheduler_settings, unet_settings
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


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    jax.config.update("jax_platforms", "cpu")  # an accelerator may be at work, and has no part here
    weight_files.return_freed_memory()
    as_folder = (args.format or _format_of(args.to)) == "diffusers"
    config = serialization.read_config(args.workdir / "config.json")
    if args.to.exists() and (not args.to.is_dir() or any(args.to.iterdir())):
        raise UserError(f"--to {args.to} is there already: name another, or remove it")
    if not as_folder and config.model.kind == "mlp":
        raise UserError(f"{args.workdir} is a model of points: OpenAI's code has no such network")
    settings = unet_settings(config) if as_folder else {}

    network = build_network(config)
    mesh = devices.make_mesh(ParallelConfig(data=1), 1)  # a copy on each device would be a waste
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


def _format_of(path: Path) -> str:
    return "openai" if path.suffix in (".pt", ".pth") else "diffusers"


def _to_pt(path: Path, params: Params, config: Config) -> None:
    pool = config.model.pool if config.model.kind == "classifier" else None
    if unknown := openai.unknown_settings(config.model):
        logger.warning(
            "OpenAI's code has no counterpart of %s: with these weights it computes something else",
            ", ".join(unknown),
        )
    weight_files.write_pt(path, openai.exported(params, pool))


def _to_folder(folder: Path, params: Params, config: Config, settings: dict) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    weight_files.write_safetensors(path, diffusers.exported(params, config.model))
    if scheduler := scheduler_settings(config):
        text = json.dumps(scheduler, indent=2) + "\n"
        (folder / "scheduler_config.json").write_text(text)
    else:
        logger.warning("no scheduler of diffusers has this diffusion: the U-Net alone is written")
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
