"""Makes a run folder of published weights, for sample.py to draw from and train.py to fine-tune.

    python -m ddpm_jax.interop.import_weights 64x64_diffusion.pt --model imagenet64 --out runs/adm64
    python -m ddpm_jax.interop.import_weights ddpm-cifar10-32 --out runs/ho

FILE is a .pt file of OpenAI's guided-diffusion or improved-diffusion, whether published or of your
own training, or the folder of a UNet2DModel or a pipeline of diffusers.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
from tyro.conf import Positional

from ddpm_jax.config import Config, command_line, serialization
from ddpm_jax.errors import UserError
from ddpm_jax.interop import diffusers, openai, published, weight_files
from ddpm_jax.interop.diffusers_settings import read_config, unet_settings
from ddpm_jax.models import Params, build_network, count_parameters
from ddpm_jax.runs import checkpoints
from ddpm_jax.runtime.script import run_script, start_logging


@dataclass(frozen=True)
class Args:
    file: Positional[Path]  # a .pt file, or the folder of a UNet2DModel
    out: Path  # the run folder to make
    model: str = ""  # a published model or a config file; empty: the settings in the folder


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    jax.config.update("jax_platforms", "cpu")  # leaves an accelerator to other processes
    weight_files.return_freed_memory()
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"--out {args.out} is there already: name a new folder, or remove it")

    _check_exists(args.file)
    if args.file.is_dir():
        config, params = _from_folder(args.file, args.model)
    else:
        config, params = _from_pt(args.file, args.model)
    count = count_parameters(params)

    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {args.out} cannot be written: {error.strerror}") from error
    config_file = args.out / "config.py"
    if args.model:
        config_file = command_line.shown(published.config_path(args.model))
    else:
        config_file.write_text(_source(config, args.file))
    checkpoints.save_imported(args.out / "checkpoints", params, serialization.to_json(config))
    (args.out / "config.json").write_text(serialization.to_json(config))

    sampling = f"python -m ddpm_jax sample --workdir {args.out}"
    if config.model.kind == "classifier":
        sampling = f"python -m ddpm_jax sample --workdir RUN --classifier {args.out}"
    elif config.data.low_res_size:
        sampling = f"python -m ddpm_jax sample --workdir RUN --upsampler {args.out}"
    print(
        f"{args.out}: {count:,} parameters of {args.model or args.file}; next: {sampling} | "
        f"python -m ddpm_jax train --config {config_file} --workdir {args.out} "
        "--data.name folder:PATH"
    )


def _check_exists(file: Path) -> None:
    if file.exists():
        return
    # Such as google/ddpm-cifar10-32: the name of a model of the Hugging Face hub.
    hub = len(file.parts) == 2 and not file.suffix and not file.parent.exists()
    hint = f"; `hf download {file} --local-dir {file.name}` fetches it from the hub" if hub else ""
    raise UserError(f"{file}: no such file or folder{hint}")


def _from_pt(file: Path, model: str) -> tuple[Config, Params]:
    """Config and parameters of a state dict of OpenAI's code; `model` names its network."""
    if file.suffix == ".safetensors" or file.name == "config.json":
        raise UserError(f"{file}: name its folder, {file.parent}, to import a UNet2DModel")
    if not model:
        guess = published.model_of(file)
        raise UserError(
            f"--model is needed: {file} does not say what network it is of; "
            + (f"by its name: --model {guess}" if guess else f"--model {published.choices()}")
        )
    config = published.load_config(model)
    if config.model.kind == "mlp":
        raise UserError(f"--model {model} is of points: OpenAI's code has no such network")
    pool = config.model.pool if config.model.kind == "classifier" else None
    weights = weight_files.read_pt(file)
    abstract = build_network(config).abstract
    try:
        return config, openai.import_state_dict(weights.shapes, weights.take, abstract, pool)
    except UserError as error:
        raise UserError(f"{file} does not fit --model {model}: {error}") from error


def _from_folder(folder: Path, model: str) -> tuple[Config, Params]:
    """Config and parameters of a UNet2DModel, in its own folder or a pipeline's."""
    folder = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    theirs = config = read_config(folder)
    if model:
        config = published.load_config(model)
        _check_same_network(config, theirs, f"{folder} does not fit --model {model}")
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} holds neither {' nor '.join(names)}")
    safe = path.suffix == ".safetensors"
    read = weight_files.read_safetensors if safe else weight_files.read_pt
    abstract = build_network(config).abstract
    try:
        return config, diffusers.import_weights(read(path), abstract, config.model)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_same_network(ours: Config, theirs: Config, what: str) -> None:
    """Raises UserError for settings with which the same weights compute something else."""
    expected, found = unet_settings(ours), unet_settings(theirs)
    free = {"dropout"}
    if expected["downsample_type"] == "resnet":
        free.add("downsample_padding")
    differ = [
        f"{name} is {value}, expected {expected[name]}"
        for name, value in found.items()
        if value != expected[name] and name not in free
    ]
    if differ:
        raise UserError(f"{what}: {', '.join(differ)}")


def _source(config: Config, file: Path) -> str:
    """The text of a config file with every setting that is not the default."""
    sections = []
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        changed = [
            f"            {field.name}={getattr(value, field.name)!r},\n"
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        ]
        if changed:
            kind = type(value).__name__
            sections.append(
                f"        {section.name}=config.{kind}(\n{''.join(changed)}        ),\n"
            )
    return (
        f'"""The settings of {file.name}; those of training are the defaults."""\n\n'
        "from ddpm_jax import config\n\n\n"
        f"def get_config() -> config.Config:\n    return config.Config(\n{''.join(sections)}    )\n"
    )


if __name__ == "__main__":
    run_script(main)
