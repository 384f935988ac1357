"""Checks every call of an annotated function: the shapes of arrays, and the types of all else."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

CHECKED = ["ddpm_jax.diffusion", "ddpm_jax.sampling", "ddpm_jax.models"]

# An int will do for a float, as everywhere in Python.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def install() -> None:
    """Checks modules of CHECKED that are imported from now on."""
    install_import_hook(CHECKED, "tests.type_checks.check")
