"""The frame of a script: foreseen errors as one line and an exit code, warnings as plain lines."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

from ddpm_jax.errors import RunError, UserError
from ddpm_jax.runtime import signals


def start_logging() -> None:
    """Shows the project's warnings as plain lines on stderr."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:  # a library may have added one before
        handler.setFormatter(logging.Formatter("%(message)s"))
    # Orbax raises its errors, and logs them as well, with tracebacks, once in each of its threads.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's main function; signals and foreseen errors end it with one line on stderr."""
    _pass_over_late_writes()
    with signals.listening(), reporting_errors():
        main()


@cache
def _pass_over_late_writes() -> None:
    """Keeps writes of Orbax from printing a traceback or a warning each where a disk is full.

    It raises the error of the first write that fails and closes its event loop. That it is closed
    is all that the others say, until the process has ended.
    """
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Turns foreseen errors into a line on stderr and SystemExit with the contract's exit code."""
    try:
        yield
    except UserError as error:
        _end(2, f"error: {error}")
    except RunError as error:
        _end(1, f"stopped: {error}")
    except ModuleNotFoundError as error:
        way = "`pip install ddpm-jax`, or `pip install -e .` in a checkout"
        _end(2, f"error: {error.name} is not installed; run {way}")
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _end(1, f"stopped: {error}; nothing that was complete is lost")
    except signals.Interrupted as stop:
        _end(signals.EXIT_CODE, f"stopped by {stop}; the same command goes on")


def _end(code: int, line: str) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)
