"""The diffusion of a folder's scheduler as our settings, and ours as a scheduler of diffusers.

A setting that the other side lacks is an error that names it.
"""

import json
from pathlib import Path
from typing import Any

from ddpm_jax.config import Config, DiffusionConfig, SampleConfig, build_diffusion
from ddpm_jax.errors import UserError

PREDICTIONS = {"epsilon": "eps", "sample": "x_start", "v_prediction": "v"}
SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "quadratic",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned": "learned",
    "learned_range": "learned_range",
}


def read_scheduler(folder: Path, learned: bool) -> tuple[DiffusionConfig, SampleConfig]:
    """The diffusion by the scheduler that belongs to the U-Net in `folder`; DDPM's without one."""
    places = [folder / "scheduler_config.json"]
    if folder.name == "unet":
        places.append(folder.parent / "scheduler" / "scheduler_config.json")
    path = next((path for path in places if path.is_file()), None)
    s = {} if path is None else read_json(path, "the settings of a scheduler")
    variance = s.get("variance_type") or ("learned_range" if learned else "fixed_small")
    try:
        only({"variance_type": variance}, "variance_type", *VARIANCES)
        if learned != variance.startswith("learned"):
            raise UserError(
                f"variance_type {variance} does not suit a U-Net whose out_channels are "
                f"{'twice' if learned else 'equal to'} its in_channels"
            )
        s = {"beta_schedule": "linear", "prediction_type": "epsilon"} | s
        only(s, "prediction_type", *PREDICTIONS)
        only(s, "beta_schedule", *SCHEDULES)
        for name in ("trained_betas", "rescale_betas_zero_snr", "thresholding"):
            if s.get(name):
                raise UserError(
                    f"{name} {str(s[name])[:40]} has no counterpart here: give a config of your "
                    "own with --model FILE.py"
                )
    except UserError as error:
        raise UserError(f"{error} (in {path})" if path else str(error)) from error
    bounded = s["beta_schedule"] != "squaredcos_cap_v2"
    diffusion = DiffusionConfig(
        timesteps=s.get("num_train_timesteps", 1000),
        schedule=SCHEDULES[s["beta_schedule"]],
        beta_start=float(s.get("beta_start", 1e-4)) if bounded else None,
        beta_end=float(s.get("beta_end", 0.02)) if bounded else None,
        prediction=PREDICTIONS[s["prediction_type"]],
        variance=VARIANCES[variance],
        loss="rescaled_mse" if learned else "mse",
    )
    sampler = "ddim" if s.get("_class_name") == "DDIMScheduler" else "ddpm"
    return diffusion, SampleConfig(sampler=sampler, clip=bool(s.get("clip_sample", True)))


def only(settings: dict[str, Any], name: str, *allowed: Any) -> None:
    if settings[name] not in allowed:
        wanted = " or ".join(str(value) for value in allowed)
        raise UserError(f"{name} {settings[name]!r} has no counterpart here, only {wanted} has")


def read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} is not {what}: it has no {path.name}") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, expected {what}")
    return found


def scheduler_settings(config: Config) -> dict[str, Any] | None:
    """The scheduler_config.json of the same diffusion; None where no scheduler has it.

    It is DDIM's if the run samples so, but not for a learned variance, which only DDPM's reads.
    """
    diffusion = config.diffusion
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    rescaled = diffusion.rescale_timesteps and diffusion.timesteps != 1000
    if diffusion.prediction not in predictions or rescaled:
        return None
    betas = build_diffusion(diffusion).schedule.betas.tolist()
    schedules = {"linear": "linear", "quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    named = schedules.get(diffusion.schedule)
    ddim = config.sample.sampler == "ddim" and not diffusion.variance.startswith("learned")
    return {
        "_class_name": "DDIMScheduler" if ddim else "DDPMScheduler",
        "num_train_timesteps": diffusion.timesteps,
        "beta_schedule": named or "linear",
        "beta_start": betas[0],
        "beta_end": betas[-1],
        "trained_betas": None if named else betas,
        "prediction_type": predictions[diffusion.prediction],
        "variance_type": diffusion.variance,
        "clip_sample": config.sample.clip,
    }


def pipeline_settings(scheduler: dict[str, Any]) -> dict[str, Any]:
    """The model_index.json of the folder that holds a U-Net and this scheduler."""
    kind = scheduler["_class_name"]
    return {
        "_class_name": kind.replace("Scheduler", "Pipeline"),
        "scheduler": ["diffusers", kind],
        "unet": ["diffusers", "UNet2DModel"],
    }
