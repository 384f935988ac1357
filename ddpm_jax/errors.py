"""The exceptions that end a script with one line instead of a traceback, and a common answer."""


class UserError(Exception):
    """The input is wrong: what, with its value; where; what to do. Exit code 2."""


class RunError(Exception):
    """The run cannot go on, through no fault of the command: a full disk, a diverged loss. 1."""


def how_to_install(extra: str) -> str:
    """The commands that bring what an extra of the package needs."""
    return f"`pip install 'ddpm-jax[{extra}]'`, or in a checkout `pip install -e '.[{extra}]'`"
