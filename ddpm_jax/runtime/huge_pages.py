"""Huge pages for the memory that XLA's programs on CPU pass through."""

import os
import sys
from pathlib import Path

VARIABLE, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask() -> None:
    """Starts this script anew, once, with an allocator that asks Linux for huge pages.

    XLA allocates the scratch memory of a program at each call, hundreds of MB, and the kernel
    zeroes it: in pages of 2 MB rather than 4 kB, a training step is 1.06 to 1.15 times as fast.
    glibc reads this setting where a process starts, and nowhere else. Nothing happens in a process
    that `python SCRIPT ...` did not start, as a notebook or a debugger.
    """
    options = sys.orig_argv[1 : -len(sys.argv)]
    plain = all(option.startswith("-") and option != "-m" for option in options)
    if plain and sys.orig_argv[-len(sys.argv) :] == sys.argv and (value := setting()):
        os.environ[VARIABLE] = value
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def setting() -> str:
    """GLIBC_TUNABLES for a process with huge pages, "" if it is to stay as it is.

    That is where somebody has set huge pages on or off, and where Linux does not leave the choice
    to the program (its mode is not `madvise`).
    """
    tunables = os.environ.get(VARIABLE, "")
    try:
        mode = MODE.read_text()
    except OSError:  # no Linux, or a container that hides it
        return ""
    if HUGE_PAGES in tunables or "[madvise]" not in mode:
        return ""
    return ":".join(filter(None, (tunables, f"{HUGE_PAGES}=1")))
