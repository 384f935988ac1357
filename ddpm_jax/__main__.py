"""The commands of an installed package: `python -m ddpm_jax train`, `... sample`, ..."""

import sys

from ddpm_jax.commands import COMMANDS, start
from ddpm_jax.errors import suggestion

PROGRAM = "python -m ddpm_jax"


def main() -> None:
    name, options = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name in COMMANDS:
        start(name, [f"{PROGRAM} {name}", *options])
    elif name in ("", "-h", "--help"):
        print(f"{PROGRAM} COMMAND [--help | OPTIONS]\n")
        print("\n".join(f"  {each:<15} {command.about}" for each, command in COMMANDS.items()))
        sys.exit(0 if name else 2)
    else:
        print(f"error: {name}: {suggestion(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
