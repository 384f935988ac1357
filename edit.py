"""`python -m ddpm_jax edit` from a checkout: its code is ddpm_jax/commands/edit.py."""

import sys

from ddpm_jax.commands import start

if __name__ == "__main__":
    start("edit", sys.argv)
