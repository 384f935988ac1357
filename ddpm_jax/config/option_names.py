"""From the arguments that library code speaks of to the options of a command line."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ddpm_jax.errors import UserError


@contextmanager
def naming_options(
    options: type, renamed: Mapping[str, str] | None = None, prefix: str = "--"
) -> Iterator[None]:
    """Errors raised in the block name options: `--eta 2` instead of `eta=2`.

    Every field of the dataclass `options` is replaced by its option, and every key of `renamed` by
    its value, as in {"guidance_scale": "--scales"}.
    """
    names = [field.name for field in dataclasses.fields(options)]
    known = {name: f"{prefix}{name.replace('_', '-')}" for name in names} | dict(renamed or {})
    try:
        yield
    except UserError as error:
        pattern = rf"\b({'|'.join(known)})="
        raise UserError(re.sub(pattern, lambda name: f"{known[name[1]]} ", str(error))) from error
