"""SIGTERM and SIGINT (Ctrl-C) end a script at a safe point, with an exit code: run it again.

A signal raises `Interrupted` in the main thread, wherever Python is, as Ctrl-C usually raises
KeyboardInterrupt. During a compilation Python does not run, and the exception waits for its end.
This is safe, because files appear whole or not at all.

Two things make a signal wait for the next `check()` instead: a block of `deferred()`, which has
state to save, and a program of several processes, which can only stop together.

Python ignores exceptions in destructors and in callbacks of the garbage collector. An `Interrupted`
that is lost there is raised again.

A second signal ends the process at once, even during a compilation. No whole file is lost by that.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, ParamSpec

P = ParamSpec("P")

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not done; run it again
SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGREE_EVERY_STEPS = 10  # several processes wait for each other so often, to agree on a stop
PATIENCE_SECONDS = 3.0  # after which a line explains why a signal has not ended the script yet
RETRY_SECONDS = 0.01  # after which an exception that Python ignored is raised again

_received: int = 0  # the first signal; 0: none yet
_deferring = False
_agree: Callable[[int], int] | None = None  # with several processes: the signal that any received


class Interrupted(BaseException):
    """A signal came. `str()` is its name and what was `done` before the stop.

    It is no `Exception`, so that code which handles errors lets it pass.
    """

    def __init__(self, signum: int, done: str = "") -> None:
        super().__init__(f"{signal.Signals(signum).name}{done and ' '}{done}")
        self.signum = signum


@contextmanager
def listening() -> Iterator[None]:
    """Signals raise `Interrupted` in the block. Outside the main thread it changes nothing.

    A signal that the parent process ignores, as under `nohup` and a shell's `&`, stays ignored.
    """
    global _received, _deferring
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received, _deferring = 0, False
    handlers = {
        signum: _handle for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN
    }
    handlers[signal.SIGALRM] = _raise_again
    print_ignored = sys.unraisablehook

    def ignored(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)  # raised here, it would be lost too
        else:
            print_ignored(unraisable)

    with _watching():
        sys.unraisablehook = ignored
        old = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        try:
            yield
        finally:
            _deferring = True  # nothing would catch an exception from here on
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.unraisablehook = print_ignored
            for signum, handler in old.items():
                signal.signal(signum, handler)
            _received, _deferring = 0, False


@contextmanager
def _watching() -> Iterator[None]:
    """A thread that receives signals even while XLA runs in the main thread.

    Python calls signal handlers in the main thread, and only when XLA is not running there. It also
    writes a byte for each signal to a pipe, which another thread can read at once.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_writer)
        os.close(writer)  # ends the thread
        thread.join()
        os.close(reader)


@contextmanager
def deferred(on_stop: Callable[[], str] | None = None) -> Iterator[None]:
    """In the block a signal waits for `check()`. The start and the end of the block check too.

    `on_stop()` is called when a signal stops the block. It saves what there is to save, and returns
    a phrase about that for the script's last line.
    """
    global _deferring
    check()
    before, _deferring = _deferring, True
    try:
        yield
        check()
    except Interrupted as stop:
        raise Interrupted(stop.signum, on_stop() if on_stop else "") from None
    finally:
        _deferring = before


def check() -> None:
    """A safe point: raises `Interrupted` if a signal came.

    Of several processes all must call it. They exchange what they received, and all raise or none.
    """
    if signum := _agree(_received) if _agree else _received:
        signal.setitimer(signal.ITIMER_REAL, 0)  # so that it is not raised again
        raise Interrupted(signum)


def check_together(step: int) -> None:
    """A safe point after `step`. Several processes check only every AGREE_EVERY_STEPS steps."""
    if _agree is None or step % AGREE_EVERY_STEPS == 0:
        check()


def stop_together(agree: Callable[[int], int]) -> None:
    """Makes this process, one of several, stop only at a `check()`.

    `agree(signum)` gets the signal that this process received, or 0. It waits for all processes,
    and returns in each of them the same signal: one that any of them received, or 0.
    """
    global _agree
    _agree = agree


def with_stop_check(function: Callable[P, object]) -> Callable[P, None]:
    """`function`, followed by a safe point; for callbacks such as a progress bar's `update`."""

    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        function(*args, **kwargs)
        check()

    return call


def _handle(signum: int, frame: FrameType | None) -> None:
    global _received
    first, _received = not _received, _received or signum
    if first and not _deferring and _agree is None:
        raise Interrupted(signum)


def _raise_again(signum: int, frame: FrameType | None) -> None:
    if _received and not _deferring and _agree is None:
        raise Interrupted(_received)


def _watch(reader: int) -> None:
    """Ends the process at the second signal; prints a line if the first one takes long."""
    if not _next_signal(reader):
        return
    if not select.select([reader], [], [], PATIENCE_SECONDS)[0]:
        _print_line("stops at the next safe point; once more to stop at once")
    if second := _next_signal(reader):
        _print_line(f"stopped at once by a second signal, {second}; the same command goes on")
        os._exit(EXIT_CODE)


def _next_signal(reader: int) -> str:
    """Waits for one of SIGNALS, and returns its name; "" once the pipe is closed."""
    while byte := os.read(reader, 1):
        if byte[0] in SIGNALS:
            return signal.Signals(byte[0]).name
    return ""


def _print_line(line: str) -> None:
    """Writes a line to stderr without `sys.stderr`, whose lock the main thread may hold."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
