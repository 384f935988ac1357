"""The smallest TPU slice that each published config trains and samples on. No TPU is used.

    python -m benchmarks.tpu_fit
    python -m benchmarks.tpu_fit --configs cifar10,imagenet64_adm --chip v6e --json FILE

All compute in bfloat16. Slices are tried from one chip on, and on each of them the settings that
train the same with less memory, as `train.py --dry-run --tpu` does; of samples, smaller batches.
First all configs are fitted, by quick compilations; then what fits is compiled once more, with all
effort, for its speed. That takes hours; FILE keeps what is done, and the same command goes on. At
the end it prints a table.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from benchmarks import report
from benchmarks.tpu import in_a_process
from ddpm_jax.config import Config, ParallelConfig, build_chain, command_line
from ddpm_jax.errors import UserError, suggestion
from ddpm_jax.evaluation.markdown import markdown_table
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.sample_batch import Scales
from ddpm_jax.models import build_network
from ddpm_jax.runtime.compiled_cost import program_cost
from ddpm_jax.runtime.script import reporting_errors
from ddpm_jax.runtime.slice_report import Fit, compile_for, cycles_range, two_digits
from ddpm_jax.runtime.tpu_slices import SLICES, TPUSlice, prepare, slice_mesh
from ddpm_jax.training.tpu_dry_run import lower_step, smaller_settings

# Configs that no paper or checkpoint stands behind.
OURS = {
    "cifar10_classifier",
    "digits",
    "digits_classifier",
    "digits_unconditional",
    "folder",
    "mnist",
    "s_curve",
    "stanford_cars_64",
}
USES = ("train", "sample")
# A config with the options that make it, and its program for a slice.
Setting = tuple[str, Config]
Lower = Callable[[Config, TPUSlice], jax.stages.Lowered]


@dataclass(frozen=True)
class Args:
    configs: str = ""  # names; all published ones if there are none
    chip: Literal["v5e", "v5p", "v6e"] = "v5e"
    speed: bool = True  # compile what fits once more, for images a second
    json: Path = Path("benchmarks/results/tpu_fit.json")  # what is done


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__ or "")
    published = [each.stem for each in sorted(command_line.CONFIGS.glob("*.py"))]
    published = [name for name in published if name not in OURS]
    names = args.configs.split(",") if args.configs else published
    if unknown := set(names) - set(published):
        raise UserError(f"--configs {min(unknown)}: {suggestion(min(unknown), published)}")
    first, *_ = slices(args.chip)
    prepare(first)  # says at once if its compiler is missing
    wanted = [(name, use) for name in names for use in USES if use in uses(load(name))]
    for work, adds in ((fit, "needed"), *[(add_speed, "cycles")] * args.speed):
        for name, use in wanted:
            rows, key = read(args.json), (name, use, args.chip)
            if any(key_of(row) == key and adds in row for row in rows):
                continue
            changed = in_a_process(work, *key, rows)
            others = [row for row in rows if key_of(row) != key]
            report.write(args.json, sorted([*others, changed], key=key_of))
            print(json.dumps(changed), flush=True)
    print(table([row for row in read(args.json) if row["slice"].startswith(args.chip)]))


def slices(chip: str) -> list[str]:
    """Names of slices, from the smallest."""
    return [each for each in SLICES if each.startswith(f"{chip}:")]


def load(name: str) -> Config:
    config = command_line.load_config(command_line.CONFIGS / f"{name}.py")
    return replace(config, model=replace(config.model, dtype="bfloat16"))


def uses(config: Config) -> tuple[str, ...]:
    return USES[:1] if config.model.kind == "classifier" else USES


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else []


def key_of(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["config"], row["use"], row["slice"].partition(":")[0]


def fit(name: str, use: str, chip: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of a config: where it fits by a quick compilation.

    Where the program of its own setting is that of another row, as for the three classes of LSUN,
    so is all else.
    """
    smallest, *_ = slices(chip)
    target = prepare(smallest)
    _, own = next(settings(use, load(name), target))
    program = digest(LOWER[use](own, target))
    same = [row for row in rows if row["program"] == program]
    if copied := copy_of(same, name, use, chip):
        return copied
    return first_fit(name, use, chip, tried=[]) | {"program": program}


def first_fit(name: str, use: str, chip: str, tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The smallest slice, and on it the first setting that fits by a quick compilation.

    What was `tried` before does not fit, and is not tried again.
    """
    config, started = load(name), time.monotonic()
    tried = list(tried)
    known = {(row["slice"], row["options"]) for row in tried}
    for target in map(prepare, slices(chip)):
        for options, setting in settings(use, config, target):
            if (target.name, options) in known:
                continue
            found = compile_for(target, partial(LOWER[use], setting, target), quickly=True)
            row = {"slice": target.name, "options": options, **memory(found)}
            print(f"{name} {use}: {row}", flush=True)
            if found.fits:
                about = {"config": name, "use": use, **row, "tried": tried}
                about |= {"seconds": round(time.monotonic() - started)}
                return about | {"versions": report.about()["versions"]}
            tried.append(row)
    raise UserError(f"{name} fits on no slice of {chip}")


def copy_of(rows: list[dict[str, Any]], name: str, use: str, chip: str) -> dict[str, Any] | None:
    """The first row of that use and chip, for a config of another name; None if there is none."""
    for row in rows:
        config, *rest = key_of(row)
        if rest == [use, chip]:
            return row | {"config": name, "same_as": config}
    return None


def settings(use: str, config: Config, target: TPUSlice) -> Iterator[Setting]:
    """The config's own, and those that take less memory on the slice."""
    if use == "train":
        if config.train.batch_size % target.size == 0:
            yield "", config
            yield from smaller_settings(config, target)
        return
    size = config.sample.batch_size
    while size >= target.size:
        options = "" if size == config.sample.batch_size else f"--batch-size {size}"
        yield options, replace(config, sample=replace(config.sample, batch_size=size))
        size //= 2


def lower_chain(config: Config, target: TPUSlice) -> jax.stages.Lowered:
    """The chain of the config's sampler, a loop over its steps."""
    network = build_network(config)
    mesh = slice_mesh(target, ParallelConfig(), config.sample.batch_size)
    return Generator(config, network, mesh).lower(network.abstract, Scales())


LOWER: dict[str, Lower] = {"train": lower_step, "sample": lower_chain}


def add_speed(name: str, use: str, chip: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of a config with the cycles of its program."""
    [row] = [each for each in rows if key_of(each) == (name, use, chip)]
    same = [each for each in rows if each["program"] == row["program"] and "cycles" in each]
    if copied := copy_of(same, name, use, chip):
        return copied
    started = time.monotonic()
    while True:
        target = prepare(row["slice"])
        [config] = [
            each for options, each in settings(use, load(name), target) if options == row["options"]
        ]
        found = compile_for(target, partial(LOWER[use], config, target))
        if found.compiled is not None:
            break
        failed = {key: row[key] for key in ("slice", "options")} | memory(found)
        row |= first_fit(name, use, chip, [*row["tried"], failed])
    cost = program_cost(found.compiled)
    seconds = [cycles / target.chip.clock for cycles in reversed(cycles_range(cost))]
    images: float = config.train.batch_size
    if use == "sample":  # the loop over the steps counts once
        images = config.sample.batch_size / build_chain(config).schedule.num_timesteps
    speed = {
        "cycles": cost.total_cycles,
        "uncounted": dict(cost.uncounted),
        "images_per_second": [images / each for each in seconds],
        "speed_seconds": round(time.monotonic() - started),
    }
    return row | memory(found) | speed


def memory(found: Fit) -> dict[str, int]:
    """Bytes of a chip: at the peak, and those that there are."""
    return {"needed": found.needed, "available": found.available}


def digest(lowered: jax.stages.Lowered) -> str:
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16]


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown, a line for each config; of what was not compiled in full, no speed."""
    cells: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        options = f"`{row['options']}`" if row["options"] else ""
        speed = " to ".join(map(two_digits, row.get("images_per_second", [])))
        cell = [row["slice"], options, f"{row['needed'] / 2**30:.1f}", speed]
        cells.setdefault(row["config"], {})[row["use"]] = cell
    names = ["with", "GiB a chip", "images/s"]
    columns = ["config", *(name for use in USES for name in (f"{use}s on", *names))]
    nothing = [""] * (len(names) + 1)
    lines = [
        [f"`{name}`", *(each for use in USES for each in by_use.get(use, nothing))]
        for name, by_use in sorted(cells.items())
    ]
    return markdown_table(columns, lines)


if __name__ == "__main__":
    with reporting_errors():
        main()
