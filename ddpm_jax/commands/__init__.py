"""What `python -m ddpm_jax NAME` runs, and in a checkout `python train.py` and the other scripts.

A command is a module with a `main()` that reads its options from `sys.argv`.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ddpm_jax.runtime import huge_pages
from ddpm_jax.runtime.script import run_script


class Command(NamedTuple):
    """One command, imported only when it starts."""

    module: str
    about: str


COMMANDS = {
    "train": Command("ddpm_jax.commands.train", "trains a model, or resumes its training"),
    "sample": Command("ddpm_jax.commands.sample", "draws images from a run"),
    "evaluate": Command("ddpm_jax.commands.evaluate", "measures runs or samples: FID, bpd, ..."),
    "edit": Command("ddpm_jax.commands.edit", "inverts, interpolates, inpaints and varies images"),
    "report": Command("ddpm_jax.demo.report", "writes a page about one run or several"),
    "studio": Command("ddpm_jax.demo.__main__", "draws and edits in the browser"),
    "guidance_sweep": Command("ddpm_jax.evaluation.guidance_sweep", "quality by guidance scale"),
    "sampler_sweep": Command("ddpm_jax.evaluation.sampler_sweep", "quality by sampler and steps"),
    "import_weights": Command("ddpm_jax.interop.import_weights", "published weights -> a run"),
    "export_weights": Command("ddpm_jax.interop.export_weights", "a run -> weights for others"),
}


def start(name: str, argv: Sequence[str]) -> None:
    """Runs a command; `argv` is what usage calls the program, and the options."""
    if name == "train":
        huge_pages.restart_with_huge_pages()  # before the imports, which take seconds
    from ddpm_jax.runtime import processes

    sys.argv = list(argv)
    with processes.exit_together():
        run_script(lambda: importlib.import_module(COMMANDS[name].module).main())
