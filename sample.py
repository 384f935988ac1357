"""Draws samples from a trained run, by its averaged weights.

    python sample.py --workdir runs/digits --num 64 --labels 3,7 --sampler ddim --steps 50

A super-resolution run enlarges images, given or drawn by another run just before:

    python sample.py --workdir runs/upsampler --low-res FOLDER_OR_SAMPLES_NPZ
    python sample.py --workdir runs/base --upsampler runs/upsampler --upsampler-steps 250

A classifier of noisy images guides the samples to their labels, and so does a model that was
trained to know images without labels too. Of several scales each draws a row of the same noise:

    python sample.py --workdir runs/digits --classifier runs/judge --guidance-scale 0,1,2.5
    python sample.py --workdir runs/digits --cfg-scale 3 --guidance-interval 0.2,0.8

Sample i depends on (seed, i, label), its scales and the image that it enlarges alone. Kill it
whenever you like: the same command goes on at its next batch.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ddpm_jax import data
from ddpm_jax.config import build_diffusion, command_line
from ddpm_jax.data.low_res import read_low_res
from ddpm_jax.errors import UserError
from ddpm_jax.generation import cascade, guidance_options, sample_files
from ddpm_jax.generation import labels as labels_of_cascade
from ddpm_jax.runtime import devices, processes, signals
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.script import run_script, start_logging


@dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder that train.py wrote
    num: int | None = None  # how many samples; None: 64, or as many as --low-res has
    seed: int = 0  # of the noise, and of random labels
    labels: str = ""  # 3,7 (in turn), all (in turn) or random; for a model or classifier of classes
    sampler: Literal["ddpm", "ddim"] | None = None  # None: the run's own; so for those below
    ema: float | None = None  # rate of the averaged weights of --workdir; 0: those being trained
    steps: str | None = None  # 250, 10,15,20 (a section each), ddim50; with another sampler: all
    eta: float | None = None  # DDIM's noise, 0 to 1
    batch_size: int | None = None  # samples drawn at once
    classifier: Path | None = None  # run folder of a classifier, whose gradient guides the samples
    guidance_scale: str | None = None  # of that gradient, one or a list as 0,1,2.5; None: 1
    cfg_scale: str | None = None  # of classifier-free guidance, as above; 1: the model itself
    guidance_interval: str | None = None  # part of t/T that is guided, as 0.2,0.8; None: all of it
    low_res: Path | None = None  # images to enlarge: a folder, or samples.npz or its folder
    upsampler: Path | None = None  # run folder of the model that enlarges the samples
    upsampler_steps: str | None = None  # as --steps, of the upsampler; None: its run's own
    frames: int = 0  # moments of the chain, an upsampler's if there is one, in pictures; 0: none
    out: Path | None = None  # folder for what is drawn; None: WORKDIR/drawn


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    for option, value, least, bits in (
        ("num", 1 if args.num is None else args.num, 1, 31),
        ("seed", args.seed, 0, 32),
        ("frames", args.frames, 0, 31),
    ):
        if not least <= value < 2**bits:
            raise UserError(f"--{option} {value}: must be at least {least} and below 2^{bits}")

    # The runs: one, or one and its upsampler
    first = cascade.read_settings(
        args.workdir,
        sampler=args.sampler,
        steps=args.steps,
        eta=args.eta,
        batch_size=args.batch_size,
    )
    cascade.check_first(args.workdir, first, args.low_res)
    guide = guidance_options.read_guidance_options(
        args.workdir,
        first,
        classifier=args.classifier,
        guidance_scale=args.guidance_scale,
        cfg_scale=args.cfg_scale,
        interval=args.guidance_interval,
    )
    rows, runs = len(guide.scales), [(args.workdir, first)]
    if args.upsampler is not None:
        upsampler = cascade.read_settings(
            args.upsampler, steps=args.upsampler_steps, batch_size=args.batch_size
        )
        cascade.check_upsampler(first, guide, upsampler, args.upsampler)
        runs.append((args.upsampler, upsampler))
    elif args.upsampler_steps is not None:
        raise UserError(f"--upsampler-steps {args.upsampler_steps}: there is no --upsampler")
    *_, last = configs = [config for _, config in runs]

    # What they are told: labels, and what the first one enlarges
    num, low_res, given = args.num or 64, None, None
    classes = labels_of_cascade.stage_classes(configs, guide)
    if args.low_res is not None:
        num_classes = 0 if args.labels else max(classes)
        low_res, given = read_low_res(args.low_res, first.data, args.num, num_classes)
        num = len(low_res)
    enlarges = low_res is not None
    labels = labels_of_cascade.stage_labels(args.labels, num, classes, args.seed, given, enlarges)

    # Devices and weights: all of them before the first chain, for that may take hours
    devices.use_every_core()
    processes.join(vars(args))
    models = [
        cascade.load_stage(
            workdir,
            config,
            args.frames if config is last else 0,
            guide if config is first else guidance_options.no_guidance(rows),
            args.ema if config is first else None,
        )
        for workdir, config in runs
    ]
    out = args.out or args.workdir / "drawn"
    processes.on_main_process(lambda: sample_files.make_folder(out, args.low_res))

    # The chains
    for model, told in zip(models, labels, strict=True):
        with progress(num * rows, 0, "sample", f"step {model.step}") as bar:
            update, unfinished = signals.with_stop_check(bar.update), out / sample_files.UNFINISHED
            drawn = model.draw(args.seed, told, update, low_res, parts=unfinished)
        if model is not models[-1]:
            low_res = drawn.x
            processes.on_main_process(partial(sample_files.save_arrays, drawn, out / "base"))
    drawn = drawn._replace(scales=guide.scales)

    # Files: points lie over those of the data
    points = last.data.name == "s_curve"
    reference = data.load_source(last.data).points if points else None

    def save() -> None:
        sample_files.save_samples(drawn, out, reference, classes[-1], low_res)
        if args.frames:
            sample_files.save_chain(drawn, build_diffusion(last.diffusion).schedule, out, reference)
        sample_files.drop_unfinished(out)

    processes.on_main_process(save)  # and the others wait, for minutes if there are many
    at = f" at each of {rows} scales, a row each" if rows > 1 else ""
    print(f"{num} samples{at} in {out}")


if __name__ == "__main__":
    with processes.exit_together():
        run_script(main)
