"""A script's frame: one line for what was foreseen, an exit code, warnings as plain lines."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ddpm_jax.errors import RunError, UserError
from ddpm_jax.runtime import signals


def start_logging() -> None:
    """Shows the project's warnings as plain lines on stderr."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:  # some library may have added its own before us
        handler.setFormatter(logging.Formatter("%(message)s"))
    # Orbax logs what it raises too, with tracebacks, once in each of its threads.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's main function; reports what was foreseen in one line on stderr."""
    with signals.listening(), reporting_errors():
        main()


@contextmanager
def reporting_errors() -> Iterator[None]:
    """What was foreseen becomes a line on stderr, and SystemExit with the code for it."""
    try:
        yield
    except UserError as error:
        _end(2, f"error: {error}")
    except RunError as error:
        _end(1, f"stopped: {error}")
    except ModuleNotFoundError as error:
        _end(2, f"error: {error.name} is not installed; run `pip install -e .`")
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _end(1, f"stopped: {error}; nothing that was complete is lost")
    except signals.Interrupted as stop:
        _end(signals.EXIT_CODE, f"stopped by {stop}; the same command goes on")


def _end(code: int, line: str) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)
