"""`python -m ddpm_jax evaluate` from a checkout: its code is ddpm_jax/commands/evaluate.py."""

import sys

from ddpm_jax.commands import start

if __name__ == "__main__":
    start("evaluate", sys.argv)
