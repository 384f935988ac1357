"""From a trained run to images: `load_run(workdir).generate(...)`."""

from ddpm_jax.generation.options import GenerationOptions
from ddpm_jax.generation.run import Run, load_run
from ddpm_jax.generation.sample_batch import SampleBatch

__all__ = ["GenerationOptions", "Run", "SampleBatch", "load_run"]
