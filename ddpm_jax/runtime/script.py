"""The frame of a script: foreseen errors as one line and an exit code, warnings as plain lines."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

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
    with signals.listening(), reporting_errors():
        main()


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
