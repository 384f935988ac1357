"""The exceptions that end a script with one line instead of a traceback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ddpm_jax import interrupt


class UserError(Exception):
    """The input is wrong: what, with its value; where; what to do. Exit code 2."""


class RunError(Exception):
    """The run cannot go on, through no fault of the command: a full disk, a diverged loss. 1."""


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's main function; reports what was foreseen in one line on stderr."""
    with interrupt.listening(), told():
        main()


@contextmanager
def told() -> Iterator[None]:
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
    except interrupt.Interrupted as stop:
        _end(interrupt.EXIT_CODE, f"stopped by {stop}; the same command goes on")


def _end(code: int, line: str) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)
