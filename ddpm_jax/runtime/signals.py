"""SIGTERM and SIGINT end a script at a safe point, with an exit code that says: run it again.

A signal raises `Interrupted` where Python is, as Ctrl-C raises KeyboardInterrupt, or as soon as a
compilation hands control back. That is safe wherever files appear whole or not at all. Inside of
`deferred()`, where there is more to lose, it waits for the next `check()`; so it does everywhere
in one of several processes, for they can only stop together. What is raised amid a destructor or a
callback of the garbage collector Python ignores; then it is raised once more. A second signal ends
the process at once, also amid a compilation; no file that was whole is lost by that.
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

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not done, and to be run again
SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGREE_EVERY_STEPS = 10  # between looks at the other processes, which wait for each other there
PATIENCE_SECONDS = 3.0  # before somebody at a terminal is told what is waited for
AGAIN_SECONDS = 0.01  # after which what Python ignored is raised once more

_received: int = 0  # the signal, once there was one
_deferring = False
_agree: Callable[[int], int] | None = None  # of several processes: on what any of them received


class Interrupted(BaseException):
    """A signal came. `str()` names it, and says what was `done` about it.

    No `Exception`, so that nothing that handles errors takes it for one.
    """

    def __init__(self, signum: int, done: str = "") -> None:
        super().__init__(f"{signal.Signals(signum).name}{done and ' '}{done}")
        self.signum = signum


@contextmanager
def listening() -> Iterator[None]:
    """Signals raise `Interrupted` in the block, which runs in the main thread or hears none.

    One that the parent told us to ignore, as `nohup` and a shell's `&` do, stays ignored.
    """
    global _received, _deferring
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received, _deferring = 0, False
    handlers = {
        signum: _handle for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN
    }
    handlers[signal.SIGALRM] = _again
    print_ignored = sys.unraisablehook

    def ignored(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)  # here it would be ignored, too
        else:
            print_ignored(unraisable)

    sys.unraisablehook = ignored
    # Python runs its handlers in the main thread, once XLA has given it back. The bytes that it
    # writes to this pipe, one a signal, reach another thread at once.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    watch = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        _deferring = True  # nobody is left to catch it
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = print_ignored
        for signum, handler in old.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(old_writer)
        os.close(writer)  # ends the thread
        watch.join()
        os.close(reader)
        _received, _deferring = 0, False


@contextmanager
def deferred(on_stop: Callable[[], str] | None = None) -> Iterator[None]:
    """In the block a signal waits for `check()` or for its end. Either end is a safe point.

    `on_stop()` then saves what there is to save, and says what it did for the line that the script
    ends with.
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

    Several processes must all pass it, for they compare notes there: all of them raise, or none.
    """
    if signum := _agree(_received) if _agree else _received:
        signal.setitimer(signal.ITIMER_REAL, 0)  # else it might be raised again
        raise Interrupted(signum)


def check_together(step: int) -> None:
    """A safe point after `step`, for several processes only every AGREE_EVERY_STEPS."""
    if _agree is None or step % AGREE_EVERY_STEPS == 0:
        check()


def stop_together(agree: Callable[[int], int]) -> None:
    """Says that this process is one of several: from now on it stops at a `check()` alone.

    `agree(signum)` waits for all of them, and returns what any of them received, the same in each.
    """
    global _agree
    _agree = agree


def with_stop_check(function: Callable[P, object]) -> Callable[P, None]:
    """`function` with a safe point behind it, such as the `update` of a progress bar."""

    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        function(*args, **kwargs)
        check()

    return call


def _handle(signum: int, frame: FrameType | None) -> None:
    global _received
    first, _received = not _received, _received or signum
    if first and not _deferring and _agree is None:
        raise Interrupted(signum)


def _again(signum: int, frame: FrameType | None) -> None:
    if _received and not _deferring and _agree is None:
        raise Interrupted(_received)


def _watch(reader: int) -> None:
    """Ends the process at the second signal; tells of the first if it takes long."""
    if not _signal(reader):
        return
    if not select.select([reader], [], [], PATIENCE_SECONDS)[0]:
        _say("stops at the next safe point; once more to stop at once")
    if second := _signal(reader):
        _say(f"stopped at once by a second signal, {second}; the same command goes on")
        os._exit(EXIT_CODE)


def _signal(reader: int) -> str:
    """Waits for a signal of ours, whose name it returns; "" if there will be none."""
    while byte := os.read(reader, 1):
        if byte[0] in SIGNALS:
            return signal.Signals(byte[0]).name
    return ""


def _say(line: str) -> None:
    """Writes a line to stderr, past `sys.stderr`, whose lock the main thread may have."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
