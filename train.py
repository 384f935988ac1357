"""Trains a diffusion model, and goes on where an earlier run of the same command stopped.

    python train.py --config configs/cifar10.py [--workdir DIR] [--train.batch-size 64 ...]

Without arguments: handwritten digits, minutes on a CPU. `--help` lists every setting; `--dry-run`
says what the run would need, and ends.
"""

import dataclasses
import sys
import time

from ddpm_jax.runtime import huge_pages
from ddpm_jax.runtime.script import start_logging

if __name__ == "__main__":
    huge_pages.ask()  # before the imports that take seconds

import jax

from ddpm_jax import data
from ddpm_jax.config import build_diffusion, command_line, serialization, traced_steps
from ddpm_jax.generation.generator import Generator
from ddpm_jax.models import Params, build_network, count_parameters
from ddpm_jax.runs import folder
from ddpm_jax.runs.checkpoints import Checkpoints
from ddpm_jax.runs.metrics_log import MetricsLog
from ddpm_jax.runtime import devices, processes, signals
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.script import run_script
from ddpm_jax.training import loop
from ddpm_jax.training.dry_run import report
from ddpm_jax.training.metric_window import MetricWindow, last_step_finite
from ddpm_jax.training.profile import profiled
from ddpm_jax.training.skipped import make_report
from ddpm_jax.training.state import TrainState, init_state, make_optimizer
from ddpm_jax.training.step import make_train_step
from ddpm_jax.training.throughput import make_rates
from ddpm_jax.training.validation import EarlyStop, make_validator


def main() -> None:
    config, workdir, dry_run = command_line.parse_train(sys.argv[1:])
    start_logging()
    train = config.train

    # Devices, model, optimizer, step
    batch_size = train.batch_size // train.grad_accumulation_steps
    devices.use_every_core(config.parallel, batch_size)
    options = serialization.flat(config) | {"workdir": workdir.absolute(), "dry_run": dry_run}
    processes.join(options)
    mesh = devices.make_mesh(config.parallel, batch_size)

    # Data: a dry run needs it only to count its classes
    source = held_out = None
    if not dry_run or config.model.num_classes == -1:
        whole = data.load_source(config.data)
        data.warn_of_tiny_images(whole, config.data)
        source, held_out = data.hold_out(whole, config.data)
        config = data.with_classes(config, source)

    diffusion = build_diffusion(config.diffusion)
    network = build_network(config)
    optimizer = make_optimizer(train)

    def initial() -> TrainState:
        return started(network.init(jax.random.key(train.seed)))

    def started(params: Params) -> TrainState:
        return init_state(params, optimizer, config)

    abstract = jax.eval_shape(initial)
    sharding = devices.state_sharding(abstract, mesh)
    train_step = devices.pmapped(
        make_train_step(config, diffusion, network, optimizer), mesh, sharding
    )
    if dry_run:
        for line in report(config, network, abstract, sharding, mesh, train_step):
            print(line, flush=True)
        return

    processes.assert_equal_across_processes(
        {"examples": len(source), "held out": len(held_out or ())}
    )
    validate = held_out and make_validator(config, diffusion, network, mesh, held_out)
    generator = None if config.model.kind == "classifier" else Generator(config, network, mesh)
    processes.on_main_process(
        lambda: folder.create_run_folder(workdir, config)
    )  # now that nothing is wrong with it
    print(
        f"{workdir}: {count_parameters(abstract.params):,} parameters, {len(source):,} examples of "
        f"{config.data.name}, batches of {train.batch_size} on {mesh.devices.size} "
        f"{jax.devices()[0].platform} device(s)"
    )
    print(data.class_line(config))

    with (
        Checkpoints(
            workdir / "checkpoints", train.keep_checkpoints, train.stop_on_failed_save
        ) as checkpoints,
        processes.exit_together(),  # before the checkpoints wait for those of others
    ):
        # Restore
        on_mesh = devices.abstract_on(abstract, sharding)
        state = checkpoints.restore(on_mesh)
        if state is not None:
            print(f"resumed after step {int(state.step)}")
        elif (weights := checkpoints.restore_imported(on_mesh.params)) is not None:
            state = jax.jit(started, out_shardings=sharding, donate_argnums=0)(weights)
            print("starts from imported weights")
        else:
            state = jax.jit(initial, out_shardings=sharding)()
        first, lowest = int(state.step), None

        def draw_samples(step: int) -> None:
            due = loop.due(step, train.sample_every_steps, train.steps)
            picture = workdir / "samples" / f"step_{step:08d}.png"
            if generator is None or not due:
                return
            if step == first and processes.on_main_process(picture.exists):
                return
            labels, low_res = loop.picture_inputs(config, source)
            with progress(len(labels), 0, "sample", "samples", 10) as drawing:
                update = signals.with_stop_check(drawing.update)
                batch = generator.generate(state.ema, 0, labels, update, low_res)
            if processes.is_main_process():
                batch = dataclasses.replace(batch, reference=source.points)
                log.image(step, "samples", batch.save_grid(picture))
            window.restart_clock()

        def save_rest() -> str:
            step = int(state.step)
            loop.log_rest(log, step, window, train)
            if checkpoints.saved < step and (lowest is not None or last_step_finite(state)):
                checkpoints.save(step, state, serialization.to_json(config), lowest)
            checkpoints.wait()
            upto = f" up to step {checkpoints.saved}" if checkpoints.saved < step else ""
            return f"after step {step}, saved{upto}"

        # Loop
        with (
            MetricsLog(workdir, first) as log,
            data.train_batches(
                source,
                config.data,
                train.batch_size,
                train.seed,
                start_step=first,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            ) as batches,
            progress(train.steps, first, "step", workdir.name) as bar,
            signals.deferred(save_rest),
        ):
            speed = make_rates(config, network, mesh)
            window = MetricWindow(train, time.monotonic, make_report(log, source, config), speed)
            early_stop = EarlyStop(train.early_stop_validations, log.earlier)
            draw_samples(first)  # if the run was stopped amid them
            steps = profiled(
                range(first + 1, train.steps + 1),
                traced_steps(config.profile),
                workdir / "tensorboard",
                lambda: jax.block_until_ready(state),
            )
            for step in steps:
                if early_stop.over:
                    break
                state, metrics = train_step(
                    state, devices.shard_local_batch(window.take(batches), mesh)
                )
                window.add(metrics)
                if loop.due(step, train.log_every_steps, train.steps):
                    numbers = window.close()
                    log.scalars(step, numbers)
                    bar.set_postfix(loop.shown(numbers), refresh=False)
                lowest = None
                if validate and loop.due(step, train.validate_every_steps, train.steps):
                    numbers = validate(state.ema)
                    log.scalars(step, numbers)
                    lowest = early_stop.add(numbers["held_out_loss"])
                    window.restart_clock()
                last = step == train.steps or early_stop.over
                if last:
                    loop.log_rest(log, step, window, train)
                due = loop.due(step, train.checkpoint_every_steps, train.steps)
                if last or lowest is not None or (due and last_step_finite(state)):
                    checkpoints.save(step, state, serialization.to_json(config), lowest)
                draw_samples(step)  # after the save: a kill in these minutes costs no step
                bar.update(1)
                if not last:  # the end waits for the last save
                    checkpoints.check()
                signals.check_together(step)
            if early_stop.over:
                print(
                    f"stops early: {train.early_stop_validations} validations in a row had no lower"
                    " held-out loss; the weights of the lowest are kept, and drawn from"
                )
            checkpoints.wait()
            loop.finish(log, workdir, state, source)


if __name__ == "__main__":
    with processes.exit_together():
        run_script(main)
