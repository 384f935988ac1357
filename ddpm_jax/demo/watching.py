"""Work in a thread of its own: it shows its chains while they run, and stops when it is told to."""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

from ddpm_jax.generation.chain import Moment, OnMoment
from ddpm_jax.generation.generator import OnProgress

T = TypeVar("T")


class Stopped(Exception):
    """The work was told to stop."""


class _Failed(NamedTuple):
    error: BaseException


def watched(
    work: Callable[[OnMoment, OnProgress], T], stop: threading.Event
) -> Iterator[Moment | T]:
    """Yields the moments of `work(on_moment, on_progress)` as they come, and last what it returns.

    The work ends at its next slice of a chain once `stop` is set, and once the iterator is closed.
    It then raises Stopped here. What the work itself raises is raised here too.
    """
    shown = SimpleQueue[Moment | T | _Failed]()

    def on_progress(_: float) -> None:
        if stop.is_set():
            raise Stopped

    def on_moment(moment: Moment) -> None:
        on_progress(0)
        shown.put(moment)

    def run() -> None:
        try:
            on_progress(0)
            shown.put(work(on_moment, on_progress))
        except BaseException as error:  # a signal's too, which the consumer lets pass
            shown.put(_Failed(error))

    thread = threading.Thread(target=run, name="chain", daemon=True)
    thread.start()
    try:
        while True:
            latest = shown.get()
            if isinstance(latest, _Failed):
                raise latest.error
            if not isinstance(latest, Moment):
                yield latest
                return
            if not stop.is_set():  # moments that nobody has seen yet are past
                yield latest
    finally:
        stop.set()
        thread.join()
