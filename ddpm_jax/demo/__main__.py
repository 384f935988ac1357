"""The studio: a page in the browser that draws and edits with a trained run, and shows its log.

    python -m ddpm_jax.demo --workdir runs/digits
    python -m ddpm_jax.demo --workdir runs/digits --classifier runs/digits_classifier
    python -m ddpm_jax.demo --pretrained imagenet64 --classifier imagenet64

It needs `pip install 'ddpm-jax[demo]'`, answers this machine alone unless --host says otherwise,
and sends nothing anywhere. Ctrl-C ends it.
"""

import importlib.util
import os
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ddpm_jax.config import command_line
from ddpm_jax.config.option_names import naming_options
from ddpm_jax.demo.settings import DrawSettings, Limits
from ddpm_jax.demo.studio import Studio
from ddpm_jax.errors import UserError, how_to_install
from ddpm_jax.generation import load_run
from ddpm_jax.interop import pretrained
from ddpm_jax.runtime import devices, signals
from ddpm_jax.runtime.script import run_script, start_logging

OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Args:
    workdir: Path | None = None  # the run folder that training wrote
    pretrained: str | None = None  # instead, a published model, as imagenet64
    classifier: Path | None = None  # run, or published model, whose gradient may guide
    checkpoint: str = "best"  # step of the checkpoint, newest, or best, if any is known to be
    ema: float | None = None  # rate of the averaged weights; 0: those being trained
    sampler: str = ""  # that the page begins with; empty: the run's own
    steps: int = 0  # that the page begins with; 0: as suits the sampler
    host: str = "127.0.0.1"  # address to listen at; 0.0.0.0: all of this machine's
    port: int = 7860  # to listen at
    batch_size: int = 16  # samples drawn at once, the size that every chain is compiled for
    max_num: int = 64  # samples that a request may ask for, at each scale
    max_waiting: int = 8  # requests that may wait for their turn


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    start_logging()
    require_gradio()
    with naming_options(Args, {"num": "--max-num"}):
        require_free(args.host, args.port)
        run = load_run(
            pretrained.folder_of(args.workdir, args.pretrained), args.checkpoint, args.ema
        )
        classifier = args.classifier and pretrained.companion("classifier", args.classifier)
        devices.use_every_core()
        limits = replace(Limits(), num=args.max_num, waiting=args.max_waiting)
        loading = {name: getattr(args, name) for name in ("workdir", "pretrained", "ema")}
        loading["checkpoint"] = None if args.checkpoint == "best" else args.checkpoint
        studio = Studio(run, classifier, limits, args.batch_size, loading)
        start = DrawSettings(
            sampler=args.sampler, steps=args.steps, num=min(DrawSettings.num, args.max_num)
        )
        studio.plan(studio.draw_options(start))

    with TemporaryDirectory(prefix="ddpm_jax_studio_") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder} | OFFLINE  # read when Gradio is imported
        from ddpm_jax.demo import page

        built = page.build(studio, start, Path(folder))
        address = page.launch(built, studio, args.host, args.port)
        print(
            f"The studio of {args.pretrained or args.workdir}: {address} (Ctrl-C ends it)",
            flush=True,
        )
        try:
            while True:
                time.sleep(3600)
        except signals.Interrupted:
            built.close(verbose=False)


def require_gradio() -> None:
    """Raises UserError if the extra `demo` is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError(f"the studio needs Gradio; run {how_to_install('demo')}")


def require_free(host: str, port: int) -> None:
    """Raises UserError unless a server can listen at the port."""
    if not 1 <= port < 2**16:
        raise UserError(f"port={port}: must be 1 to 65535")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"port={port}: cannot listen there at {host}: {reason}; choose another"
        ) from error


if __name__ == "__main__":
    run_script(main)
