"""The exceptions that end a script with one line instead of a traceback, and common answers."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The input is wrong: what, with its value; where; what to do. Exit code 2."""


class RunError(Exception):
    """The run cannot go on, through no fault of the command: a full disk, a diverged loss. 1."""


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is nearly `word`, alike by `cutoff` (0 to 1), if there is one."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def suggestion(word: str, known: Iterable[str]) -> str:
    """For an unknown name: the closest known one, if any is close, and all."""
    close = closest(word, known := list(known))
    return f"{f'did you mean {close}? ' if close else ''}there are: {', '.join(known)}"


def how_to_install(extra: str) -> str:
    """The commands that bring what an extra of the package needs."""
    return f"`pip install 'ddpm-jax[{extra}]'`, or in a checkout `pip install -e '.[{extra}]'`"
