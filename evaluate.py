"""Measures how good a trained run is, by its averaged weights.

    python evaluate.py --workdir runs/cifar10_iddpm --metrics bpd --split test --steps 250

Kill it whenever you like: the same command goes on where it stopped.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ddpm_jax import data
from ddpm_jax.config import DataConfig, ParallelConfig, command_line
from ddpm_jax.config.option_names import naming_options
from ddpm_jax.data import check_num_classes
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.bits_per_dimension import Evaluation
from ddpm_jax.evaluation.run_metrics import choose_metrics
from ddpm_jax.generation import load_run
from ddpm_jax.runtime import devices, processes
from ddpm_jax.runtime.script import run_script, start_logging

LIMITS = {"num": (0, 31), "seed": (0, 32), "batch_size": (1, 31)}  # least value, and bits


@dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder that train.py wrote
    metrics: str = "bpd"  # bpd: the variational bound, in bits per dimension
    checkpoint: int | None = None  # step of the checkpoint; None: the best or newest
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
    with naming_options(Args):
        metrics = choose_metrics(args.metrics)
        for name, (least, bits) in LIMITS.items():
            value = getattr(args, name)
            if not least <= value < 2**bits:
                raise UserError(f"{name}={value}: must be at least {least} and below 2^{bits}")
        run = load_run(args.workdir, args.checkpoint, args.ema)
        settings = data_settings(run.config.data, args)

        devices.use_every_core()
        processes.join(vars(args))
        mesh = devices.make_mesh(ParallelConfig(), args.batch_size)
        source = data.load_source(settings)
        processes.assert_equal_across_processes({"examples": len(source)})
        check_num_classes(replace(run.config, data=settings), source)
        num = args.num or len(source)
        if num > len(source):
            raise UserError(f"num={num}: {settings.name} has {len(source)} examples in this split")

        evaluation = Evaluation(
            run, mesh, source, settings, num, args.batch_size, args.steps, args.seed, args.out
        )
        for metric in metrics:
            print(metric.evaluate(evaluation))


def data_settings(settings: DataConfig, args: Args) -> DataConfig:
    """Those of training, with the split and the folder that are asked for."""
    if args.split is not None:
        if not settings.name.startswith("tfds:"):
            raise UserError(f"split={args.split}: {settings.name} has no splits; leave it out")
        settings = replace(settings, split=args.split)
    if args.data_dir is not None:
        settings = replace(settings, dir=args.data_dir)
    return settings


if __name__ == "__main__":
    with processes.exit_together():
        run_script(main)
