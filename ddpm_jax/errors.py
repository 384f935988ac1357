"""The exceptions that end a script with one line instead of a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """The input is wrong: what, with its value; where; what to do. Exit code 2."""


class RunError(Exception):
    """The run cannot go on, through no fault of the command: a full disk, a diverged loss. 1."""


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's main function; reports what was foreseen in one line on stderr."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed; run `pip install -e .`", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"stopped: {error}; nothing that was complete is lost", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; training goes on from its last checkpoint", file=sys.stderr)
        sys.exit(130)
