"""Draws samples from a trained run, by its averaged weights.

    python sample.py --workdir runs/digits --num 64 --labels 3,7 --sampler ddim --steps 50

Sample i depends on (seed, i, label) alone.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

from ddpm_jax import checkpoint, cli, config_json, data, outputs, parallel
from ddpm_jax.config import ParallelConfig, check
from ddpm_jax.diffusion import build_diffusion
from ddpm_jax.errors import UserError, run_script
from ddpm_jax.models import build_network
from ddpm_jax.sampling.draw import choose_labels, make_drawer
from ddpm_jax.training.metrics import progress


@dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder that train.py wrote
    num: int = 64  # how many samples
    seed: int = 0  # of the noise, and of random labels
    labels: str = ""  # 3,7 (in turn), all (in turn) or random; for models with classes
    sampler: Literal["ddpm", "ddim"] | None = None  # None: the run's own; so for those below
    steps: str | None = None  # 250, 10,15,20 (a section each), ddim50; with another sampler: all
    eta: float | None = None  # DDIM's noise, 0 to 1
    batch_size: int | None = None  # samples drawn at once
    frames: int = 0  # moments of the chain to show in pictures; 0: none
    out: Path | None = None  # folder for what is drawn; None: WORKDIR/drawn


def main() -> None:
    args = cli.parse(Args, sys.argv[1:], description=__doc__)
    cli.start_logging()
    config = config_json.read_config(args.workdir / "config.json")
    chosen = {name: getattr(args, name) for name in ("sampler", "steps", "eta", "batch_size")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if args.sampler not in (None, config.sample.sampler):
        chosen = {"steps": "", "eta": 0.0} | chosen  # the run's own suit its own sampler
    config = dataclasses.replace(config, sample=dataclasses.replace(config.sample, **chosen))
    try:
        check(config)
    except UserError as error:
        raise UserError(str(error).replace("--sample.", "--")) from None
    for option, value, least in (
        ("num", args.num, 1),
        ("seed", args.seed, 0),
        ("frames", args.frames, 0),
    ):
        if not least <= value < 2**32:
            raise UserError(f"--{option} {value}: must be at least {least} and below 2^32")
    labels = choose_labels(args.labels, args.num, config.model.num_classes, args.seed)

    # Devices, model, weights
    parallel.use_every_core()
    mesh = parallel.make_mesh(ParallelConfig(), config.sample.batch_size)
    network = build_network(config)
    draw = make_drawer(config, network, mesh, args.frames)
    everywhere = jax.tree.map(lambda _: parallel.replicated(mesh), network.abstract)
    loaded = checkpoint.load_ema(
        args.workdir / "checkpoints", parallel.abstract_on(network.abstract, everywhere)
    )

    out = args.out or args.workdir / "drawn"
    outputs.make_folder(out)

    # The chain
    with progress(args.num, 0, "sample", f"step {loaded.step}") as bar:
        drawn = draw(loaded.items["ema"], args.seed, labels, bar.update)

    # Files: points lie over those of the data
    points = config.data.name == "s_curve"
    reference = data.load_source(config.data).points if points else None
    columns = outputs.grid_columns(args.num, config.model.num_classes, args.labels)
    outputs.save_samples(drawn, out, reference, columns)
    if args.frames:
        outputs.save_chain(drawn, build_diffusion(config.diffusion).schedule, out, reference)
    print(f"{args.num} samples in {out}")


if __name__ == "__main__":
    run_script(main)
