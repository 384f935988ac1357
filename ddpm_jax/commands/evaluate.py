"""Measures how good a trained run is, or any set of samples.

    python evaluate.py --workdir runs/cifar10_iddpm --metrics bpd --split test --steps 250
    python evaluate.py --workdir runs/cifar10 --metrics fid,is --sampler ddim --steps 100
    python evaluate.py --samples runs/cifar10/drawn --reference tfds:cifar10 --metrics fid,precision

A row of a paper's table, all of its protocol, and its numbers beside ours:

    python evaluate.py --published imagenet64

Several runs (--workdir runs/a,runs/b), sets of samples or guidance scales make one table. Kill it
whenever you like: the same command goes on where it stopped.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from ddpm_jax import data
from ddpm_jax.commands.pretrained_runs import open_run, with_companions
from ddpm_jax.config import Config, DataConfig, ParallelConfig, command_line, data_shape
from ddpm_jax.config.option_names import naming_options
from ddpm_jax.data import check_num_classes
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import published_results, sample_suite
from ddpm_jax.evaluation.bits_per_dimension import Evaluation
from ddpm_jax.evaluation.features import FeatureExtractor, choose_extractor
from ddpm_jax.evaluation.images import of_data, shape_text
from ddpm_jax.evaluation.metrics import Reference
from ddpm_jax.evaluation.published_results import PublishedResult
from ddpm_jax.evaluation.reference import RealImages, know, read_reference, save_statistics
from ddpm_jax.evaluation.run_metrics import RunMetric, check_features, choose_metrics
from ddpm_jax.evaluation.sample_suite import Row
from ddpm_jax.evaluation.subjects import drawn_subjects, read_subjects
from ddpm_jax.generation import GenerationOptions, Run, load_run
from ddpm_jax.interop.pretrained import COMPANIONS
from ddpm_jax.runtime import devices, processes
from ddpm_jax.runtime.script import start_logging

LIMITS = {"num": (0, 31), "seed": (0, 32), "batch_size": (1, 31)}  # least value, and bits
PAPER_NUM = 50_000  # samples, where --num does not say


@dataclass(frozen=True)
class Args:
    workdir: str | None = None  # run folders, with commas between them
    pretrained: str | None = None  # instead, published models, with commas, as in sample.py
    published: str | None = None  # row of a paper: all of its protocol, and a verdict
    metrics: str = "bpd"  # bpd, fid, sfid, is, kid, precision, recall; frechet, kernel, accuracy
    samples: str | None = None  # instead of runs: samples.npz files or folders, with commas
    reference: str | None = None  # tfds:NAME[:SPLIT], folder:PATH or an npz; None: the run's data
    features: str = "inception"  # inception, classifier:DIR or module:function
    protocol: str = "adm"  # of Inception: adm, clean or pytorch_fid, how it resizes
    inception: Path | None = None  # file of its weights; None: fetched on first use
    save_statistics: Path | None = None  # where to write the reference's mean and covariance
    num: int = 0  # samples to draw, 0: 50,000; or examples of bpd, from the first, 0: all
    checkpoint: str = "best"  # step of the checkpoint, newest, or best, if any is known to be
    ema: float | None = None  # rate of the averaged weights; 0: those being trained
    labels: str = ""  # in turn: 3,7 or 0-4, class names, all (the default); or random
    sampler: str | None = None  # ddpm, ddim, ...; None: the run's own; so for those below
    steps: str | None = None  # length of the chain, as in sample.py; of bpd, None: all of it
    spacing: str | None = None  # respaced, trailing, leading, log_snr or karras
    eta: float | None = None  # DDIM's noise, 0 to 1
    classifier: Path | None = None  # run, or published model, whose gradient guides the samples
    guidance_scale: str | None = None  # of that gradient, one or a list as 0,1,2.5; None: 1
    cfg_scale: str | None = None  # of classifier-free guidance, as above; 1: the model itself
    guidance_interval: str | None = None  # part of t/T that is guided, as 0.2,0.8; None: all of it
    upsampler: Path | None = None  # run, or published model, that enlarges the samples
    upsampler_steps: str | None = None  # as --steps, of the upsampler; None: its run's own
    split: str | None = None  # of the data, as in --data.split; None: that of training
    seed: int = 0  # of the noise
    batch_size: int = 64  # examples at once
    data_dir: str | None = None  # folder of prepared TFDS sets; None: that of training
    out: Path | None = None  # None: a folder in WORKDIR/evaluation or pretrained/NAME/evaluation


# What may be given beside --published, which fixes all else; --workdir: a run of yours instead.
BESIDE_PUBLISHED = (
    "published workdir num seed batch_size checkpoint ema reference inception data_dir out".split()
)
DRAWING = [field.name for field in fields(GenerationOptions) if hasattr(Args, field.name)]


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    with naming_options(Args):
        given, row = args, None
        if args.published is not None:
            row = published_results.row_of(args.published)
            args = with_row(args, row)
        of_runs, of_samples = choose_metrics(args.metrics)
        check_options(args, of_runs, of_samples)
        args = with_companions(args)
        runs = open_runs(args)
        if row is not None:
            clip_as_published(runs)
        if row is not None and args.reference is None:
            args = replace(args, reference=published_results.find_reference(row))
        devices.use_every_core()
        processes.join(vars(given))
        extractor = find_extractor(args, of_samples) if of_samples else None
        for metric in of_runs:
            for run in runs:
                out = args.out / run.results.name if args.out and len(runs) > 1 else args.out
                print(metric.evaluate(run_evaluation(args, run, out)))
        if extractor is not None:
            rows, out = measure_samples(args, of_samples, extractor, runs)
            if row is not None:
                compare(row, rows[0], out)


def with_row(args: Args, row: PublishedResult) -> Args:
    """The options of a row's protocol; raises UserError for others that it fixes."""
    defaults = Args()
    for field in fields(Args):
        value = getattr(args, field.name)
        if field.name not in BESIDE_PUBLISHED and value != getattr(defaults, field.name):
            raise UserError(
                f"{field.name}={value}: the protocol of published={args.published} has its own; "
                "leave it out"
            )
    if len(listed(args.workdir)) > 1:
        raise UserError(f"workdir={args.workdir}: the row of published= is of one run")
    options: dict[str, Any] = dict(row.options)
    options |= {role: Path(options[role]) for role in COMPANIONS if role in options}
    model = row.model if args.workdir is None else None
    return replace(args, pretrained=model, metrics=",".join(row.values), **options)


def compare(row: PublishedResult, measured: Row, out: Path) -> None:
    """Prints and writes the published numbers beside the measured ones, and the verdict."""
    values = {name: estimate.value for name, estimate in measured.estimates.items()}
    text = published_results.comparison(row, values, measured.num)
    processes.on_main_process(partial(published_results.write, text, out))
    print(text)


def open_runs(args: Args) -> list[Run]:
    """The runs and the published models to measure; raises UserError."""
    own = [open_run(each, None, args.checkpoint, args.ema) for each in listed(args.workdir)]
    models = listed(args.pretrained)
    return own + [open_run(None, each, args.checkpoint, args.ema) for each in models]


def clip_as_published(runs: Sequence[Run]) -> None:
    """Clips the predicted x_0 where the papers' code does: before guidance alone."""
    for run in runs:
        sample = replace(run.config.sample, clip_guided=False)
        run.config = replace(run.config, sample=sample)


def check_options(args: Args, of_runs: list[RunMetric], of_samples: list[str]) -> None:
    """Raises UserError for numbers out of range, and unless there is something to measure."""
    for name, (least, bits) in LIMITS.items():
        value = getattr(args, name)
        if not least <= value < 2**bits:
            raise UserError(f"{name}={value}: must be at least {least} and below 2^{bits}")
    for name in ("workdir", "pretrained", "samples"):
        if getattr(args, name) is not None and not listed(getattr(args, name)):
            raise UserError(f"--{name} is empty; give a path")
    if sum(each is not None for each in (args.workdir, args.pretrained, args.samples)) != 1:
        raise UserError(
            "give a run folder, as workdir=DIR, a published model, as pretrained=NAME, or "
            "samples=FILE, and only one of them"
        )
    if of_runs and args.samples is not None:
        raise UserError("metrics=bpd is of a run: give workdir=DIR")
    if of_runs and args.upsampler is not None:
        raise UserError(f"upsampler={args.upsampler}: metrics=bpd is of one model; leave it out")
    needs = sample_suite.needs_of(of_samples)
    if args.samples is not None and args.reference is None and needs & set(Reference._fields):
        raise UserError(
            f"samples={args.samples} needs real images to compare with: reference=tfds:NAME, "
            "folder:PATH or an npz"
        )
    defaults = Args()
    for name in ("num", "steps", *DRAWING) if args.samples is not None else ():
        if name != "batch_size" and getattr(args, name) != getattr(defaults, name):
            raise UserError(f"{name}={getattr(args, name)}: the samples are given, not drawn")


def find_extractor(args: Args, names: list[str]) -> FeatureExtractor:
    """What sees the images; raises UserError if it cannot be had, or these metrics are not its."""
    mesh = devices.make_mesh(ParallelConfig(), args.batch_size)
    extractor = choose_extractor(args.features, args.protocol, args.inception, mesh)
    check_features(names, extractor.is_inception)
    return extractor


def run_evaluation(args: Args, run: Run, out: Path | None) -> Evaluation:
    """A run and the real images that its own metrics are of; raises UserError."""
    settings = data_settings(run.config.data, args)
    mesh = devices.make_mesh(ParallelConfig(), args.batch_size)
    source = data.load_source(settings)
    processes.assert_equal_across_processes({"examples": len(source)})
    check_num_classes(replace(run.config, data=settings), source)
    num = args.num or len(source)
    if num > len(source):
        raise UserError(f"num={num}: {settings.name} has {len(source)} examples in this split")
    steps = args.steps or ""
    return Evaluation(run, mesh, source, settings, num, args.batch_size, steps, args.seed, out)


def measure_samples(
    args: Args, names: list[str], extractor: FeatureExtractor, runs: Sequence[Run]
) -> tuple[list[Row], Path]:
    """Draws or reads samples, measures them, and writes the table; returns its rows and folder."""
    given = read_subjects(listed(args.samples), args.out)
    config = None if given else images_config(args, runs)
    shape = given[0].images.shape if config is None else data_shape(config)
    if extractor.is_inception and shape[-1] == 1:
        print("grey images are given to Inception as RGB, three times the same channel")
    real = find_reference(args, names, shape, config)
    if real and real.images and real.images.shape != shape:
        print(
            f"samples have {shape_text(shape)} pixels and real images "
            f"{shape_text(real.images.shape)}; {extractor.name} takes both as they are"
        )
    known = know(real, extractor, sample_suite.needs_of(names)) if real else Reference()
    if args.save_statistics is not None and real:
        save = partial(save_statistics, known, extractor, args.save_statistics)
        processes.on_main_process(save)
    subjects = given or drawn_subjects(runs, generation_options(args))
    rows = [sample_suite.measure_subject(each, known, extractor, names) for each in subjects]

    results = sample_suite.describe(real, extractor, rows)
    name = f"{'_'.join(names)}_{sample_suite.settings_digest(results)}"
    out = args.out or subjects[0].folder.parent / name
    processes.on_main_process(lambda: sample_suite.write(out, results, rows))
    for line in sample_suite.warnings_of(rows, len(known.pool.mean)):
        print(line)
    print(f"{sample_suite.heading(results)}\n{sample_suite.table(rows)}\n{out / 'metrics.json'}")
    return rows, out


def generation_options(args: Args) -> GenerationOptions:
    """How samples are drawn; raises UserError for numbers out of range."""
    given = {name: getattr(args, name) for name in DRAWING}
    return GenerationOptions(**given | {"num": args.num or PAPER_NUM})


def images_config(args: Args, runs: Sequence[Run]) -> Config:
    """The config of the model that makes the images: the upsampler, or the first run.

    Raises UserError if the data of the other runs are not its.
    """
    first, *others = (replace(run.config.data, dir="") for run in runs)
    for run, data_of_run in zip(runs[1:], others, strict=True):
        if args.reference is None and data_of_run != first:
            raise UserError(
                f"workdir={args.workdir}: {run.results} was trained on other data than the first "
                "run; say which to compare with, as in reference=tfds:cifar10"
            )
    return runs[0].config if args.upsampler is None else load_run(args.upsampler).config


def find_reference(
    args: Args, names: list[str], shape: tuple[int, ...], config: Config | None
) -> RealImages | None:
    """Real images, for metrics that compare with them, by default those of a run's `config`.

    Raises UserError.
    """
    if not sample_suite.needs_of(names) & set(Reference._fields):
        return None
    if args.reference is not None:
        height, width, channels = shape
        like = DataConfig(dir=args.data_dir or "")
        return read_reference(args.reference, like, (height, width, channels))
    assert config is not None  # samples in files come with a reference: `check_options`
    images = of_data(data_settings(config.data, args))
    return RealImages(images.name, images)


def data_settings(settings: DataConfig, args: Args) -> DataConfig:
    """Those of training, with the split and the folder that are asked for."""
    if args.split is not None:
        if not settings.name.startswith("tfds:"):
            raise UserError(f"split={args.split}: {settings.name} has no splits; leave it out")
        settings = replace(settings, split=args.split, held_out="")
    if args.data_dir is not None:
        settings = replace(settings, dir=args.data_dir)
    return settings


def listed(text: str | None) -> list[str]:
    """Paths with commas between them."""
    return [path for path in (text or "").split(",") if path]
