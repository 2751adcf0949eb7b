"""Counter access: reads, increments, creates and repairs a counter by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from namespaced_cache.adapters.adapter import Adapter
from namespaced_cache.adapters.counter_read import ABSENT, UNREAD
from namespaced_cache.adapters.parallel import ParallelReader
from namespaced_cache.keys import Key


class CounterAccess:
    """Asks for the counter by the counter client, or by a reader's connection.

    A `reader` is asked once it is verified. Then the client is needed only if the
    reader fails, or to create or repair the counter. Its connection is closed after
    that, so it never fails because it was idle for long. The methods raise the client's
    errors.
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
        reader = self._reader
        if reader is not None and reader.is_verified:
            value = reader.get()
            if value is not UNREAD:
                return value
        with self._client() as client:
            if reader is None:
                return client.get(key, ABSENT)
            return reader.compare(lambda: client.get(key, ABSENT))

    def increment(self, key: Key) -> object:
        """Increment the counter, and return what the client returns: one round trip."""
        if self._reader is not None and self._reader.is_verified:
            value = self._reader.increment()
            if value is not UNREAD:
                return value
        with self._client() as client:
            return client.incr(key, 1)

    def create(self, key: Key, number: int) -> bool:
        """Store a counter if there is none. Tell whether it was stored."""
        with self._client() as client:
            return bool(client.add(key, number))

    def compare_and_swap(self, key: Key, old: object, new: int) -> None:
        """Store `new` if the counter still holds `old`: two round trips."""
        with self._client() as client:
            self.adapter.compare_and_swap(client, key, old, new)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """Lend the client."""
        client = self._find_client()
        try:
            yield client
        finally:
            if self._reader is not None and self._reader.is_verified:
                self.adapter.disconnect(client)
