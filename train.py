"""Trains a diffusion model, and goes on where an earlier run of the same command stopped.

    python train.py --config configs/cifar10.py [--workdir DIR] [--train.batch-size 64 ...]

Without arguments: handwritten digits, minutes on a CPU. `--help` lists every setting; `--dry-run`
says what the run would need, and ends.
"""

import sys
import time

from ddpm_jax import huge_pages

if __name__ == "__main__":
    huge_pages.ask()  # before the imports that take seconds

import jax

from ddpm_jax import checkpoint, cli, config_json, data, interrupt, outputs, parallel, processes
from ddpm_jax.config import traced_steps
from ddpm_jax.diffusion import build_diffusion
from ddpm_jax.errors import run_script
from ddpm_jax.models import Params, build_network, count_parameters
from ddpm_jax.sampling.draw import make_drawer
from ddpm_jax.training import run
from ddpm_jax.training.dry_run import report
from ddpm_jax.training.metrics import MetricsLog, progress
from ddpm_jax.training.profile import profiled
from ddpm_jax.training.skipped import make_report
from ddpm_jax.training.state import TrainState, init_state, make_optimizer
from ddpm_jax.training.step import make_train_step
from ddpm_jax.training.throughput import make_rates
from ddpm_jax.training.validation import EarlyStop, make_validator


def main() -> None:
    config, workdir, dry_run = cli.parse_train(sys.argv[1:])
    cli.start_logging()
    train = config.train

    # Devices, model, optimizer, step
    batch_size = train.batch_size // train.grad_accumulation_steps
    parallel.use_every_core(config.parallel, batch_size)
    options = config_json.flat(config) | {"workdir": workdir.absolute(), "dry_run": dry_run}
    processes.join(options)
    mesh = parallel.make_mesh(config.parallel, batch_size)
    diffusion = build_diffusion(config.diffusion)
    network = build_network(config)
    optimizer = make_optimizer(train)

    def initial() -> TrainState:
        return started(network.init(jax.random.key(train.seed)))

    def started(params: Params) -> TrainState:
        return init_state(params, optimizer, config)

    abstract = jax.eval_shape(initial)
    sharding = parallel.state_sharding(abstract, mesh)
    train_step = parallel.pmapped(
        make_train_step(config, diffusion, network, optimizer), mesh, sharding
    )
    if dry_run:
        for line in report(config, network, abstract, sharding, mesh, train_step):
            print(line, flush=True)
        return

    # Data
    source, held_out = data.hold_out(data.load_source(config.data), config.data)
    processes.must_agree({"examples": len(source), "held out": len(held_out or ())})
    run.check_labels(config, source.num_classes)
    validate = held_out and make_validator(config, diffusion, network, mesh, held_out)
    draw = None if config.model.kind == "classifier" else make_drawer(config, network, mesh)
    processes.by_first(lambda: run.claim(workdir, config))  # now that nothing is wrong with it
    print(
        f"{workdir}: {count_parameters(abstract.params):,} parameters, {len(source):,} examples of "
        f"{config.data.name}, batches of {train.batch_size} on {mesh.devices.size} "
        f"{jax.devices()[0].platform} device(s)"
    )

    with (
        checkpoint.Checkpoints(
            workdir / "checkpoints", train.keep_checkpoints, train.stop_on_failed_save
        ) as checkpoints,
        processes.ending_together(),  # before the checkpoints wait for those of others
    ):
        # Restore
        on_mesh = parallel.abstract_on(abstract, sharding)
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
            due = run.due(step, train.sample_every_steps, train.steps)
            picture = workdir / "samples" / f"step_{step:08d}.png"
            if draw is None or not due:
                return
            if step == first and processes.by_first(picture.exists):
                return
            labels, low_res = run.picture_inputs(config, source)
            with progress(len(labels), 0, "sample", "samples", 10) as drawing:
                drawn = draw(state.ema, 0, labels, interrupt.checked(drawing.update), low_res)
            if processes.is_first():
                log.image(step, "samples", outputs.save_picture(drawn.x, picture, source.points))
            window.restart_clock()

        def save_rest() -> str:
            step = int(state.step)
            run.log_rest(log, step, window, train)
            if checkpoints.saved < step and (lowest is not None or run.sound(state)):
                checkpoints.save(step, state, config_json.to_json(config), lowest)
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
            interrupt.held(save_rest),
        ):
            speed = make_rates(config, network, mesh)
            window = run.Window(train, time.monotonic, make_report(log, source, config), speed)
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
                state, metrics = train_step(state, parallel.to_mesh(window.take(batches), mesh))
                window.add(metrics)
                if run.due(step, train.log_every_steps, train.steps):
                    numbers = window.close()
                    log.scalars(step, numbers)
                    bar.set_postfix(run.shown(numbers), refresh=False)
                lowest = None
                if validate and run.due(step, train.validate_every_steps, train.steps):
                    numbers = validate(state.ema)
                    log.scalars(step, numbers)
                    lowest = early_stop.add(numbers["held_out_loss"])
                    window.restart_clock()
                last = step == train.steps or early_stop.over
                if last:
                    run.log_rest(log, step, window, train)
                due = run.due(step, train.checkpoint_every_steps, train.steps)
                if last or lowest is not None or (due and run.sound(state)):
                    checkpoints.save(step, state, config_json.to_json(config), lowest)
                draw_samples(step)  # after the save: a kill in these minutes costs no step
                bar.update(1)
                if not last:  # the end waits for the last save
                    checkpoints.check()
                interrupt.check_together(step)
            if early_stop.over:
                print(
                    f"stops early: {train.early_stop_validations} validations in a row had no lower"
                    " held-out loss; the weights of the lowest are kept, and drawn from"
                )
            checkpoints.wait()
            run.finish(log, workdir, state, source)


if __name__ == "__main__":
    with processes.ending_together():
        run_script(main)
