"""What a command says with --help, as it says it: the real command is run when the docs are built.

    ```{command} train.py
    ```

runs `python train.py --help` at the root of the repository; `-m ddpm_jax.demo.report` is a module.
A command that ends otherwise than with 0 is a warning, and so ends the build.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

COLUMNS = "90"  # of the terminal that the command believes it has
logger = logging.getLogger(__name__)


class Command(SphinxDirective):
    """A block with the help of a command."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        words = shlex.split(self.arguments[0])
        root = Path(self.env.app.confdir).parent
        done = subprocess.run(
            [sys.executable, *words, "--help"],
            cwd=root,
            env=os.environ | {"COLUMNS": COLUMNS, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            text = f"python {self.arguments[0]} --help ended with {done.returncode}: {done.stderr}"
            logger.warning(text, location=self.get_location())
        # A module calls itself by the path of its file.
        shown = done.stdout.strip().replace(f"{root}{os.sep}", "")
        block = nodes.literal_block(shown, shown, language="text")
        return [nodes.container("", block, classes=["command-help"])]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command", Command)
    return {"parallel_read_safe": True}
