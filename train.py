"""`python -m ddpm_jax train` from a checkout: its code is ddpm_jax/commands/train.py."""

import sys

from ddpm_jax.commands import start

if __name__ == "__main__":
    start("train", sys.argv)
