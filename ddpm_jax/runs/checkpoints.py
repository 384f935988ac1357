"""Every Orbax call of the project: what a run keeps, and how it comes back.

A checkpoint holds the items `state` (parameters, optimizer, step), `ema` (the averaged weights, all
that sampling needs), one as `ema_0.999` for each further average, and `config`. Orbax writes to a
temporary folder and renames it, so a checkpoint that is there at all was written whole; a CRC-32 of
each file, noted then, tells if it was changed since, for Orbax would not notice a flipped bit. A
run that stops early marks the checkpoints whose held-out loss was the lowest so far with that loss;
the last of these is kept, and drawn from.

Several processes share the folder. Which checkpoint they read, the first one decides.

Weights that came from elsewhere are the checkpoint of step 0, with `ema` and `config` alone: Adam's
moments would triple it. Training saves none before step 1, so the two cannot be mistaken.
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as ocp

from ddpm_jax.errors import RunError, UserError
from ddpm_jax.runs.checksums import check_files, write_checksums
from ddpm_jax.runtime import processes, signals

logger = logging.getLogger("ddpm_jax")

TEMPORARY = "*.orbax-checkpoint-tmp*"
LOSS = "held_out_loss"  # what checkpoints are compared by, if they are
TRAINED = "params"  # the weights that are trained, a part of the item `state`
IMPORTED = 0  # the step that imported weights are kept as
# Bytes on their way to disk at once; without a limit, saving 1.2 GB of weights takes 0.7 GB more.
WRITE_BYTES = 2**28


class Checkpoints:
    """The newest `keep` checkpoints of a run, and the best of those that were saved with a loss.

    A context manager that ends pending saves. `saved` is the last step that is on disk or on its
    way there.
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
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[LOSS],
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
            )
        except OSError as error:
            reason = error.strerror
            raise UserError(f"cannot keep checkpoints in {self.directory}: {reason}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self._settle()
            self._orbax.close()
        except Exception as error:
            if kind is None:  # else the error that is under way says more
                raise self._failed(error) from error
        finally:
            self._thread.shutdown()

    def save(self, step: int, state: Any, config: str, held_out_loss: float | None = None) -> None:
        """Starts writing; returns once the arrays are copied, so that the caller may donate them.

        `state` is a NamedTuple with a field `ema`, and perhaps `extra_ema`, further averages by
        their decay; each becomes an item of its own. Of checkpoints with a `held_out_loss` that
        with the lowest is kept. If this save fails, `check`, `wait` or the next `save` says so.
        """
        metrics = None if held_out_loss is None else {LOSS: held_out_loss}
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
        """If the last save has failed by now, raises RunError or warns, as the run is to do."""
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
            # Orbax would fail the next save with the same error, and delete no old one any more.
            with suppress(Exception):
                self._orbax.close()
            for leftover in self.directory.glob(TEMPORARY):
                shutil.rmtree(leftover, ignore_errors=True)
            self._orbax = self._open()

    def wait(self) -> None:
        """Returns once every save is on disk, with its checksums. Raises RunError if one failed.

        All processes must call it. Those that did not would leave, and end the first one, while it
        reads what they wrote.
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

    def restore(self, abstract: Any) -> Any | None:
        """The state in the newest checkpoint that can be read; None if nothing was trained yet.

        `abstract` carries shapes and shardings. Raises UserError if there are some and none can be
        read, or if they are of another model.
        """
        steps = processes.on_main_process(lambda: _steps(self.directory))
        trained = [step for step in steps if step != IMPORTED]
        found = _load_newest(self.directory, trained, _split(abstract))
        if found is None:
            return None
        self.saved = found.step
        return _joined(found.items, abstract)

    def restore_imported(self, abstract: Mapping[str, jax.ShapeDtypeStruct]) -> Any | None:
        """The weights that training is to start from; None if none were imported into the run.

        `abstract` carries shapes and shardings. Raises UserError as `restore`, which comes first.
        """
        steps = processes.on_main_process(lambda: _steps(self.directory))
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
    """The item that holds the further average of this decay."""
    return f"ema_{decay}"


def _split(state: Any) -> dict[str, Any]:
    """The items that a state is kept as, abstract ones too."""
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
    """The averaged weights of `step`, or of the best or newest checkpoint, as item "ema".

    That is the one with the lowest held-out loss, if any were saved with theirs, else the newest
    that can be read. `abstract_ema` carries shapes and shardings. Instead of the item "ema" those
    that are `weights_item` another average or TRAINED may be loaded; only they are read. Raises
    UserError.
    """
    directory = directory.resolve()

    def wanted() -> list[int]:
        steps = _steps(directory)
        if weights_item != "ema" and steps == [IMPORTED]:
            raise UserError(
                f"{directory} holds imported weights, and no others: train on, or leave --ema out"
            )
        if step is not None and step not in steps:
            raise UserError(f"{directory} has no checkpoint of step {step}; there are: {steps}")
        return sorted(steps, key=partial(_worth, directory)) if step is None else [step]

    trained = weights_item == TRAINED
    items = {"state": {TRAINED: abstract_ema}} if trained else {weights_item: abstract_ema}
    found = _load_newest(directory, processes.on_main_process(wanted), items, only_trained=trained)
    if found is None:
        raise UserError(f"{directory} holds no checkpoint: train first, or name another --workdir")
    weights = found.items["state"][TRAINED] if trained else found.items[weights_item]
    return Loaded(found.step, {"ema": weights})


def save_imported(directory: Path, ema: Mapping[str, jax.Array], config: str) -> None:
    """Writes weights that came from elsewhere, and returns once they are on disk."""
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


def chosen_step(directory: Path) -> int:
    """The step that `load_ema` tries first; raises UserError if there is none."""
    directory = directory.resolve()
    steps = _steps(directory)
    if not steps:
        raise UserError(f"{directory} holds no checkpoint: train first, or name another --workdir")
    return max(steps, key=partial(_worth, directory))


def only_imported(directory: Path) -> bool:
    """Whether a run holds imported weights, and nothing that was trained since."""
    return _steps(directory) == [IMPORTED]


def _steps(directory: Path) -> list[int]:
    """The steps whose checkpoints a folder holds, oldest first."""
    return sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit())


def _reason(error: Exception, directory: Path) -> str:
    """An error in one line, which names files of the directory without its path."""
    return " ".join(str(error).replace(f"{directory}/", "").split())[:400]


def _worth(directory: Path, step: int) -> tuple[float, int]:
    """Sorts checkpoints to draw from: the lower its held-out loss, if it has one, the later."""
    try:
        metrics = json.loads((directory / str(step) / "metrics" / "metrics").read_text())
        return -float(metrics[LOSS]), step
    except (OSError, ValueError, KeyError, TypeError):
        return -math.inf, step


def _load_newest(
    directory: Path, steps: list[int], abstract: dict[str, Any], only_trained: bool = False
) -> Loaded | None:
    """The last of the checkpoints of `steps` that can be read, of its state perhaps a part."""
    broken: list[str] = []
    context = ocp.Context()
    context.pytree.loading.partial_load = only_trained
    for step in reversed(steps):
        path = directory / str(step)
        try:
            # What a signal raises amid a load comes out of Orbax as an error of the checkpoint.
            with signals.deferred(), context:
                processes.on_main_process(partial(_check, path, abstract))
                loaded = Loaded(step, ocp.load_checkpointables(path, abstract))
        except (UserError, PermissionError, MemoryError, jax.errors.JaxRuntimeError):
            raise  # not the checkpoint's fault, and no reason to go back in time
        except Exception as error:  # whatever a damaged file makes Orbax raise
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
