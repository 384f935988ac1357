"""Keeps a second training out of a run folder.

The lock is the kernel's own (flock), so it ends with its process: a run that was killed leaves none
behind, whatever is in the file. The file only says who holds the lock. On NFS the server keeps the
lock, so it holds between machines, unless the mount has the option `local_lock` or `nolock`.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import processes

LOCK = "training.lock"

logger = logging.getLogger("ddpm_jax")


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Locks a run folder, which it makes if need be, for the time of the block.

    Of several processes of one program the main one holds the lock. Nobody needs it to read.

    Raises:
      UserError: another training has the lock, or the folder cannot be written.
    """
    with ExitStack() as stack:

        def lock() -> None:
            stack.enter_context(_flock(workdir))

        processes.on_main_process(lock)
        yield


@contextmanager
def _flock(workdir: Path) -> Iterator[None]:
    path = workdir / LOCK
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(path)
    except BlockingIOError as error:
        raise UserError(
            f"--workdir {workdir}: another training runs there ({_holder(path)}): wait for its "
            "end, stop it, or choose another --workdir"
        ) from error
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error.strerror}") from error
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """The descriptor of the locked file; raises BlockingIOError if another process has the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s cannot be locked (%s); start no second training there", path, error)
            return descriptor
        # The process that had the lock deletes the file: a new one may have taken its place.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


def _holder(path: Path) -> str:
    """The process that has the lock, as it describes itself in the file."""
    try:
        holder = json.loads(path.read_text())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        return f"process {holder['pid']} on {holder['host']}, since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not yet said which process it is"
