"""Several processes as one program: how they find each other, agree, and end together.

Each process runs the same script and drives its own devices. What one of them decides from files or
from a clock the others must learn, for all have to run the same programs in the same order. A
process alone pays nothing: it contacts nobody and waits for nothing.
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
# What only a launcher's processes have in their environment, and where it says how many they are.
LAUNCHERS = {
    "OMPI_MCA_orte_hnp_uri": "OMPI_COMM_WORLD_SIZE",
    "SLURM_STEP_NODELIST": "SLURM_NTASKS",
}
JOIN_SECONDS = 300  # until all processes must have started
LEAVE_SECONDS = 30  # that a process which failed waits for others that fail in the same way


def join(options: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Makes this process one of several, if its environment says so; before JAX's first use.

    That is: JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID;
    or `srun`, `mpirun` or a TPU pod, where JAX finds the others by itself and any of the three
    takes precedence. JAX_NUM_PROCESSES=1 is a process alone. From then on only the first process
    writes to stdout, and a signal to any of them stops all, at their next `signals.check()`.

    Raises:
      UserError: the variables make no sense, or no service can be started at the address, or the
        processes were given different `options`. If not all processes come within JOIN_SECONDS,
        the same in one line and exit code 2.
    """
    known = arguments(environ)
    if known is None:
        return
    # JAX aborts with a stack trace when it gives up: we are a little faster, and say it in a line.
    at = known.get("coordinator_address", "the first")
    who = f"process {known['process_id']}" if "process_id" in known else "this process"
    late = (
        f"error: {who} waited {JOIN_SECONDS} s in vain for all the "
        f"others to meet at {at}: start them all, with the same {ADDRESS} and {COUNT}\n"
    )
    watchdog = threading.Timer(JOIN_SECONDS, _leave, (2, late))
    watchdog.daemon = True
    watchdog.start()
    # Its service would take the place of our handler of SIGTERM.
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
    signals.stop_together(lambda signum: int(_gathered(signum).max()))
    if not is_main_process():
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that C++ is quiet too
    # Also because Gloo waits 30 s at the first meeting, and from then on long enough for anything.
    assert_equal_across_processes(options or {})


def arguments(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told; None for a process alone.

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
    """Whether a launcher started several processes, which JAX then finds by itself."""
    for mark, count in LAUNCHERS.items():
        if mark in environ:
            return environ.get(count, "1") != "1"
    if "tpu" not in (jax.config.jax_platforms or "").split(","):  # importing JAX sets it on a TPU
        return False
    hosts = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:
        return "," in hosts or environ.get("MEGASCALE_NUM_SLICES", "1") != "1"
    return "TPU_SKIP_MDS_QUERY" not in environ  # a Cloud TPU VM: JAX asks its metadata server


def is_main_process() -> bool:
    """Whether this process prints and writes what the run needs once; true of a process alone."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def on_main_process(make: Callable[[], T]) -> T:
    """What `make()` returns or raises in the first process, in every process.

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
    value, error = all_gather_objects(outcome)[0]
    if error is not None:
        raise error
    return value


def assert_equal_across_processes(values: Mapping[str, Any]) -> None:
    """Raises UserError in all processes, naming what differs, if they give different values."""
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
    """The values of all processes, in their order. They go through pickle."""
    if not jax.distributed.is_initialized():
        return [value]
    text = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = _gathered(len(text))
    # A power of two, so that few programs are compiled; of integers that every device can send.
    room = max(2 ** int(sizes.max() - 1).bit_length(), 4)
    padded = np.resize(text, room).view(np.int32)
    texts = np.asarray(_allgather(padded)).reshape(len(sizes), -1)
    each = (row.view(np.uint8)[:size] for row, size in zip(texts, sizes, strict=True))
    return [pickle.loads(row.tobytes()) for row in each]


def _gathered(number: int) -> np.ndarray:
    """The numbers of all processes, int32, in their order."""
    return _allgather(np.int32(number)).ravel()


def _allgather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, once all else that this one has begun is done.

    On CPU two programs that do not wait for each other run in any order, in one process in another
    than in the next, and Gloo then takes what one sends for what the other is to get.
    """
    if jax.default_backend() == "cpu":
        for pending in jax.live_arrays():
            with suppress(RuntimeError):  # it has been donated meanwhile
                pending.block_until_ready()
    return multihost_utils.process_allgather(array)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def exit_together() -> Iterator[None]:
    """Around a script, and around what waits for nothing: a process that fails leaves at once.

    At its exit JAX waits for all processes, and Orbax for what they save. Those that failed in the
    same way get there too; the others hang in a program that needs this one. So a process that
    failed says why, and waits LEAVE_SECONDS at most; one whose program over all of them failed,
    most likely because another is gone, not at all. JAX ends the others when it misses one: when it
    hears of it, or after 100 s.
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
    """Ends the process without any farewell."""
    sys.stderr.write(message)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 1)
