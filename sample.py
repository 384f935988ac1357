"""`python -m ddpm_jax sample` from a checkout: its code is ddpm_jax/commands/sample.py."""

import sys

from ddpm_jax.commands import start

if __name__ == "__main__":
    start("sample", sys.argv)
