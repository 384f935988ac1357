"""Saving and restoring checkpoints. Every Orbax call of the project is here.

A checkpoint holds the items `state` (parameters, optimizer, step), `ema` (the averaged weights, all
that sampling needs), one like `ema_0.999` for each further average, and `config`. Orbax writes to a
temporary folder and renames it, so every checkpoint was written whole. It does not notice a bit
that flips later; the CRC-32 of each file does. A run that validates or measures its samples saves a
checkpoint with its score whenever that is the best so far. It is kept, and sampling uses it.

Several processes share the folder. The main process decides which checkpoint all of them read.

Imported weights are the checkpoint of step 0. It holds `ema` and `config` alone: Adam's moments
would triple it. Training saves no step 0, so the two cannot be mistaken.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from ddpm_jax.errors import RunError, UserError
from ddpm_jax.runs.checksums import check_files, write_checksums
from ddpm_jax.runs.saved_steps import IMPORTED, SCORE, best_last, saved_steps
from ddpm_jax.runtime import processes, signals

logger = logging.getLogger("ddpm_jax")
State = TypeVar("State")  # a NamedTuple, as `Checkpoints.save` describes it

TEMPORARY = "*.orbax-checkpoint-tmp*"
TRAINED = "params"  # the weights being trained, a part of the item `state`
# Bytes on their way to disk at once; without a limit, saving 1.2 GB of weights takes 0.7 GB more.
WRITE_BYTES = 2**28
# Each device copies a part of what all of them hold, if that part has so many bytes. Parts of small
# arrays, hundreds of them, are programs to compile, and held training up for seconds.
PART_BYTES = 2**20


class Checkpoints:
    """The newest `keep` checkpoints of a run, and the one with the lowest score.

    A context manager: leaving it waits for pending saves. `saved` is the last step whose save has
    started and not failed.
    """

    def __init__(self, directory: Path, keep: int, stop_on_failed_save: bool = True):
        directory = directory.resolve()
        self.directory, self._keep = directory, keep
        # Several processes would have to agree that one of them failed.
        self._stop = stop_on_failed_save or jax.process_count() > 1
        self.saved = self._saved_before = 0
        self._thread = ThreadPoolExecutor(1, "checksums")
        self._written: Future[None] | None = None  # the end of the last save
        for leftover in sorted(directory.glob(TEMPORARY)) if processes.is_main_process() else ():
            step = leftover.name.split(".")[0]
            logger.warning("checkpoint %s was half-written when the run stopped: not used", step)
        self._orbax = self._open()

    def _open(self) -> ocp.training.Checkpointer:
        context = ocp.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = PART_BYTES
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[SCORE],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            return ocp.training.Checkpointer(
                self.directory,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(self._keep), best]
                ),
                cleanup_tmp_directories=True,
                context=context,
            )
        except OSError as error:
            raise UserError(
                f"cannot keep checkpoints in {self.directory}: {error.strerror}"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self._settle()
            self._orbax.close()
        except Exception as error:
            if kind is None:  # otherwise the error that ended the block says more
                raise self._failed(error) from error
        finally:
            self._thread.shutdown()

    def save(self, step: int, state: Any, config: str, score: float | None = None) -> None:
        """Starts to write; returns once the arrays are copied, so that the caller may donate them.

        `state` is a NamedTuple. Its field `ema`, and each average in `extra_ema` (by decay), if it
        has that field, becomes a separate item. The checkpoint with the lowest `score` is kept: a
        held-out loss, or a metric of samples. If this save fails, `check`, `wait` or the next
        `save` reports it.
        """
        metrics = None if score is None else {SCORE: score}
        items = _split(state) | {"config": json.loads(config)}
        self._end_last_save()
        self._saved_before, self.saved = self.saved, step
        try:
            saving = self._orbax.save_checkpointables_async(
                step, items, force=True, overwrite=True, metrics=metrics
            )
        except (OSError, ValueError) as error:
            self._written = Future()
            self._written.set_exception(error)
            return
        self._written = self._thread.submit(_checksum_saved, saving, self.directory / str(step))

    def check(self) -> None:
        """If the last save has failed, warns or, with `stop_on_failed_save`, raises RunError."""
        if self._written is not None and self._written.done():
            self._end_last_save()

    def _end_last_save(self) -> None:
        try:
            self._settle()
        except RunError as error:
            if self._stop:
                raise
            logger.warning("%s; the run goes on", error)
            self.saved = self._saved_before
            # This Checkpointer would fail the next save too, and no longer delete old checkpoints.
            with suppress(Exception):
                self._orbax.close()
            for leftover in self.directory.glob(TEMPORARY):
                shutil.rmtree(leftover, ignore_errors=True)
            self._orbax = self._open()

    def wait(self) -> None:
        """Returns once every save is on disk, with its checksums. Raises RunError if one failed.

        All processes must call it: one that exits early would end the main process too, while that
        still reads the files for their checksums.
        """
        self._settle()
        processes.all_gather_objects(None)

    def _settle(self) -> None:
        written, self._written = self._written, None
        try:
            if written is not None:
                written.result()
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def restore(self, abstract: State) -> State | None:
        """The state in the newest checkpoint that can be read; None if nothing was trained yet.

        `abstract` carries shapes and shardings. Raises UserError if every checkpoint is damaged, or
        if they belong to another model.
        """
        steps = processes.on_main_process(lambda: saved_steps(self.directory))
        trained = [step for step in steps if step != IMPORTED]
        found = _load_newest(self.directory, trained, _split(abstract))
        if found is None:
            return None
        self.saved = found.step
        return _joined(found.items, abstract)

    def restore_imported(
        self, abstract: Mapping[str, jax.ShapeDtypeStruct]
    ) -> dict[str, jax.Array] | None:
        """The imported weights that training starts from; None if the run has none.

        `abstract` carries shapes and shardings. Raises UserError as `restore`; call that first.
        """
        steps = processes.on_main_process(lambda: saved_steps(self.directory))
        imported = [step for step in steps if step == IMPORTED]
        found = _load_newest(self.directory, imported, {"ema": abstract})
        return None if found is None else found.items["ema"]

    def _failed(self, error: Exception) -> Exception:
        if isinstance(error, RunError):
            return error
        return RunError(
            f"cannot write a checkpoint to {self.directory}: {_reason(error, self.directory)}; "
            "the older ones are kept"
        )


def ema_item(decay: float | str) -> str:
    """The item that holds the extra average of this decay."""
    return f"ema_{decay}"


def _split(state: Any) -> dict[str, Any]:
    """The items of a checkpoint of this state, which may be abstract."""
    rest = state._asdict() | {"ema": {}}
    extra = rest.pop("extra_ema", {})
    averages = {ema_item(decay): ema for decay, ema in extra.items()}
    return {"state": rest, "ema": state.ema} | averages


def _joined(items: dict[str, Any], like: Any) -> Any:
    """The inverse of `_split`, for a state like `like`."""
    fields = items["state"] | {"ema": items["ema"]}
    if extra := getattr(like, "extra_ema", {}):
        fields["extra_ema"] = {decay: items[ema_item(decay)] for decay in extra}
    return like._replace(**fields)


class Loaded(NamedTuple):
    """Items of the checkpoint of one step."""

    step: int
    items: dict[str, Any]


def load_ema(
    directory: Path,
    abstract_ema: Mapping[str, jax.ShapeDtypeStruct],
    step: int | None = None,
    weights_item: str = "ema",
) -> Loaded:
    """The weights of a checkpoint, as the item "ema"; raises UserError if there are none to read.

    Without a `step`, that is the checkpoint with the lowest held-out loss, or the newest one if
    none was saved with a loss; a damaged one is passed over. `abstract_ema` carries shapes and
    shardings. `weights_item` chooses the weights: the average "ema", an extra average (`ema_item`),
    or TRAINED. Nothing else is read.
    """
    directory = directory.resolve()

    def wanted() -> list[int]:
        steps = saved_steps(directory)
        if weights_item != "ema" and steps == [IMPORTED]:
            raise UserError(
                f"{directory} holds imported weights, and no others: train on, or leave --ema out"
            )
        if step is not None and step not in steps:
            raise UserError(f"{directory} has no checkpoint of step {step}; there are: {steps}")
        return best_last(directory, steps) if step is None else [step]

    trained = weights_item == TRAINED
    items = {"state": {TRAINED: abstract_ema}} if trained else {weights_item: abstract_ema}
    found = _load_newest(directory, processes.on_main_process(wanted), items, only_trained=trained)
    if found is None:
        raise UserError(f"{directory} holds no checkpoint: train first, or name another --workdir")
    weights = found.items["state"][TRAINED] if trained else found.items[weights_item]
    return Loaded(found.step, {"ema": weights})


def save_imported(directory: Path, ema: Mapping[str, jax.Array], config: str) -> None:
    """Writes weights of another project as step 0; returns once they are on disk."""
    context = ocp.Context()
    context.memory.write_concurrent_bytes = WRITE_BYTES
    try:
        with context:
            path = directory.resolve() / str(IMPORTED)
            ocp.save_checkpointables(path, {"ema": ema, "config": json.loads(config)})
            write_checksums(path)
    except (OSError, ValueError) as error:
        reason = _reason(error, directory.resolve())
        raise RunError(f"cannot write the weights to {directory}: {reason}") from error


def _reason(error: Exception, directory: Path) -> str:
    """What the system says, or the error's message in one line, with names below the directory."""
    message = " ".join(str(error).replace(f"{directory}/", "").split())
    code = re.search(r"os_error_code='(\d+)'", message)  # TensorStore's, after a long message
    return os.strerror(int(code[1])) if code else message[:400]


def _load_newest(
    directory: Path, steps: list[int], abstract: dict[str, Any], only_trained: bool = False
) -> Loaded | None:
    """The last of `steps` whose checkpoint can be read; None if `steps` is empty.

    `only_trained` reads a part of the item `state`. Raises UserError if every one is damaged.
    """
    broken: list[str] = []
    context = ocp.Context()
    context.pytree.loading.partial_load = only_trained
    for step in reversed(steps):
        path = directory / str(step)
        try:
            # Orbax turns an exception that a signal raises during a load into a damaged checkpoint.
            with signals.deferred(), context:
                processes.on_main_process(partial(_check, path, abstract))
                loaded = Loaded(step, ocp.load_checkpointables(path, abstract))
        except (UserError, PermissionError, MemoryError, jax.errors.JaxRuntimeError):
            raise  # not the checkpoint's fault: an older one would not help
        except Exception as error:  # a damaged file makes Orbax raise many kinds
            broken.append(f"{path} cannot be read ({' '.join(str(error).split())[:200]})")
            continue
        for line in broken if processes.is_main_process() else ():
            logger.warning("checkpoint %s: %s is used", line, step)
        return loaded
    if broken:
        raise UserError(
            f"none of the {len(broken)} checkpoints in {directory} can be read; nothing was "
            f"changed: move the folder away to start anew ({broken[0]})"
        )
    return None


def _check(path: Path, abstract: Mapping[str, Any]) -> None:
    """Raises UserError for another model's checkpoint, some other error for a damaged one."""
    check_files(path, abstract)
    for item, tree in abstract.items():
        _same_parameters(path, item, tree[TRAINED] if item == "state" else tree)


def _checksum_saved(saving: Any, path: Path) -> None:
    """Waits for a save, whose error it raises, and writes its checksums."""
    saving.result()
    if jax.process_index() == 0:
        write_checksums(path)


def _same_parameters(path: Path, item: str, abstract: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Raises UserError, naming what differs, for another model's weights."""
    saved = ocp.metadata(path, item).metadata
    if saved is None:
        raise ValueError("its description is damaged")
    saved = saved[TRAINED] if item == "state" else saved
    shapes = {name: tuple(leaf.shape) for name, leaf in saved.items()}
    wanted = {name: tuple(leaf.shape) for name, leaf in abstract.items()}
    differ = [
        f"{name} is {shapes.get(name, 'missing')}, expected {wanted.get(name, 'nothing')}"
        for name in sorted(shapes.keys() | wanted.keys())
        if shapes.get(name) != wanted.get(name)
    ]
    if differ:
        more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UserError(f"{path} is of another model: {'; '.join(differ[:3])}{more}")
