"""Every setting of a run: its unit, its default, its bounds; as JSON, and from a command line."""

from ddpm_jax.config.build import build_diffusion
from ddpm_jax.config.schema import (
    Config,
    DataConfig,
    DiffusionConfig,
    EvaluateConfig,
    Loss,
    ModelConfig,
    ParallelConfig,
    Prediction,
    ProfileConfig,
    SampleConfig,
    SamplerName,
    Schedule,
    TimestepSampler,
    TrainConfig,
    Variance,
    Weighting,
    data_shape,
    traced_steps,
)
from ddpm_jax.config.validation import check

__all__ = [
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "EvaluateConfig",
    "Loss",
    "ModelConfig",
    "ParallelConfig",
    "Prediction",
    "ProfileConfig",
    "SampleConfig",
    "SamplerName",
    "Schedule",
    "TimestepSampler",
    "TrainConfig",
    "Variance",
    "Weighting",
    "build_diffusion",
    "check",
    "data_shape",
    "traced_steps",
]
