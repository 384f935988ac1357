"""Where a run's numbers and pictures are shown: TensorBoard, Weights & Biases.

A tracker shows everything at its step, and is told at its start which step a run resumes from.
"""

import importlib.util
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ddpm_jax.config import Config, serialization
from ddpm_jax.errors import UserError, how_to_install


class Tracker(Protocol):
    """What shows a run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows a picture, uint8 [H, W, C] with C 1, 3 or 4."""

    def close(self) -> None: ...


def open_trackers(workdir: Path, start_step: int, config: Config | None) -> list[Tracker]:
    """TensorBoard, and what else `config` asks for; raises UserError, and OSError."""
    trackers: list[Tracker] = [TensorBoard(workdir / "tensorboard", start_step)]
    if config is not None and config.train.wandb_project:
        trackers.append(WeightsAndBiases(workdir, config))
    return trackers


class TensorBoard:
    """Event files in `folder`. An `OSError`, as on a full disk, goes to the caller."""

    def __init__(self, folder: Path, start_step: int) -> None:
        with without_torch():
            # tensorboardX's SummaryWriter writes from a thread. If that dies, as on a full disk,
            # its bounded queue fills up and training hangs instead of failing.
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        # The name holds the time in seconds only, and a file of the same name is overwritten.
        self._events = EventsWriter(str(folder / "events"), f".{start_step}")
        # TensorBoard forgets everything at or after the step of a START event.
        self._write(start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        tags = [Summary.Value(tag=tag, simple_value=float(v)) for tag, v in values.items()]
        self._write(step, summary=Summary(value=tags))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        from tensorboardX import summary

        self._write(step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        self._events.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), step=step, **content))
        self._events.flush()


class WeightsAndBiases:
    """A run of the project `config.train.wandb_project`, with the settings as its config.

    Its id is kept in `workdir`/wandb_id.txt, so that a resumed run goes on in the same one. W&B
    keeps what it has of steps that are trained again, which come out the same. WANDB_MODE,
    WANDB_ENTITY and the other variables of W&B hold.
    """

    def __init__(self, workdir: Path, config: Config) -> None:
        import wandb

        project, file = config.train.wandb_project, workdir / "wandb_id.txt"
        if not file.exists():
            file.write_text(secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=project,
                dir=workdir,
                id=file.read_text().strip(),
                name=workdir.name,
                config=serialization.flat(config),
                allow_val_change=True,  # of settings that a resumed run may change
                resume="allow",
                settings=wandb.Settings(console="off"),  # it would print progress bars as lines
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"train.wandb_project={project}: {reason}; WANDB_MODE=offline keeps the log here"
            ) from error
        self._image = wandb.Image

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({name: self._image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


def check_installed(config: Config) -> None:
    """Raises UserError if a tracker that `config` asks for is missing."""
    if config.train.wandb_project and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"train.wandb_project={config.train.wandb_project} needs {how_to_install('wandb')}"
        )


@contextmanager
def without_torch() -> Iterator[None]:
    """Hides torch, if nothing has imported it yet; tensorboardX imports it in vain, for seconds."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]
