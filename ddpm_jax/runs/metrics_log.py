"""The log of a run: metrics.jsonl, and the same numbers for trackers such as TensorBoard."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.runs.trackers import Tracker, open_trackers
from ddpm_jax.runtime import processes
from ddpm_jax.runtime.files import replacing


class MetricsLog(AbstractContextManager["MetricsLog"]):
    """Appends to `workdir`/metrics.jsonl, and to the trackers of `config`; a context manager.

    Opening the log drops the records of steps after `start_step`, the step that a run resumes from,
    so that each step is there once. `earlier` holds the records that are left. Every line reaches
    the file before the call returns. An `OSError`, as on a full disk, goes to the caller. Of
    several processes only the first writes, and all have `earlier`.
    """

    def __init__(self, workdir: str | Path, start_step: int, config: Config | None = None) -> None:
        workdir = Path(workdir)
        self.earlier = processes.on_main_process(
            lambda: _rewind(workdir / "metrics.jsonl", start_step)
        )
        self._file, self._trackers = None, list[Tracker]()
        if not processes.is_main_process():
            return
        workdir.mkdir(parents=True, exist_ok=True)
        self._file = (workdir / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._trackers = open_trackers(workdir, start_step, config)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers of one step; those that are not finite become null in metrics.jsonl."""
        self._write_line({"step": step, **values})
        for tracker in self._trackers:
            tracker.scalars(step, values)

    def event(self, name: str, **fields: Any) -> None:
        """Logs {"event": name, ...}, in metrics.jsonl only. `fields` must fit into JSON.

        A run that resumes before the "step" among the fields drops the line.
        """
        self._write_line({"event": name, **fields})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows a picture, uint8 [H, W, C] with C 1, 3 or 4, in the trackers."""
        for tracker in self._trackers:
            tracker.image(step, name, image)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_line(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(_jsonable(record), allow_nan=False) + "\n")


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line. Skips torn lines and those of other types."""
    records = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _rewind(path: Path, start_step: int) -> list[dict[str, Any]]:
    """Drops unreadable lines, those of later steps and the "finished" event, atomically.

    Returns the records that are left.
    """
    if not path.exists():
        return []
    kept = [
        record
        for record in read_records(path)
        if (record.get("step") or 0) <= start_step and record.get("event") != "finished"
    ]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    with replacing(path) as temporary, temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return kept


def _jsonable(value: Any) -> Any:
    """`value` with arrays as lists or numbers, and None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and JAX, scalars too
        return _jsonable(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
