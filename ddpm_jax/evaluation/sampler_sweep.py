"""Which sampler, how many steps: quality against evaluations of the network.

    python -m ddpm_jax.evaluation.sampler_sweep --workdir runs/digits \\
        --samplers ddim,dpmpp_2m,unipc --steps 5,10,20,50 --features classifier:runs/judge

It writes a table, a picture and the samples themselves; with --classifier or --cfg-scale of guided
chains. Kill it whenever you like: the same command goes on where it stopped. Samples that are there
already, of some of its samplers or lengths, are not drawn again.
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddpm_jax.config import command_line
from ddpm_jax.config.option_names import naming_options
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import FeatureExtractor, choose_extractor
from ddpm_jax.evaluation.guidance_sweep import Baseline, measure_real_images, measured
from ddpm_jax.evaluation.metrics import METRICS
from ddpm_jax.evaluation.sweep_report import SampleMetrics, write_tables
from ddpm_jax.evaluation.sweep_samples import draw_missing, folders_of, read_samples
from ddpm_jax.generation import GenerationOptions, Run, load_run
from ddpm_jax.generation.run import Plan
from ddpm_jax.generation.sample_batch import Scales
from ddpm_jax.runs.partial_results import create_results_folder
from ddpm_jax.runtime import devices
from ddpm_jax.runtime.script import run_script, start_logging
from ddpm_jax.sampling.samplers import SAMPLERS
from ddpm_jax.visualization.plots import save_sweep

OPTIONS = {"sampler": "--samplers", "guidance_scale": "--scales", "cfg_scale": "--cfg-scales"}


@dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder of the model
    samplers: str = "ddim,heun,dpmpp_2m,unipc"  # as of sample.py --sampler
    steps: str = "5,10,20,50"  # lengths of the chain
    spacing: str | None = None  # of all chains; None: that of each sampler
    features: str = "inception"  # or classifier:DIR, or module:function, as of evaluate.py
    protocol: str = "adm"  # of Inception, as of evaluate.py
    inception: Path | None = None  # file of its weights; None: fetched on first use
    labels: str = ""  # in turn: 3,7 or 0-4, class names, all (the default); or random
    classifier: Path | None = None  # run folder of a classifier, whose gradient guides
    scales: str | None = None  # of its gradient, as 0,1,4; None: 1
    cfg_scales: str | None = None  # of classifier-free guidance, as above; 1: the model itself
    guidance_interval: str | None = None  # part of t/T that is guided, as 0.2,0.8; None: all of it
    num: int = 500  # samples of each chain
    seed: int = 0  # of the noise
    batch_size: int | None = None  # samples drawn at once
    data_dir: str | None = None  # folder of prepared TFDS sets; None: that of training
    out: Path | None = None  # folder for the results; None: WORKDIR/sampler_sweep


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    with naming_options(Args, OPTIONS):
        run = load_run(args.workdir)
        names, lengths = (dict.fromkeys(each.split(",")) for each in (args.samplers, args.steps))
        plans = [plan_chain(run, args, name, steps) for steps in lengths for name in names]
        devices.use_every_core()
        extractor = choose_extractor(
            args.features, args.protocol, args.inception, plans[0].models[0].mesh
        )
        settings = run.config.data
        if args.data_dir is not None:
            settings = replace(settings, dir=args.data_dir)
        metrics = [
            name
            for name, metric in METRICS.items()
            if metric.inception in (None, extractor.is_inception)
            and not {"labels", "logits", "spatial"} & set(metric.needs)
        ]
        real = measure_real_images(settings, extractor, args.num, metrics)

        # A point for each chain and scale; the table grows with them
        out = args.out or run.workdir / "sampler_sweep"
        create_results_folder(out, settings_of(plans[0], args, extractor))
        rows: list[dict[str, Any]] = []
        for plan in plans:
            rows += measure_chain(plan, out, extractor, real, metrics)
            write(rows, real.metrics, args.num, out)
    print(f"{(out / 'sweep.md').read_text()}\n{out / 'sweep.png'}")


def plan_chain(run: Run, args: Args, sampler: str, steps: str) -> Plan:
    """Samples at all scales by one chain; raises UserError."""
    if args.num < 8:
        raise UserError(f"num={args.num}: must be at least 8, to tell of diversity")
    return run.plan(
        GenerationOptions(
            num=args.num,
            labels=args.labels,
            seed=args.seed,
            sampler=sampler,
            steps=steps,
            spacing=args.spacing,
            batch_size=args.batch_size,
            classifier=args.classifier,
            guidance_scale=args.scales,
            cfg_scale=args.cfg_scales,
            guidance_interval=args.guidance_interval,
        )
    )


def settings_of(plan: Plan, args: Args, extractor: FeatureExtractor) -> dict[str, Any]:
    """The settings shared by all samples of a sweep: all but samplers, steps and scales."""
    return {
        **plan.identities(),
        "features": extractor.name,
        "spacing": args.spacing or "default",
        "labels": args.labels or "all",
        "guidance_interval": list(plan.guidance.interval),
        "num": args.num,
        "seed": args.seed,
    }


def measure_chain(
    plan: Plan, out: Path, extractor: FeatureExtractor, real: Baseline, metrics: Collection[str]
) -> list[dict[str, Any]]:
    """Draws what is missing of a chain's samples; a row of the table for each scale."""
    (model,), (labels,) = plan.models, plan.labels
    sampler, steps = model.config.sample.sampler, model.config.sample.steps
    draw_missing(plan, out / sampler)
    evaluations = SAMPLERS[sampler].evaluations(model.generator().chain_length)
    return [
        {"sampler": sampler, "steps": steps, "evaluations": evaluations, **scales._asdict()}
        | measured(extractor.extract(read_samples(folder)), labels, real.reference, metrics)
        for scales, folder in folders_of(plan, out / sampler).items()
    ]


def write(
    rows: Sequence[dict[str, Any]],
    real: SampleMetrics,
    num: int,
    out: Path,
) -> None:
    """Writes sweep.json, the table sweep.md and the picture sweep.png."""
    varying = [name for name in Scales._fields if len({row[name] for row in rows}) > 1]
    write_tables(rows, real, ["sampler", "steps", "evaluations", *varying], num, out)
    points = [
        row
        | {
            "x": row["evaluations"],
            "line": " ".join([row["sampler"], *(f"{name} {row[name]:g}" for name in varying)]),
        }
        for row in rows
    ]
    titles = {name: METRICS[name].title for name in real}
    save_sweep(points, real, titles, out / "sweep.png", "evaluations of the network", log=True)


if __name__ == "__main__":
    run_script(main)
