"""What figures are worth nothing without, and the files they go into."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def command() -> str:
    """The command that this process was started with."""
    return " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def about() -> dict[str, Any]:
    """The machine, which runs Linux, and the versions of what is installed."""
    versions = {"python": platform.python_version()}
    for package in ("jax", "flax", "libtpu", "torch", "diffusers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": (names or [""])[0]}
    return {"machine": machine, "versions": versions}


def write(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """As JSON, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
