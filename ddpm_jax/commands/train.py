"""Trains a diffusion model, and goes on where an earlier run of the same command stopped.

    python train.py --config configs/cifar10.py [--workdir DIR] [--train.batch-size 64 ...]
    python train.py --pretrained imagenet64 --workdir DIR --data.name folder:PATH

Without arguments: handwritten digits, minutes on a CPU. `--help` lists every setting; `--dry-run`
says what the run would need, and ends.
"""

import sys
from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh

from ddpm_jax import data
from ddpm_jax.config import Config, build_diffusion, command_line, serialization
from ddpm_jax.config.option_names import naming_options
from ddpm_jax.demo.report import REPORT, write_report
from ddpm_jax.interop import pretrained
from ddpm_jax.models import build_network, count_parameters
from ddpm_jax.runs import trackers
from ddpm_jax.runs.checkpoints import Checkpoints
from ddpm_jax.runs.folder import run_folder
from ddpm_jax.runtime import devices, processes, tpu_slices
from ddpm_jax.runtime.script import start_logging
from ddpm_jax.training.dry_run import report
from ddpm_jax.training.evaluators import metrics_evaluator, picture_evaluator, validation_evaluator
from ddpm_jax.training.loop import Run, train_loop
from ddpm_jax.training.restore import restore
from ddpm_jax.training.state import make_optimizer, new_state
from ddpm_jax.training.step import make_train_step
from ddpm_jax.training.throughput import make_rates


def main() -> None:
    start_logging()
    with naming_options(command_line.TrainOptions):
        config, workdir, dry_run, tpu, model = command_line.parse_train(
            sys.argv[1:], pretrained.config_of
        )
    trackers.check_installed(config)

    # Mesh
    train = config.train
    micro_batch_size = train.batch_size // train.grad_accumulation_steps
    devices.use_every_core(config.parallel, micro_batch_size)
    target = None if tpu is None else tpu_slices.prepare(tpu)
    options = {"workdir": workdir.absolute(), "dry_run": dry_run}
    processes.join(serialization.flat(config) | options)
    make_mesh = devices.make_mesh if target is None else partial(tpu_slices.slice_mesh, target)
    mesh = make_mesh(config.parallel, micro_batch_size)

    # Data: a dry run needs it only to count its classes
    source = held_out = None
    if not dry_run or config.model.num_classes == -1:
        whole = data.load_source(config.data)
        data.warn_of_tiny_images(whole, config.data)
        source, held_out = data.hold_out(whole, config.data)
        sizes = {"examples": len(source), "held out": len(held_out or ())}
        processes.assert_equal_across_processes(sizes)
        config = data.with_classes(config, source)

    # Model, optimizer, step
    diffusion, network = build_diffusion(config.diffusion), build_network(config)
    optimizer = make_optimizer(train)
    abstract = jax.eval_shape(partial(new_state, config, network, optimizer))
    sharding = devices.state_sharding(abstract, mesh)
    step = make_train_step(config, diffusion, network, optimizer)
    train_step = devices.pmapped(step, mesh, sharding)
    if dry_run:
        for line in report(config, network, abstract, sharding, mesh, train_step, target):
            print(line, flush=True)
        return
    assert source is not None  # only a dry run may do without
    if model is not None:
        start = partial(pretrained.start_training, model, workdir, config)
        processes.on_main_process(start)

    # Evaluators
    evaluators = [
        validation_evaluator(config, diffusion, network, mesh, held_out),  # before the save
        metrics_evaluator(config, network, mesh, source, workdir),  # so too: it says which to keep
        picture_evaluator(config, network, mesh, source, workdir / "samples"),  # after it
    ]

    with (
        run_folder(workdir, config),
        Checkpoints(
            workdir / "checkpoints", train.keep_checkpoints, train.stop_on_failed_save
        ) as checkpoints,
        processes.exit_together(),  # inside, since leaving `Checkpoints` waits for other processes
    ):
        announce(config, workdir, count_parameters(abstract.params), len(source), mesh)

        # Restore
        state = restore(checkpoints, config, network, optimizer, sharding)

        # Loop: a step, its log entry, evaluators before the save, the save, evaluators after it
        rates = make_rates(config, network, mesh)
        run = Run(config, workdir, source, mesh, train_step, evaluators, rates)
        train_loop(run, state, checkpoints)

        # Report
        processes.on_main_process(partial(write_report, [workdir], workdir / REPORT))


def announce(config: Config, workdir: Path, parameters: int, examples: int, mesh: Mesh) -> None:
    """Prints what is trained, on what, and where."""
    print(
        f"{workdir}: {parameters:,} parameters, {examples:,} examples of {config.data.name}, "
        f"batches of {config.train.batch_size} on {mesh.devices.size} "
        f"{jax.devices()[0].platform} device(s)"
    )
    print(data.class_line(config))
