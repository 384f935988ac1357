"""What guidance gains and costs: accuracy, quality and diversity by its scale and chain length.

    python -m ddpm_jax.evaluation.guidance_sweep --workdir runs/digits_unconditional \\
        --classifier runs/digits_classifier --judge runs/judge --scales 0,1,4 --steps 25,250

Samples of every class are judged by a classifier that did not guide them: the same config trained
with another seed will do, as in `train.py --config configs/digits_classifier.py --train.seed 1
--workdir runs/judge`. It writes a table, a picture, and the samples for other judges. Kill it
whenever you like: the same command goes on where it stopped, and further scales or lengths are
added to what is there.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ddpm_jax import data
from ddpm_jax.config import Config, DataConfig, ParallelConfig, build_diffusion, command_line
from ddpm_jax.data import check_num_classes
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features import make_feature_extractor
from ddpm_jax.evaluation.sample_metrics import SampleMetrics, compare
from ddpm_jax.generation import cascade, guidance_options, sample_files
from ddpm_jax.generation.generator import Scales
from ddpm_jax.generation.guidance_options import GuidanceOptions
from ddpm_jax.generation.labels import choose_labels
from ddpm_jax.models import build_network
from ddpm_jax.runs import checkpoints, partial_results
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runtime import devices, signals
from ddpm_jax.runtime.files import replacing
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.script import run_script, start_logging
from ddpm_jax.visualization.images import save_grid
from ddpm_jax.visualization.plots import save_sweep

MAX_REAL = 5000  # images that samples are compared with


@dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder of the model
    judge: Path  # run folder of a classifier that does not guide here
    classifier: Path | None = None  # run folder of the classifier that guides
    scales: str | None = None  # of its gradient, as 0,0.5,1,2,4; None: 1
    cfg_scales: str | None = None  # of classifier-free guidance, as above; 1: the model itself
    guidance_interval: str | None = None  # part of t/T that is guided, as 0.2,0.8; None: all of it
    steps: str = "25,50,250"  # lengths of the chain
    sampler: Literal["ddpm", "ddim"] | None = None  # None: the run's own; so for those below
    eta: float | None = None  # DDIM's noise, 0 to 1
    num: int = 500  # samples at each scale and length, of all classes in turn
    seed: int = 0  # of the noise
    batch_size: int | None = None  # samples drawn at once
    data_dir: str | None = None  # folder of prepared TFDS sets; None: that of training
    out: Path | None = None  # folder for the results; None: WORKDIR/sweep


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    if not 8 <= args.num < 2**31:
        raise UserError(f"--num {args.num}: must be at least 8, to tell of diversity")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: must be at least 0 and below 2^32")

    # What is drawn, by what, and who judges it
    lengths = list(dict.fromkeys(args.steps.split(",")))
    chosen = {"sampler": args.sampler, "eta": args.eta, "batch_size": args.batch_size}
    configs = {n: cascade.read_settings(args.workdir, steps=n, **chosen) for n in lengths}
    for config in configs.values():
        build_diffusion(config.diffusion, config.sample.steps)  # wrong steps are an error now
    cascade.check_first(args.workdir, config, None)
    guide = guidance_options.read_guidance_options(
        args.workdir,
        config,
        classifier=args.classifier,
        guidance_scale=args.scales,
        cfg_scale=args.cfg_scales,
        interval=args.guidance_interval,
    )
    if args.classifier is not None and args.judge.resolve() == args.classifier.resolve():
        raise UserError(
            f"--judge {args.judge} is the classifier that guides, and sees what it was asked for; "
            "train another one, as with --train.seed 1"
        )
    judge_config = guidance_options.read_classifier(args.judge, args.workdir, config, judges=True)

    # Devices, weights of the judge, real images: some in the place of samples, for comparison
    devices.use_every_core()
    mesh = devices.make_mesh(ParallelConfig(), config.sample.batch_size)
    weights = cascade.load_weights(args.judge, build_network(judge_config), mesh).items["ema"]
    judge = make_feature_extractor(judge_config, weights, mesh)
    settings = config.data if args.data_dir is None else replace(config.data, dir=args.data_dir)
    source = data.load_source(settings)
    check_num_classes(judge_config, source)
    (few, few_labels), (many, _) = real_images(source, settings, args.num)
    reference = judge(many).features
    real = compare(judge(few), few_labels, reference)

    # A row of samples for each scale, length by length; the table grows with them
    out = args.out or args.workdir / "sweep"
    partial_results.create_results_folder(out, identity(args, config, guide))
    labels = choose_labels("all", args.num, judge_config.model.num_classes, args.seed)
    rows: list[dict] = []
    for config in configs.values():
        draw_missing(args.workdir, config, guide, labels, args.seed, out)
        for scales in guide.scales:
            with np.load(cell(out, config, scales) / "samples.npz") as files:
                verdict = compare(judge(files["arr_0"]), labels, reference)
            rows.append({"steps": config.sample.steps, **scales._asdict(), **verdict._asdict()})
        write(rows, real, guide, args.num, out)
    print(f"{(out / 'sweep.md').read_text()}\n{out / 'sweep.png'}")


def real_images(
    source: data.Source, settings: DataConfig, num: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Two disjoint random sets of images and labels: `num`, or half of all, and up to MAX_REAL."""
    order = np.random.default_rng(0).permutation(len(source))[: num + MAX_REAL]
    images, labels = data.first_images(data.subset(source, order), settings, len(order))
    few = min(num, len(order) // 2)
    return (images[:few], labels[:few]), (images[few:], labels[few:])


def identity(args: Args, config: Config, guide: GuidanceOptions) -> dict:
    """What all samples of a sweep depend on, besides their scales and the length of their chain."""
    runs = {"model": args.workdir, "classifier": args.classifier}
    names = ("sampler", "eta", "clip")
    return {
        **{
            name: f"{sha256((run / 'config.json').read_text())[:16]} step "
            f"{checkpoints.chosen_step(run / 'checkpoints')}"
            for name, run in runs.items()
            if run is not None
        },
        **{name: getattr(config.sample, name) for name in names},
        "guidance_interval": list(guide.interval),
        "num": args.num,
        "seed": args.seed,
    }


def cell(out: Path, config: Config, scales: Scales) -> Path:
    """The folder of the samples of one length and one pair of scales."""
    return out / f"steps_{config.sample.steps}_guidance_{scales.guidance:g}_cfg_{scales.cfg:g}"


def draw_missing(
    workdir: Path, config: Config, guide: GuidanceOptions, labels: np.ndarray, seed: int, out: Path
) -> None:
    """Draws what `out` lacks at this length, and a picture of all that it then has."""
    folders = {scales: cell(out, config, scales) for scales in guide.scales}
    missing = [each for each, at in folders.items() if not (at / "samples.npz").exists()]
    if missing:
        model = cascade.load_stage(workdir, config, 0, guide._replace(scales=missing))
        total, name = len(labels) * len(missing), f"{config.sample.steps} steps"
        with progress(total, 0, "sample", name) as bar:
            tell, unfinished = signals.with_stop_check(bar.update), out / sample_files.UNFINISHED
            drawn = model.draw(seed, labels, tell, parts=unfinished)
        for i, scales in enumerate(missing):
            row = slice(i * len(labels), (i + 1) * len(labels))
            one = drawn._replace(x=drawn.x[row], labels=labels, scales=[scales])
            sample_files.save_arrays(one, folders[scales])
        sample_files.drop_unfinished(out)
    first = []
    for folder in folders.values():
        with np.load(folder / "samples.npz") as files:
            first.append(files["arr_0"][: sample_files.ROW_SAMPLES])
    columns = len(first[0])
    save_grid(np.concatenate(first), out / f"steps_{config.sample.steps}.png", columns)


def write(
    rows: list[dict], real: SampleMetrics, guide: GuidanceOptions, num: int, out: Path
) -> None:
    """Writes sweep.json, sweep.md and sweep.png."""
    kinds = [name for name in Scales._fields if len({row[name] for row in rows}) > 1] or [
        "guidance"
    ]
    with replacing(out / "sweep.json") as temporary:
        temporary.write_text(json.dumps({"rows": rows, "real": real._asdict()}, indent=2) + "\n")
    columns = ["steps", *Scales._fields, *SampleMetrics._fields]
    lines = [columns, ["-"] * len(columns)]
    lines += [[_shown(row[name]) for name in columns] for row in rows]
    lines += [["real images", *[""] * len(Scales._fields), *map(_shown, real)]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    with replacing(out / "sweep.md") as temporary:
        temporary.write_text(f"{num} samples in each row\n\n{table}\n")
    points = [
        row
        | {
            "scale": row[kinds[0]],
            "line": " ".join([f"{row['steps']} steps", *(f"{k} {row[k]:g}" for k in kinds[1:])]),
        }
        for row in rows
    ]
    save_sweep(points, real._asdict(), out / "sweep.png")


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


if __name__ == "__main__":
    run_script(main)
