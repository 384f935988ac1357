"""The requests of each visitor: at most one of a kind at a time, which a button stops."""

import threading
from collections.abc import Hashable

from ddpm_jax.errors import UserError


class Requests:
    """Requests by a key, such as the visitor's session and the tab; `limit` of them may wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stops: dict[Hashable, threading.Event] = {}
        self._waiting: set[Hashable] = set()

    def wait(self, key: Hashable) -> None:
        """A request is made, and waits for its turn; raises UserError if too many do."""
        if len(self._waiting) >= self._limit:
            raise UserError(f"{self._limit} requests are waiting already: try again in a while")
        self._stops[key] = threading.Event()
        self._waiting.add(key)

    def begin(self, key: Hashable) -> threading.Event:
        """Its turn has come: returns what stops it, set already if nobody wants it any more."""
        self._waiting.discard(key)
        left = threading.Event()
        left.set()
        return self._stops.get(key, left)

    def stop(self, key: Hashable) -> None:
        """Stops the request, if there is one."""
        if key in self._stops:
            self._stops[key].set()

    def end(self, key: Hashable) -> None:
        """Stops the request and forgets it."""
        self.stop(key)
        self._waiting.discard(key)
        self._stops.pop(key, None)
