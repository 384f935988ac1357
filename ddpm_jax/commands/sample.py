"""Draws samples from a trained run, by its averaged weights.

    python sample.py --workdir runs/digits --num 64 --labels 3,7 --sampler ddim --steps 50

A published model is fetched once, by its name (`--list-pretrained` has all):

    python sample.py --pretrained imagenet64 --num 8

A super-resolution run enlarges images, given or drawn by another run just before:

    python sample.py --workdir runs/upsampler --low-res FOLDER_OR_SAMPLES_NPZ
    python sample.py --workdir runs/base --upsampler runs/upsampler --upsampler-steps 250

A classifier of noisy images guides the samples to their labels, and so does a model that was also
trained without labels. Of several scales each draws a row of the same noise:

    python sample.py --workdir runs/digits --classifier runs/classifier --guidance-scale 0,1,4
    python sample.py --workdir runs/digits --cfg-scale 3 --guidance-interval 0.2,0.8

Sample i depends on (seed, i, label), its scales and the image that it enlarges alone. Kill it
whenever you like: the same command goes on at its next batch.
"""

import sys
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from ddpm_jax.commands.pretrained_runs import open_run, with_companions
from ddpm_jax.commands.published_table import published_table
from ddpm_jax.config import command_line
from ddpm_jax.config.option_names import naming_options
from ddpm_jax.errors import UserError
from ddpm_jax.generation import GenerationOptions, SampleBatch, output_folder
from ddpm_jax.generation.tpu_dry_run import sampling_report
from ddpm_jax.runtime import devices, processes, tpu_slices
from ddpm_jax.runtime.script import start_logging
from ddpm_jax.sampling.samplers import described


@dataclass(frozen=True)
class Args:
    workdir: Path | None = None  # the run folder that train.py wrote
    pretrained: str | None = None  # instead, a published model, or OWNER/NAME of Hugging Face
    list_pretrained: bool = False  # only print the published models, and end
    num: int | None = None  # how many samples; None: 64, or as many as --low-res has
    seed: int = 0  # of the noise, and of random labels
    labels: str = ""  # in turn: 3,7 or 0-4, class names, all (the default); or random
    checkpoint: str = "best"  # step of the checkpoint, newest, or best, if any is known to be
    ema: float | None = None  # rate of the averaged weights of --workdir; 0: those being trained
    sampler: str | None = None  # ddpm, ddim, ...; None: the run's own; so for those below
    steps: str | None = None  # 250, 10,15,20 (a section each), ddim50; another sampler: its own
    spacing: str | None = None  # respaced, trailing, leading, log_snr or karras
    eta: float | None = None  # DDIM's noise, 0 to 1
    batch_size: int | None = None  # samples drawn at once
    classifier: Path | None = None  # run, or published model, whose gradient guides the samples
    guidance_scale: str | None = None  # of that gradient, one or a list as 0,1,2.5; None: 1
    cfg_scale: str | None = None  # of classifier-free guidance, as above; 1: the model itself
    guidance_interval: str | None = None  # part of t/T that is guided, as 0.2,0.8; None: all of it
    low_res: Path | None = None  # images to enlarge: a folder, or samples.npz or its folder
    upsampler: Path | None = None  # run, or published model, that enlarges the samples
    upsampler_steps: str | None = None  # as --steps, of the upsampler; None: its run's own
    frames: int = 0  # moments of the chain, an upsampler's if there is one, in pictures; 0: none
    out: Path | None = None  # None: WORKDIR/drawn or pretrained/NAME/drawn, or the next free one
    dry_run: bool = False  # only say what drawing a batch takes on the slice --tpu, and end
    tpu: str | None = None  # slice to compile the dry run for, without one, as v5e:2x4


def main() -> None:
    args = command_line.parse(
        Args, sys.argv[1:], description=f"{__doc__}\nSamplers:\n\n{described()}\n"
    )
    start_logging()
    if args.list_pretrained:
        print(published_table())
        return
    command_line.require_dry_run(args.dry_run, args.tpu)
    if args.dry_run and args.tpu is None:
        raise UserError("--dry-run says what a TPU takes: add --tpu SLICE, as v5e:2x4")
    with naming_options(Args):
        run = open_run(args.workdir, args.pretrained, args.checkpoint, args.ema)
        found = with_companions(args)
        names = [field.name for field in fields(GenerationOptions)]
        plan = run.plan(GenerationOptions(**{name: getattr(found, name) for name in names}))

        if args.tpu is not None:
            for line in sampling_report(plan, tpu_slices.prepare(args.tpu)):
                print(line, flush=True)
            return

        devices.use_every_core()
        processes.join(vars(args))
        command = output_folder.describe(plan)
        out = processes.on_main_process(partial(output_folder.open_folder, plan, command, args.out))

        batch = plan.generate(out / output_folder.UNFINISHED, progress_delay_seconds=0)
        processes.on_main_process(partial(save, batch, out))  # the others wait, perhaps for minutes
    rows = len(batch.scales)
    at = f" at each of {rows} scales, a row each" if rows > 1 else ""
    print(f"{len(batch) // rows} samples{at} in {out}")
    if batch.layout.note and batch.images.ndim > 2:
        print(f"grid.png shows {batch.layout.note}")


def save(batch: SampleBatch, out: Path) -> None:
    batch.save(out)
    output_folder.drop_unfinished(out)
