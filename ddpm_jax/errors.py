"""The exceptions that end a script with one line instead of a traceback."""


class UserError(Exception):
    """The input is wrong: what, with its value; where; what to do. Exit code 2."""


class RunError(Exception):
    """The run cannot go on, through no fault of the command: a full disk, a diverged loss. 1."""
