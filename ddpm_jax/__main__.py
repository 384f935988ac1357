"""The commands of an installed package: `python -m ddpm_jax train`, `... sample`, ..."""

import difflib
import sys

from ddpm_jax.commands import COMMANDS, start

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
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        print(f"error: {name}: {hint}there are: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
