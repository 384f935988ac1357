"""The difference between the weights in a file and those of a network."""

from collections.abc import Mapping

from ddpm_jax.errors import UserError

SHOWN = 3  # names of each kind


def check_names_and_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises UserError with the first missing, unexpected and mis-shaped names, if any."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshaped = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    differ = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)})"
        for kind, names in differ.items()
        if names
    ]
    if parts:
        raise UserError(f"the weights are of another model: {'; '.join(parts)}")
