"""What drawing samples would take on a TPU slice, compiled for it on a machine that has none."""

from collections.abc import Iterator

from ddpm_jax.config import ParallelConfig, data_shape
from ddpm_jax.errors import UserError
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.guided_chain import GuidanceModels
from ddpm_jax.generation.run import CascadeModel, Plan
from ddpm_jax.models import count_parameters
from ddpm_jax.runtime.slice_report import compile_for, cost_lines, memory_line
from ddpm_jax.runtime.tpu_slices import TPUSlice, slice_mesh


def sampling_report(plan: Plan, target: TPUSlice) -> Iterator[str]:
    """Yields lines about the chains of a plan on a slice; compiles them.

    No weights are read. Raises UserError if a batch does not fit.
    """
    yield f"dry run: compiled for {target.name}, {target.size} chips; nothing is drawn or written"
    for model in plan.models:
        yield from _model_report(model, target)


def _model_report(model: CascadeModel, target: TPUSlice) -> Iterator[str]:
    size = -(-model.config.sample.batch_size // target.size) * target.size
    mesh = slice_mesh(target, ParallelConfig(), size)
    guidance = GuidanceModels(interval=model.guidance.interval)
    if model.guidance.folder is not None:
        classifier = model.run.load_classifier(model.guidance.folder).network
        guidance = GuidanceModels(classifier, None, model.guidance.interval)
    network, dtype = model.run.network, model.config.model.dtype
    generator = Generator(model.config, network, mesh, model.frames, guidance)
    steps = generator.chain_length
    parameters = f"{count_parameters(network.abstract):,} parameters"
    yield f"model        {model.run.workdir}: {parameters}, computed in {dtype}"
    shape = "x".join(map(str, data_shape(model.config)))
    yield (
        f"a batch      {size} samples of {shape}, {size // target.size} a chip; {steps} steps of "
        f"{model.config.sample.sampler}"
    )
    scales = model.guidance.scales[-1]  # of several, all but 0 and 1 draw by the same program
    fit = compile_for(target, lambda: generator.lower(network.abstract, scales))
    yield memory_line(fit)
    if fit.compiled is None:
        raise UserError(
            f"--tpu {target.name}: a batch of {size} does not fit; try --batch-size {size // 2}"
        )
    # The loop over the steps counts once, here and in XLA's FLOPs.
    flops = (fit.compiled.cost_analysis() or {})["flops"]
    yield from cost_lines(target, fit.compiled, dtype, flops, size / steps)
