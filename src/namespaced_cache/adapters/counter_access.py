"""Counter access: reads, increments, creates and repairs a counter by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from namespaced_cache.adapters.adapter import Adapter
from namespaced_cache.adapters.counter_read import ABSENT, UNREAD
from namespaced_cache.adapters.parallel import ParallelReader
from namespaced_cache.keys import Key


class CounterAccess:
    """The counter client, and what is known about its library.

    With a `reader`, the client opens a connection only if the reader's fails, or to
    create or repair the counter. The methods raise the client's errors.
    """

    def __init__(
        self,
        adapter: Adapter,
        find_client: Callable[[], Any],
        reader: ParallelReader | None,
    ) -> None:
        self.adapter = adapter
        self._find_client = find_client
        self._reader = reader

    def get(self, key: Key) -> object:
        """Return the counter's value, or ABSENT: one round trip."""
        value = UNREAD if self._reader is None else self._reader.get()
        if value is UNREAD:
            value = self._find_client().get(key, ABSENT)
        return value

    def increment(self, key: Key) -> object:
        """Increment the counter, and return what the client returns: one round trip."""
        value = UNREAD if self._reader is None else self._reader.increment()
        if value is UNREAD:
            value = self._find_client().incr(key, 1)
        return value

    def create(self, key: Key, number: int) -> bool:
        """Store a counter if there is none. Tell whether it was stored."""
        return bool(self._find_client().add(key, number))

    def compare_and_swap(self, key: Key, old: object, new: int) -> None:
        """Store `new` if the counter still holds `old`: two round trips."""
        self.adapter.compare_and_swap(self._find_client(), key, old, new)
