"""What a training run would take on a TPU slice, compiled for it on a machine that has none."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import jax

from ddpm_jax.config import Config, ParallelConfig, TrainConfig, build_diffusion
from ddpm_jax.errors import UserError
from ddpm_jax.models import Network, build_network
from ddpm_jax.runtime import devices
from ddpm_jax.runtime.slice_report import Fit, compile_for, cost_lines, memory_line
from ddpm_jax.runtime.tpu_slices import TPUSlice, slice_mesh
from ddpm_jax.training.state import make_optimizer, new_state
from ddpm_jax.training.step import abstract_batch, make_train_step
from ddpm_jax.training.throughput import TRAINING_EVALUATIONS, evaluation_flops


def slice_lines(config: Config, network: Network, target: TPUSlice) -> Iterator[str]:
    """Yields lines about a training step on a slice; compiles it, for minutes.

    Where it does not fit, the settings that take less are tried, those that cost least first.
    Raises UserError if none fits.
    """
    fit = compile_step(config, target)
    yield memory_line(fit)
    if not fit.fits:
        for options, smaller in smaller_settings(config, target):
            fit = compile_step(smaller, target, quickly=True)
            yield f"{memory_line(fit)}, with {options}"
            if fit.fits:
                fit = compile_step(smaller, target)
            if fit.fits:
                yield f"smallest     change that fits: {options}"
                break
        else:
            raise UserError(f"--tpu {target.name}: no setting tried fits; take a larger slice")
    yield from step_lines(config, network, target, fit)


def compile_step(config: Config, target: TPUSlice, quickly: bool = False) -> Fit:
    """The training step of a config, compiled for the slice."""
    return compile_for(target, lambda: lower_step(config, target), quickly)


def lower_step(config: Config, target: TPUSlice) -> jax.stages.Lowered:
    """The training step of a config, for the chips of the slice."""
    train = config.train
    micro_batch = train.batch_size // train.grad_accumulation_steps
    mesh = slice_mesh(target, config.parallel, micro_batch)
    network, optimizer = build_network(config), make_optimizer(train)
    abstract = jax.eval_shape(partial(new_state, config, network, optimizer))
    step = make_train_step(config, build_diffusion(config.diffusion), network, optimizer)
    jitted = devices.pmapped(step, mesh, devices.state_sharding(abstract, mesh))
    return jitted.lower(abstract, abstract_batch(config))


def step_lines(config: Config, network: Network, target: TPUSlice, fit: Fit) -> Iterator[str]:
    """The cost of a compiled training step. Recomputation is no FLOP of the share of the peak."""
    assert fit.compiled is not None
    batch_size = config.train.batch_size
    flops = TRAINING_EVALUATIONS * (evaluation_flops(config, network) or 0) * batch_size
    yield from cost_lines(target, fit.compiled, config.model.dtype, flops / target.size, batch_size)


def smaller_settings(config: Config, target: TPUSlice) -> Iterator[tuple[str, Config]]:
    """Settings that take less memory and train the same: their options, and the config.

    Activations are computed anew, then the batch in more and more parts, then the state is split.
    """
    remat = replace(config, model=replace(config.model, remat=True))
    if not config.model.remat:
        yield "--model.remat True", remat
    bases = {"": remat}
    if config.parallel.fsdp < target.size:
        bases[f"--parallel.fsdp {target.size} "] = _split(remat, target)
    for options, base in bases.items():
        if options:
            yield f"{options}--model.remat True", base
        for parts in _more_parts(config.train, target):
            train = replace(base.train, grad_accumulation_steps=parts)
            accumulation = f"--train.grad-accumulation-steps {parts}"
            yield f"{options}--model.remat True {accumulation}", replace(base, train=train)


def _split(config: Config, target: TPUSlice) -> Config:
    return replace(config, parallel=ParallelConfig(data=1, fsdp=target.size))


def _more_parts(train: TrainConfig, target: TPUSlice) -> Iterator[int]:
    """Numbers of micro-batches, four times as many each, whose size the slice divides."""
    parts = 4 * train.grad_accumulation_steps
    while train.batch_size % (parts * target.size) == 0:
        yield parts
        parts *= 4
