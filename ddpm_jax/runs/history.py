"""When a run was started, on what, and how each start ended: `history.jsonl` of its folder."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddpm_jax.runs.metrics_log import read_records
from ddpm_jax.runtime import processes

FILE = "history.jsonl"
PACKAGES = "ddpm-jax jax jaxlib flax optax orbax-checkpoint numpy scipy".split()


class Start(NamedTuple):
    """One start of a run, until it ended or the next one began."""

    began: str  # as 2026-11-28 23:30:05 UTC
    seconds: float | None  # that it took; None if its end was not recorded
    first: int  # the step that it went on from
    last: int | None  # the last step that it made; None if its end was not recorded
    end: str  # why it ended
    machine: dict[str, str]
    versions: dict[str, str]


@contextmanager
def recorded(workdir: Path, first_step: int, last_step: Callable[[], int]) -> Iterator[None]:
    """Writes down that a run starts from `first_step`, and how the block ends after `last_step()`.

    A run goes on without its history where that cannot be written. Of several processes the first
    writes it.
    """
    _append(workdir, event="started", step=first_step, machine=machine(), versions=versions())
    try:
        yield
    except BaseException as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        _append(workdir, event="stopped", step=last_step(), why=text)
        raise
    _append(workdir, event="finished", step=last_step())


def read_history(workdir: Path) -> list[Start]:
    """Every start of a run, oldest first; empty where none was recorded."""
    path = workdir / FILE
    records = read_records(path) if path.exists() else []
    return [
        _start(record, after)
        for record, after in pairwise([*records, {}])
        if record.get("event") == "started"
    ]


def _start(record: dict[str, Any], after: dict[str, Any]) -> Start:
    ended = after.get("event") in ("stopped", "finished")
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record["time"]))
    return Start(
        began,
        after["time"] - record["time"] if ended else None,
        record["step"],
        after["step"] if ended else None,
        after.get("why", "finished") if ended else "no end recorded: killed, or still at work",
        record["machine"],
        record["versions"],
    )


def machine() -> dict[str, str]:
    """What the program runs on: devices, processes, cores, system."""
    device = jax.devices()[0]
    return {
        "devices": f"{jax.device_count()} x {device.device_kind}",
        "processes": str(jax.process_count()),
        "host": f"{platform.node()}, {os.cpu_count()} cores, {platform.machine()}",
        "system": platform.platform(terse=True),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that compute."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # a checkout that is not installed
            found[name] = metadata.version(name)
    return found


def _append(workdir: Path, **record: Any) -> None:
    if not processes.is_main_process():
        return
    with suppress(OSError), (workdir / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")
