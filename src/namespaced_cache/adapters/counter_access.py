"""Counter access: reads, increments, creates and repairs a counter by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from namespaced_cache.adapters.adapter import Adapter
from namespaced_cache.adapters.counter_read import ABSENT, UNREAD
from namespaced_cache.adapters.parallel import ParallelReader
from namespaced_cache.keys import Key


class CounterAccess:
    """Asks for the counter by the counter client, or by a reader's connection.

    A `reader` is asked once it is verified. From then on, the client opens a connection
    only if the reader's fails, or to create or repair the counter. The methods raise
    the client's errors.
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
        #: How many connections the reader had opened when the client was last used.
        self._opened = 0

    def get(self, key: Key) -> object:
        """Return the counter's value, or ABSENT: one round trip."""
        value = UNREAD
        if self._reader is not None and self._reader.is_verified:
            value = self._reader.get()
        return self._client().get(key, ABSENT) if value is UNREAD else value

    def increment(self, key: Key) -> object:
        """Increment the counter, and return what the client returns: one round trip."""
        value = UNREAD
        if self._reader is not None and self._reader.is_verified:
            value = self._reader.increment()
        return self._client().incr(key, 1) if value is UNREAD else value

    def create(self, key: Key, number: int) -> bool:
        """Store a counter if there is none. Tell whether it was stored."""
        return bool(self._client(anew=True).add(key, number))

    def compare_and_swap(self, key: Key, old: object, new: int) -> None:
        """Store `new` if the counter still holds `old`: two round trips."""
        client = self._client(anew=True)
        self.adapter.compare_and_swap(client, key, old, new)

    def _client(self, *, anew: bool = False) -> Any:
        """Return the client. It connects anew if it may have been idle for long."""
        client, reader = self._find_client(), self._reader
        if reader is not None and (anew or self._opened != reader.opened):
            self._opened = reader.opened
            self.adapter.disconnect(client)
        return client
