"""The requests of each visitor: at most one of a kind at a time, which a button stops."""

import threading
from collections.abc import Hashable


class Requests:
    """Requests by a key, such as the visitor's session and the tab."""

    def __init__(self) -> None:
        self._stops: dict[Hashable, threading.Event] = {}
        self._waiting: set[Hashable] = set()

    def wait(self, key: Hashable) -> None:
        """A request was made; it may have to wait for others."""
        self._stops[key] = threading.Event()
        self._waiting.add(key)

    def begin(self, key: Hashable) -> threading.Event:
        """Its turn has come: what stops it, perhaps set already."""
        self._waiting.discard(key)
        return self._stops.setdefault(key, threading.Event())

    def stop(self, key: Hashable) -> None:
        """Stops the request, if there is one."""
        if key in self._stops:
            self._stops[key].set()

    def end(self, key: Hashable) -> bool:
        """Forgets the request; returns whether its turn had come."""
        began = key not in self._waiting
        self._waiting.discard(key)
        self._stops.pop(key, None)
        return began

    def stop_all(self) -> None:
        """Stops every request."""
        for event in list(self._stops.values()):
            event.set()
