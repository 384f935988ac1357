"""Measures how good a trained run is, by its averaged weights.

    python evaluate.py --workdir runs/cifar10_iddpm --metrics bpd --split test --steps 250

Kill it whenever you like: the same command goes on where it stopped.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ddpm_jax import data
from ddpm_jax.config import ParallelConfig, build_diffusion, check, command_line, serialization
from ddpm_jax.data import check_num_classes
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import bits_per_dimension
from ddpm_jax.models import build_network
from ddpm_jax.runs import partial_results
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.weights import load_weights, weights_item
from ddpm_jax.runtime import devices, processes, signals
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.script import run_script, start_logging


@dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder that train.py wrote
    metrics: Literal["bpd"] = "bpd"  # bpd: the variational bound, in bits per dimension
    checkpoint: int | None = None  # step of the checkpoint; None: the newest
    ema: float | None = None  # rate of the averaged weights; 0: those being trained
    split: str | None = None  # of the data, as in --data.split; None: that of training
    num: int = 0  # how many examples, from the first; 0: all
    steps: str = ""  # length of the chain, as in sample.py; "": all of it
    seed: int = 0  # of the noise
    batch_size: int = 64  # examples at once
    data_dir: str | None = None  # folder of prepared TFDS sets; None: that of training
    out: Path | None = None  # folder for the results; None: one in WORKDIR/evaluation


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    config = serialization.read_config(args.workdir / "config.json")
    check(config)
    settings = config.data
    if args.split is not None:
        if not settings.name.startswith("tfds:"):
            raise UserError(f"--split {args.split}: {settings.name} has no splits; leave it out")
        settings = replace(settings, split=args.split)
    if args.data_dir is not None:
        settings = replace(settings, dir=args.data_dir)
    if config.model.kind != "unet":
        raise UserError(
            f"--metrics bpd is for models of images, not --model.kind {config.model.kind}"
        )
    for option, value, least, bits in (
        ("num", args.num, 0, 31),
        ("seed", args.seed, 0, 32),
        ("batch-size", args.batch_size, 1, 31),
    ):
        if not least <= value < 2**bits:
            raise UserError(f"--{option} {value}: must be at least {least} and below 2^{bits}")

    weights = weights_item(config, args.ema)

    # Devices, data, model, weights
    devices.use_every_core()
    processes.join(vars(args))
    mesh = devices.make_mesh(ParallelConfig(), args.batch_size)
    source = data.load_source(settings)
    processes.assert_equal_across_processes({"examples": len(source)})
    check_num_classes(replace(config, data=settings), source)
    num = args.num or len(source)
    if num > len(source):
        raise UserError(f"--num {num}: {settings.name} has {len(source)} examples in this split")
    network = build_network(config)
    bound = bits_per_dimension.make_bound(config, network, mesh, args.steps, args.seed)
    loaded = load_weights(args.workdir, network, mesh, weights, args.checkpoint)

    # The bound, a file a batch, and what it comes to
    described = replace(settings, dir=""), config.model, config.diffusion
    settings_of_results = {
        "checkpoint": loaded.step,
        "data": f"{settings.name} {settings.split}",
        "steps": args.steps,
        "seed": args.seed,
        "weights": None if weights == "ema" else weights,
        "run": sha256([str(described), loaded.items["ema"]])[:16],
    }
    told = [args.steps or None, settings_of_results["weights"]]
    name = "_".join(["bpd", settings.split, f"{loaded.step:08d}", *filter(None, told)])
    out = args.out or args.workdir / "evaluation" / name
    processes.on_main_process(
        lambda: partial_results.create_results_folder(out, settings_of_results)
    )
    with progress(num, 0, "example", f"step {loaded.step}") as bar:
        update = signals.with_stop_check(bar.update)
        found = bits_per_dimension.evaluate(
            bound, loaded.items["ema"], source, settings, num, args.batch_size, out, update
        )
    timesteps = build_diffusion(config.diffusion, args.steps).schedule.timestep_map
    print(processes.on_main_process(lambda: bits_per_dimension.report(found, timesteps, out)))


if __name__ == "__main__":
    with processes.exit_together():
        run_script(main)
