"""A page about one run or several: curves, samples, settings, starts and stops, commands.

    python -m ddpm_jax.demo.report runs/digits runs/other --out report.html

It is one HTML file that needs no network. Without --out it is `report.html` in the first run's
folder, where training leaves it at its end.
"""

import base64
import dataclasses
import math
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.config import Config, command_line, serialization
from ddpm_jax.errors import UserError
from ddpm_jax.runs import history
from ddpm_jax.runs.metrics_log import read_records
from ddpm_jax.runs.saved_steps import saved_steps
from ddpm_jax.runtime.files import expanded, replacing
from ddpm_jax.runtime.script import run_script, start_logging

COLOURS = "#1d6f8a", "#d1495b", "#e9a13b", "#3a9e7e", "#6d5ba6", "#7a7a7a"
REPORT = "report.html"  # in the run folder
MAX_GRIDS = 12  # of a run, evenly spread over its steps
MAX_POINTS = 1000  # of a curve
# What is no curve: the step, and what training measures once.
NO_CURVES = {"step", "compile_seconds"}


@dataclasses.dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder; a first word without dashes is one
    others: tuple[Path, ...] = ()  # run folders to compare it with
    out: Path | None = None  # None: report.html in the run folder


class ReportedRun(NamedTuple):
    """What a report shows of a run."""

    name: str
    colour: str
    config: Config
    records: Sequence[dict[str, Any]]
    curves: dict[str, list[list[float]]]  # [step, value] by name
    summary: dict[str, str]
    grids: Sequence[dict[str, Any]]  # each with its `step` and its `source`, a data URL
    starts: Sequence[history.Start]
    commands: Sequence[str]


def main() -> None:
    words = sys.argv[1:]
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    if count > 1:  # several folders in a row
        words = [words[0], "--others", *words[1:count], *words[count:]]
    args = command_line.parse(Args, words, description=__doc__)
    start_logging()
    out = expanded(args.out) if args.out else expanded(args.workdir) / REPORT
    try:
        write_report([args.workdir, *args.others], out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    print(out)


def write_report(workdirs: Sequence[Path], out: Path) -> None:
    """Writes the page. Raises UserError if a folder is no run, and OSError."""
    text = render_report(workdirs)
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render_report(workdirs: Sequence[Path]) -> str:
    """The page as HTML. Raises UserError if a folder is no run."""
    from jinja2 import Environment  # here, as only the end of a training needs it

    names = _short_names([expanded(workdir).resolve() for workdir in workdirs])
    runs = [
        read_run(expanded(workdir), name, COLOURS[i % len(COLOURS)])
        for i, (workdir, name) in enumerate(zip(workdirs, names, strict=True))
    ]
    curves = list(dict.fromkeys(key for run in runs for key in run.curves))
    template = resources.files("ddpm_jax.demo").joinpath("report.html.jinja").read_text()
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters["duration"] = duration
    page = environment.from_string(template)
    return page.render(
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} runs",
        written=time.strftime("%Y-%m-%d %H:%M"),
        runs=runs,
        summary_labels=list(runs[0].summary),
        machines=list(machine_rows([run.starts for run in runs])),
        curves=curves,
        skipped=[
            {"run": run.name, "step": record["step"], "count": record.get("count", "")}
            for run in runs
            for record in run.records
            if record.get("event") == "skipped"
        ],
        settings=list(settings_rows([run.config for run in runs])),
        data=[{"name": run.name, "colour": run.colour, "curves": run.curves} for run in runs],
    )


def read_run(workdir: Path, name: str, colour: str) -> ReportedRun:
    """A run from its folder; raises UserError if it is none."""
    config = serialization.read_config(workdir / "config.json")
    log = workdir / "metrics.jsonl"
    records = read_records(log) if log.exists() else []
    commands = [training_command(workdir, config)]
    if config.model.kind != "classifier":
        commands.append(f"python -m ddpm_jax sample --workdir {shlex.quote(str(workdir))}")
    return ReportedRun(
        name,
        colour,
        config,
        records,
        curves_of(records),
        summary_of(config, records, saved_steps(workdir / "checkpoints")),
        grids_of(workdir / "samples"),
        history.read_history(workdir),
        commands,
    )


def training_command(workdir: Path, config: Config) -> str:
    """The command that resumes a run, from the config that its folder is named after.

    If there is none, from the default. Other settings become options.
    """
    named = command_line.CONFIGS / f"{workdir.name}.py"
    file = named if named.is_file() else command_line.DEFAULT_CONFIG
    base = serialization.flat(command_line.load_config(file))
    words = ["python", "-m", "ddpm_jax", "train", "--config", file.stem, "--workdir", str(workdir)]
    for name, value in serialization.flat(config).items():
        if value != base[name] and name != "data.class_names":  # those are read off the data
            values = value if isinstance(value, tuple) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def summary_of(
    config: Config, records: Sequence[dict[str, Any]], saved: Sequence[int]
) -> dict[str, str]:
    """The first table of a run: where it stands, how well, how fast."""
    scalars = [record for record in records if "event" not in record and "step" in record]
    finished = any(record.get("event") == "finished" for record in records)
    step = max([*(record["step"] for record in scalars), *saved], default=0)
    speeds = sorted(r["images_per_second"] for r in scalars if r.get("images_per_second"))
    losses = [record["loss"] for record in scalars if record.get("loss") is not None]
    return {
        "data": f"{config.data.name}, {config.data.image_size}x{config.data.image_size}",
        "network": config.model.kind,
        "steps": f"{step:,} of {config.train.steps:,}{', finished' if finished else ''}",
        "checkpoints": ", ".join(map(str, saved)) or "none",
        "last loss": f"{losses[-1]:.4g}" if losses else "",
        "lowest loss": f"{min(losses):.4g}" if losses else "",
        "images/s, median": f"{speeds[len(speeds) // 2]:,.0f}" if speeds else "",
        "skipped steps": str(sum(record.get("event") == "skipped" for record in records)),
    }


def curves_of(records: Sequence[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """[step, value] of each number that was logged; at most MAX_POINTS of each, evenly spread."""
    found: dict[str, list[list[float]]] = {}
    for record in records:
        if "event" in record or "step" not in record:
            continue
        for key, value in record.items():
            if key not in NO_CURVES and isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(key, []).append([record["step"], value])
    return {key: points[:: -(-len(points) // MAX_POINTS)] for key, points in found.items()}


def grids_of(folder: Path) -> list[dict[str, Any]]:
    """The pictures that training drew, by step, at most MAX_GRIDS with the first and the last."""
    steps = {int(path.stem.rsplit("_", 1)[1]): path for path in folder.glob("step_*.png")}
    ordered = sorted(steps)
    chosen = list(range(len(ordered)))
    if len(ordered) > MAX_GRIDS:
        chosen = sorted({round(i * (len(ordered) - 1) / (MAX_GRIDS - 1)) for i in range(MAX_GRIDS)})
    return [
        {
            "step": ordered[i],
            "source": "data:image/png;base64,"
            + base64.b64encode(steps[ordered[i]].read_bytes()).decode(),
        }
        for i in chosen
    ]


def settings_rows(configs: Sequence[Config]) -> Iterator[dict[str, Any]]:
    """Every setting: its `name`, its value in each run, and whether it is `changed`.

    It is if the runs differ; of one run, if it is not the default.
    """
    default, settings = serialization.flat(Config()), [serialization.flat(each) for each in configs]
    for name in default:
        values = [of[name] for of in settings]
        compared = values if len(values) > 1 else [values[0], default[name]]
        changed = any(value != compared[0] for value in compared)
        yield {"name": name, "settings": list(map(str, values)), "changed": changed}


def machine_rows(starts: Sequence[Sequence[history.Start]]) -> Iterator[dict[str, Any]]:
    """What each run last ran on: a `name`, and its `values`, empty where none was recorded."""
    last = [of[-1].machine | of[-1].versions if of else {} for of in starts]
    for name in dict.fromkeys(name for each in last for name in each):
        yield {"name": name, "values": [each.get(name, "") for each in last]}


def duration(seconds: float | None) -> str:
    """As h:mm:ss; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or the last two where that is not enough to tell them apart."""
    last = [path.name for path in paths]
    return last if len(set(last)) == len(last) else ["/".join(path.parts[-2:]) for path in paths]


if __name__ == "__main__":
    run_script(main)
