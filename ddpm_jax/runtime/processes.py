"""Several processes as one program: how they find each other, agree, and end together.

Each process runs the same script and drives its own devices. All must run the same programs on
these in the same order. So whatever depends on files or on a clock, one process decides and the
others learn from it. A single process contacts nobody and waits for nothing.
"""

import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import signals
from ddpm_jax.runtime.script import reporting_errors

T = TypeVar("T")

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# A variable that only the processes of a launcher have -> the variable with their number.
LAUNCHERS = {
    "OMPI_MCA_orte_hnp_uri": "OMPI_COMM_WORLD_SIZE",
    "SLURM_STEP_NODELIST": "SLURM_NTASKS",
}
JOIN_SECONDS = 300  # until all processes must have started
LEAVE_SECONDS = 30  # a process that failed waits so long for others that fail in the same way


def join(options: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Makes this process one of several, if its environment says so. Call it before JAX is used.

    The environment names the others in one of two ways. JAX_COORDINATOR_ADDRESS (host:port of the
    first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it all. Under `srun`, `mpirun` or on a
    TPU pod JAX finds the others itself; the three variables take precedence where they are set.
    With JAX_NUM_PROCESSES=1 the process stays a single one.

    Afterwards only the first process writes to stdout, and a signal to any of them stops all of
    them at their next `signals.check()`.

    If some process does not come within JOIN_SECONDS, the others end with a line and exit code 2.

    Raises:
      UserError: the variables make no sense, no service can be started at the address, or the
        processes have different `options`.
    """
    known = arguments(environ)
    if known is None:
        return
    _meet(known)
    signals.stop_together(lambda signum: int(_gathered(signum).max()))
    if not is_main_process():
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # silences C++ too
    # Also because Gloo waits only 30 s for the others at their first exchange; later, for ever.
    assert_equal_across_processes(options or {})


def _meet(known: Mapping[str, Any]) -> None:
    """Starts `jax.distributed`; ends the process with a line and code 2 after JOIN_SECONDS.

    Raises UserError if no service can be started at the address.
    """
    # JAX gives up with a stack trace, 30 s later than this timer, which prints one line.
    at = known.get("coordinator_address", "the first")
    who = f"process {known['process_id']}" if "process_id" in known else "this process"
    late = (
        f"error: {who} waited {JOIN_SECONDS} s in vain for all the "
        f"others to meet at {at}: start them all, with the same {ADDRESS} and {COUNT}\n"
    )
    watchdog = threading.Timer(JOIN_SECONDS, _leave, (2, late))
    watchdog.daemon = True
    watchdog.start()
    # This service would replace our handler of SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**known, initialization_timeout=JOIN_SECONDS + 30)
    except (ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the processes cannot meet at {at}: {reason}; is its port free?"
        ) from error
    finally:
        watchdog.cancel()


def arguments(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize`; None for a single process.

    Raises UserError for variables that make no sense.
    """
    given = {name: environ[name] for name in (ADDRESS, COUNT, INDEX) if environ.get(name)}
    count, index = (_number(given, name) for name in (COUNT, INDEX))
    if count == 1 or not (given or _launched(environ)):
        return None
    missing = [name for name in (ADDRESS, COUNT, INDEX) if name not in given]
    if missing and not _launched(environ):
        raise UserError(
            f"{' and '.join(given)} set, but not {' and '.join(missing)}: several processes need "
            f"all three, host:port of the first, their number and 0, 1, ...; a single one, none"
        )
    known: dict[str, Any] = {}
    if ADDRESS in given:
        host, _, port = given[ADDRESS].rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UserError(
                f"{ADDRESS}={given[ADDRESS]}: must be host:port of the first process, as in "
                "10.0.0.1:1234"
            )
        known["coordinator_address"] = given[ADDRESS]
    if count is not None:
        known["num_processes"] = count
    if index is not None:
        known["process_id"] = index
    if not missing and not _launched(environ):
        known["cluster_detection_method"] = "deactivate"
    return known


def _number(given: Mapping[str, str], name: str) -> int | None:
    """JAX_NUM_PROCESSES or JAX_PROCESS_ID as a number; raises UserError."""
    if name not in given:
        return None
    value = int(given[name]) if given[name].isdecimal() else -1
    least = 1 if name == COUNT else 0
    if value < least:
        raise UserError(f"{name}={given[name]}: must be a number from {least}")
    count = given.get(COUNT, "")
    if name == INDEX and count.isdecimal() and value >= int(count):
        raise UserError(f"{name}={value}: must be below {COUNT}, {count}")
    return value


def _launched(environ: Mapping[str, str]) -> bool:
    """True if a launcher started several processes, which JAX then finds by itself."""
    for mark, count in LAUNCHERS.items():
        if mark in environ:
            return environ.get(count, "1") != "1"
    if "tpu" not in (jax.config.values["jax_platforms"] or "").split(
        ","
    ):  # importing JAX sets it on a TPU
        return False
    hosts = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:
        return "," in hosts or environ.get("MEGASCALE_NUM_SLICES", "1") != "1"
    return "TPU_SKIP_MDS_QUERY" not in environ  # a Cloud TPU VM: JAX asks its metadata server


def is_main_process() -> bool:
    """True in the one process that prints and writes files; true in a single process."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def on_main_process(make: Callable[[], T]) -> T:
    """Calls `make()` in the first process; returns its value, or raises its error, in all of them.

    For whatever depends on files or time. The value goes through pickle.
    """
    if not jax.distributed.is_initialized():
        return make()
    outcome: tuple[Any, Exception | None] = None, None
    if is_main_process():
        try:
            outcome = make(), None
        except Exception as error:
            outcome = None, _picklable(error)
    value, failure = all_gather_objects(outcome)[0]
    if failure is not None:
        raise failure
    return value


def assert_equal_across_processes(values: Mapping[str, Any]) -> None:
    """Raises UserError in all processes if their values differ; it names those that do."""
    first, *others = all_gather_objects(dict(values))
    differ = [
        f"{name} is {first.get(name)} in process 0 and {other.get(name)} in process {i}"
        for i, other in enumerate(others, start=1)
        for name in first | other
        if first.get(name) != other.get(name)
    ]
    if differ:
        more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UserError(
            f"{', '.join(differ[:3])}{more}: start all processes by the same command, with the "
            "same data"
        )


def all_gather_objects(value: T) -> list[T]:
    """The values of all processes, in the order of the processes. They go through pickle."""
    if not jax.distributed.is_initialized():
        return [value]
    text = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = _gathered(len(text))
    # Padded to a power of two, so that few programs are compiled, and sent as int32, which every
    # device can send.
    room = max(2 ** int(sizes.max() - 1).bit_length(), 4)
    padded = np.resize(text, room).view(np.int32)
    texts = np.asarray(_allgather(padded)).reshape(len(sizes), -1)
    pickled = (row.view(np.uint8)[:size] for row, size in zip(texts, sizes, strict=True))
    return [pickle.loads(row.tobytes()) for row in pickled]


def _gathered(number: int) -> np.ndarray:
    """The numbers of all processes, int32 [processes]."""
    return _allgather(np.array([number], np.int32)).ravel()


def _allgather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes. On CPU, waits first for all programs that are running.

    Two programs on a CPU that do not depend on each other may run in different orders in different
    processes. Gloo would then mistake the data of one program for that of the other.
    """
    if jax.default_backend() == "cpu":
        for pending in jax.live_arrays():
            with suppress(RuntimeError):  # it has been donated in the meantime
                pending.block_until_ready()
    return multihost_utils.process_allgather(array)


def _picklable(error: Exception) -> Exception:
    """The error, or a RuntimeError with its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def exit_together() -> Iterator[None]:
    """A process that fails in the block ends without waiting for the others.

    At exit JAX waits for all processes, and Orbax for their saves. Processes that failed in the
    same way come to that point too. Others would hang in a program that needs this process. So a
    process that failed prints why, and ends after LEAVE_SECONDS at most. It ends at once if the
    failure is that of a program over all processes, most likely because another one has gone. JAX
    ends the others as soon as it learns that one has gone, or after 100 s.
    """
    try:
        with reporting_errors() if jax.distributed.is_initialized() else nullcontext():
            yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if code and jax.distributed.is_initialized():
            if isinstance(error, jax.errors.JaxRuntimeError):
                reason = " ".join(str(error).split())[:1000]
                _leave(1, f"stopped: {reason}; if another process ended first, it says why\n")
            timer = threading.Timer(LEAVE_SECONDS, _leave, (code,))
            timer.daemon = True
            timer.start()
            if not isinstance(error, SystemExit):
                traceback.print_exc()
                raise SystemExit(code) from None
        raise


def _leave(code: Any, message: str = "") -> None:
    """Ends the process at once, without waiting for threads or other processes."""
    sys.stderr.write(message)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 1)
