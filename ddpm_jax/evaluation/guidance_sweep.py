"""What guidance gains and costs: accuracy, quality and diversity by its scale and chain length.

    python -m ddpm_jax.evaluation.guidance_sweep --workdir runs/digits_unconditional \\
        --classifier runs/digits_classifier --judge runs/judge --scales 0,1,4 --steps 25,250

Samples of every class are measured with the features of a classifier that did not guide them: the
same config trained with another seed will do, as in `train.py --config
configs/digits_classifier.py --train.seed 1 --workdir runs/judge`. It writes a table, a picture and
the samples themselves. Kill it whenever you like: the same command goes on where it stopped.
Samples that are there already, of some of its scales or lengths, are not drawn again.
"""

import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import data
from ddpm_jax.config import Config, DataConfig, command_line
from ddpm_jax.config.option_names import naming_options
from ddpm_jax.data import check_num_classes
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import sweep_report
from ddpm_jax.evaluation.features import FeatureExtractor, Features, choose_extractor
from ddpm_jax.evaluation.metrics import Reference, Samples, measure
from ddpm_jax.evaluation.statistics import fit
from ddpm_jax.evaluation.sweep_report import SWEEP_METRICS, SampleMetrics
from ddpm_jax.evaluation.sweep_samples import draw_missing, folders_of, read_samples
from ddpm_jax.generation import GenerationOptions, Run, load_run
from ddpm_jax.generation.guidance_options import read_classifier
from ddpm_jax.generation.run import Plan
from ddpm_jax.runs.partial_results import create_results_folder
from ddpm_jax.runtime import devices
from ddpm_jax.runtime.script import run_script, start_logging

MAX_REAL = 5000  # images that samples are compared with
OPTIONS = {"guidance_scale": "--scales", "cfg_scale": "--cfg-scales"}  # where names differ


@dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder of the model
    judge: Path  # run folder of a classifier that does not guide here
    classifier: Path | None = None  # run folder of the classifier that guides
    scales: str | None = None  # of its gradient, as 0,0.5,1,2,4; None: 1
    cfg_scales: str | None = None  # of classifier-free guidance, as above; 1: the model itself
    guidance_interval: str | None = None  # part of t/T that is guided, as 0.2,0.8; None: all of it
    steps: str = "25,50,250"  # lengths of the chain
    sampler: str | None = None  # ddpm, ddim, ...; None: the run's own; so for those below
    spacing: str | None = None  # respaced, trailing, leading, log_snr or karras
    eta: float | None = None  # DDIM's noise, 0 to 1
    num: int = 500  # samples at each scale and length, of all classes in turn
    seed: int = 0  # of the noise
    batch_size: int | None = None  # samples drawn at once
    data_dir: str | None = None  # folder of prepared TFDS sets; None: that of training
    out: Path | None = None  # folder for the results; None: WORKDIR/sweep


class Baseline(NamedTuple):
    """What samples are compared with, and the metrics of other real images measured as samples."""

    reference: Reference
    metrics: SampleMetrics


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    with naming_options(Args, OPTIONS):
        run = load_run(args.workdir)
        plans = [plan_length(run, args, steps) for steps in dict.fromkeys(args.steps.split(","))]
        classifier = read_feature_classifier(args, run.config)
        devices.use_every_core()
        plans[0].identities()
        mesh = plans[0].models[0].mesh
        extractor = choose_extractor(f"classifier:{args.judge}", "adm", None, mesh)
        settings = run.config.data
        if args.data_dir is not None:
            settings = replace(settings, dir=args.data_dir)
        check_num_classes(classifier, data.load_source(settings))
        real = measure_real_images(settings, extractor, args.num, SWEEP_METRICS)

        # A row of samples for each scale, length by length; the table grows with them
        out = args.out or run.workdir / "sweep"
        create_results_folder(out, settings_of(plans[0], args))
        rows: list[sweep_report.Row] = []
        for plan in plans:
            draw_missing(plan, out)
            rows += measure_length(plan, out, extractor, real.reference)
            sweep_report.write(rows, real.metrics, args.num, out)
    print(f"{(out / 'sweep.md').read_text()}\n{out / 'sweep.png'}")


def plan_length(run: Run, args: Args, steps: str) -> Plan:
    """Samples at all scales by a chain of that many steps; raises UserError."""
    if args.num < 8:
        raise UserError(f"num={args.num}: must be at least 8, to tell of diversity")
    return run.plan(
        GenerationOptions(
            num=args.num,
            labels="all",
            seed=args.seed,
            sampler=args.sampler,
            steps=steps,
            spacing=args.spacing,
            eta=args.eta,
            batch_size=args.batch_size,
            classifier=args.classifier,
            guidance_scale=args.scales,
            cfg_scale=args.cfg_scales,
            guidance_interval=args.guidance_interval,
        )
    )


def read_feature_classifier(args: Args, model: Config) -> Config:
    """The settings of the run `--judge`; raises UserError if it guides, or does not fit."""
    if args.classifier is not None and args.judge.resolve() == args.classifier.resolve():
        raise UserError(
            f"--judge {args.judge} is the classifier that guides, and sees what it was asked for; "
            "train another one, as with --train.seed 1"
        )
    return read_classifier(f"--judge {args.judge}", args.judge, args.workdir, model, guides=False)


def measure_real_images(
    settings: DataConfig, extractor: FeatureExtractor, num: int, metrics: Collection[str]
) -> Baseline:
    """Measures `num` random images, or half of all, against up to MAX_REAL others."""
    source = data.load_source(settings)
    order = np.random.default_rng(0).permutation(len(source))[: num + MAX_REAL]
    images, labels = data.first_images(data.subset(source, order), settings, len(order))
    few = min(num, len(order) // 2)
    features = extractor.extract(images[few:]).pool
    reference = Reference(fit(features), features=features)
    real = measured(extractor.extract(images[:few]), labels[:few], reference, metrics)
    return Baseline(reference, real)


def measured(
    features: Features, labels: np.ndarray, reference: Reference, metrics: Collection[str]
) -> SampleMetrics:
    """The metrics of a sweep, without their standard errors."""
    found = measure(Samples(features, reference, labels), metrics)
    return {name: estimate.value for name, estimate in found.items()}


def settings_of(plan: Plan, args: Args) -> dict[str, Any]:
    """The settings shared by all samples of a sweep: all but scales and steps."""
    sample = plan.models[0].config.sample
    names = ("sampler", "spacing", "eta", "clip", "clip_guided")
    return {
        **plan.identities(),
        **{name: getattr(sample, name) for name in names},
        "guidance_interval": list(plan.guidance.interval),
        "num": args.num,
        "seed": args.seed,
    }


def measure_length(
    plan: Plan, out: Path, extractor: FeatureExtractor, reference: Reference
) -> list[sweep_report.Row]:
    """A row of the table for each scale: its settings and its metrics."""
    steps, (labels,) = plan.models[0].config.sample.steps, plan.labels
    return [
        {"steps": steps, **scales._asdict()}
        | measured(extractor.extract(read_samples(folder)), labels, reference, SWEEP_METRICS)
        for scales, folder in folders_of(plan, out).items()
    ]


if __name__ == "__main__":
    run_script(main)
