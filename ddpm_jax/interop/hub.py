"""Models of the Hugging Face hub, by its own client (`huggingface_hub`, of the extra `interop`)."""

import re
from pathlib import Path

from ddpm_jax.errors import RunError, UserError
from ddpm_jax.interop.download import FULL
from ddpm_jax.interop.weight_files import require

CONFIGS = ("config.json", "unet/config.json", "scheduler_config.json", "*/scheduler_config.json")
WEIGHTS = "diffusion_pytorch_model"


def is_name(text: str) -> bool:
    """True for OWNER/NAME."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None


def fetch_unet(name: str, import_to: Path) -> Path:
    """The folder of a UNet2DModel or of a pipeline: config and weights, and no other file of it.

    It lies in the client's own cache. HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and the other variables
    of the client hold. Weights are fetched as safetensors, or as .bin where there are no others.

    Raises:
      UserError: there is no such model, or it cannot be fetched; the message says how to bring a
        folder that was fetched by other means to the place `import_to`.
      RunError: the disk is full.
    """
    hub, _ = require("huggingface_hub"), require("safetensors")
    try:
        for kind in ("safetensors", "bin"):
            weights = [f"{WEIGHTS}.{kind}", f"unet/{WEIGHTS}.{kind}"]
            folder = Path(hub.snapshot_download(name, allow_patterns=[*CONFIGS, *weights]))
            if any((folder / file).is_file() for file in weights):
                break
        return folder
    except Exception as error:  # the client has many kinds, its HTTP library more
        address = f"{hub.constants.ENDPOINT}/{name}"
        if isinstance(error, OSError) and error.errno in FULL:
            at = hub.constants.HF_HUB_CACHE
            raise RunError(f"{at} cannot be written: {error.strerror}; HF_HOME moves it") from error
        if isinstance(error, hub.errors.RepositoryNotFoundError):
            raise UserError(f"{address}: there is no such model, or it is not public") from error
        reason = " ".join(str(error).split())[:150]
        if isinstance(error, hub.errors.LocalEntryNotFoundError):
            reason = "there is no connection, and it is not in that client's cache"
        raise UserError(
            f"{address} cannot be fetched: {reason}; try again, or fetch its folder by other means "
            f"and run `python -m ddpm_jax import_weights FOLDER --out {import_to}`"
        ) from error
