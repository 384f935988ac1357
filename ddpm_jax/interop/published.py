"""The models that OpenAI has published: their configs, their files of weights, where these lie.

The files are those of the READMEs of openai/guided-diffusion (..._adm) and
openai/improved-diffusion (..._iddpm).
"""

import os
from pathlib import Path
from typing import NamedTuple

from ddpm_jax.config import Config, check, command_line
from ddpm_jax.errors import UserError, suggestion

MIRROR = "DDPM_JAX_MIRROR"  # the variable with another address than:
ADDRESS = "https://openaipublic.blob.core.windows.net/diffusion"
ADM, IDDPM = "jul-2021", "march-2021"


class Published(NamedTuple):
    """One published model."""

    config: str  # configs/CONFIG.py
    file: str  # the name that its weights are distributed under
    about: str
    parameters: int
    release: str = ADM  # the folder of the file
    sha256: str | None = None  # of the file, where several sources name the same


MODELS = {
    "imagenet64": Published(
        "imagenet64_adm", "64x64_diffusion.pt", "ADM, ImageNet 64x64", 295_904_454
    ),
    "imagenet128": Published(
        "imagenet128_adm", "128x128_diffusion.pt", "ADM, ImageNet 128x128", 421_529_606
    ),
    "imagenet256": Published(
        "imagenet256_adm", "256x256_diffusion.pt", "ADM, ImageNet 256x256", 553_838_086
    ),
    "imagenet256_uncond": Published(
        "imagenet256_adm_uncond",
        "256x256_diffusion_uncond.pt",
        "ADM, ImageNet 256x256, no labels",
        552_814_086,
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
    ),
    "imagenet512": Published(
        "imagenet512_adm", "512x512_diffusion.pt", "ADM, ImageNet 512x512", 558_997_638
    ),
    "lsun_bedroom": Published(
        "lsun_bedroom_adm", "lsun_bedroom.pt", "ADM, LSUN bedrooms 256x256", 552_814_086
    ),
    "lsun_cat": Published("lsun_cat_adm", "lsun_cat.pt", "ADM, LSUN cats 256x256", 552_814_086),
    "lsun_horse": Published(
        "lsun_horse_adm", "lsun_horse.pt", "ADM, LSUN horses 256x256", 552_814_086
    ),
    "upsampler_64_256": Published(
        "upsampler_64_256_adm",
        "64_256_upsampler.pt",
        "ADM-U, ImageNet from 64x64 to 256x256",
        311_795_910,
    ),
    "upsampler_128_512": Published(
        "upsampler_128_512_adm",
        "128_512_upsampler.pt",
        "ADM-U, ImageNet from 128x128 to 512x512",
        308_835_270,
    ),
    **{
        f"imagenet{side}_classifier": Published(
            f"imagenet{side}_classifier",
            f"{side}x{side}_classifier.pt",
            f"the classifier that guides ImageNet {side}x{side}",
            parameters,
        )
        for side, parameters in {
            64: 65_438_568,
            128: 42_568_040,
            256: 54_096_360,
            512: 54_448_360,
        }.items()
    },
    "cifar10_iddpm": Published(
        "cifar10_iddpm",
        "cifar10_uncond_50M_500K.pt",
        "Improved DDPM, CIFAR-10, L_hybrid",
        52_546_438,
        IDDPM,
    ),
    "cifar10_iddpm_vlb": Published(
        "cifar10_iddpm_vlb",
        "cifar10_uncond_vlb_50M_500K.pt",
        "Improved DDPM, CIFAR-10, L_vlb",
        52_546_438,
        IDDPM,
    ),
    "imagenet64_iddpm": Published(
        "imagenet64_iddpm",
        "imagenet64_uncond_100M_1500K.pt",
        "Improved DDPM, ImageNet 64x64, no labels, L_hybrid",
        121_063_942,
        IDDPM,
    ),
    "imagenet64_iddpm_vlb": Published(
        "imagenet64_iddpm_vlb",
        "imagenet64_uncond_vlb_100M_1500K.pt",
        "Improved DDPM, ImageNet 64x64, no labels, L_vlb",
        121_063_942,
        IDDPM,
    ),
    "imagenet64_iddpm_cond": Published(
        "imagenet64_iddpm_cond",
        "imagenet64_cond_270M_250K.pt",
        "Improved DDPM, ImageNet 64x64",
        273_049_350,
        IDDPM,
    ),
    "upsampler_64_256_iddpm": Published(
        "upsampler_64_256_iddpm",
        "upsample_cond_500K.pt",
        "Improved DDPM, ImageNet from 64x64 to 256x256",
        279_792_390,
        IDDPM,
    ),
    "lsun_bedroom_iddpm": Published(
        "lsun_bedroom_iddpm",
        "lsun_uncond_100M_1200K_bs128.pt",
        "Improved DDPM, LSUN bedrooms 256x256",
        113_676_678,
        IDDPM,
    ),
}


def url(file: str) -> str:
    """The address of a file, as jul-2021/64x64_diffusion.pt, at OpenAI or $DDPM_JAX_MIRROR."""
    return f"{(os.environ.get(MIRROR) or ADDRESS).rstrip('/')}/{file}"


def config_path(model: str) -> Path:
    """The config file of a published model, or `model` itself if it is a config file.

    Raises UserError for an unknown name, with the closest one and a list of all.
    """
    if model in MODELS:
        return command_line.CONFIGS / f"{MODELS[model].config}.py"
    if model.endswith(".py"):
        return Path(model)
    raise UserError(f"--model {model}: unknown; {suggestion(model, MODELS)}; or name a config file")


def load_config(model: str) -> Config:
    """The config of a published model or of a config file, checked; raises UserError."""
    try:
        config = command_line.load_config(config_path(model))
    except UserError as error:
        raise UserError(str(error).replace("--config", "--model", 1)) from error
    check(config)
    return config


def model_of(file: Path) -> str | None:
    """The published model whose weights have this file name."""
    return next((name for name, each in MODELS.items() if each.file == file.name), None)


def choices() -> str:
    """The values of --model, for messages."""
    return f"NAME, of {', '.join(MODELS)}; or a config file"
