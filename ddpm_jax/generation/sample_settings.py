"""The `sample` section of a run's config, with what a caller chooses otherwise."""

import dataclasses
import re
from pathlib import Path

from ddpm_jax.config import Config, SampleConfig, build_chain, check
from ddpm_jax.diffusion.spacing import SPACINGS
from ddpm_jax.errors import UserError, suggestion
from ddpm_jax.generation.options import GenerationOptions
from ddpm_jax.sampling.samplers import sampler_name


def sample_settings(workdir: Path, config: Config, options: GenerationOptions) -> Config:
    """The config of the run in `workdir`, with the sampler, steps, ... of `options`.

    Raises UserError for values that are wrong, and for the run of a classifier.
    """
    if config.model.kind == "classifier":
        raise UserError(f"{workdir} is the run of a classifier, which draws nothing")
    config = dataclasses.replace(config, sample=_chosen(config.sample, options))
    try:
        check(config)
    except UserError as error:
        raise UserError(re.sub(r"--sample\.(\S+) ", _as_keyword, str(error))) from None
    try:
        build_chain(config)
    except UserError as error:
        raise UserError(f"{workdir}: {error}") from error
    return config


def _chosen(sample: SampleConfig, options: GenerationOptions) -> SampleConfig:
    """The fields of `options` where they are not None.

    A sampler other than the run's own takes its own steps and spacing at eta 0: those of the run
    suit the run's sampler.
    """
    names = ("sampler", "steps", "spacing", "eta", "batch_size")
    chosen = {name: getattr(options, name) for name in names}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if "steps" in chosen:
        chosen["steps"] = str(chosen["steps"])
    if chosen.get("spacing", "default") not in ("default", *SPACINGS):
        given = chosen["spacing"]
        raise UserError(f"spacing={given}: {suggestion(given, SPACINGS)}")
    if "sampler" in chosen:
        try:
            chosen["sampler"] = sampler_name(chosen["sampler"])
        except ValueError as error:
            raise UserError(f"sampler={chosen['sampler']}: {error}") from None
        if chosen["sampler"] != sample.sampler:
            chosen = {"steps": "", "spacing": "default", "eta": 0.0} | chosen
    return dataclasses.replace(sample, **chosen)


def _as_keyword(option: re.Match[str]) -> str:
    """ "eta=" for "--sample.eta "."""
    return option[1].replace("-", "_") + "="
