"""Stored items: reads and stores many items of a namespace, as memcached holds them.

Test runs store again what set-up has cached. The client itself is needed only if this
package can have no connection of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from namespaced_cache.adapters.adapter import NoConnectionError
from namespaced_cache.adapters.raw_items import (
    LONGEST_RELATIVE,
    UNKNOWN,
    RawItem,
    RawItems,
    expiry,
)
from namespaced_cache.core import clock
from namespaced_cache.core.binding import Binding
from namespaced_cache.core.counter import Counter
from namespaced_cache.core.generation import generation_in
from namespaced_cache.errors import NamespaceUnavailable
from namespaced_cache.keys import Key

_log = logging.getLogger(__name__)

#: How often items are read, if other processes invalidate the namespace meanwhile.
_MAX_READS = 10


class Expiry(NamedTuple):
    """When an item expires: the expiry that a command gave it, and at which moment."""

    seconds: int
    noted_at: float

    def left(self) -> int | None:
        """Return the seconds until then, or None for never."""
        if not self.seconds:
            return None
        if self.seconds > LONGEST_RELATIVE:
            return int(self.seconds - clock.wall())
        return int(self.seconds - (clock.monotonic() - self.noted_at))


@dataclass(frozen=True)
class ClientsItem:
    """An item that was read through the client.

    `timeout` is the number of seconds until it expires, or None for never.
    """

    value: Any
    timeout: int | None


Item = RawItem | ClientsItem


class StoredItems:
    """Reads and stores items of the namespace of a binding.

    Keys are the caller's, with production's prefix and version.
    """

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._raw: RawItems | None = None
        try:
            servers = binding.adapter.raw_servers(binding.client, binding.server)
            self._raw = RawItems(servers)
        except NoConnectionError as reason:
            self._give_up(reason)

    def read(self, expiries: Mapping[Key, Expiry]) -> dict[Key, Item]:
        """Return those of these items that exist in the generation on the server.

        One round trip for each server. Through the client, there are two more. Raises
        the client's errors, and NamespaceUnavailable.
        """
        if self._raw is not None:
            try:
                return self._read_raw(self._raw, expiries)
            except (OSError, ValueError, NoConnectionError) as reason:
                self._give_up(reason)
        return self._read_through_client(expiries)

    def write(self, items: Mapping[Key, Item], generation: int) -> None:
        """Store items in a generation: one round trip for each server.

        There is one for each 1,000 items. Through the client, there is one for each
        timeout. Raises NamespaceUnavailable if an item cannot be stored.
        """
        wire_keys = self._binding.keys(generation).wire_keys(list(items))
        raw: dict[Key, RawItem] = {}
        others: dict[int, dict[Key, Any]] = {}
        for key, item in zip(wire_keys, items.values(), strict=True):
            if isinstance(item, RawItem):
                raw[key] = item
            else:
                others.setdefault(expiry(item.timeout), {})[key] = item.value
        if raw:
            self._write_raw(raw)
        for seconds, values in others.items():
            self._write_through_client(values, seconds)

    def close(self) -> None:
        """Close the connections, if it has its own."""
        if self._raw is not None:
            self._raw.close()

    def _read_raw(
        self, raw: RawItems, expiries: Mapping[Key, Expiry]
    ) -> dict[Key, Item]:
        counter = self._binding.counter
        generation = counter.latest
        for _ in range(_MAX_READS):
            keys = self._callers_keys(expiries, generation)
            found, value = raw.read(list(keys), counter.key)
            if generation_in(value) == generation:
                return {
                    keys[wire_key]: _with_timeout(item, expiries[keys[wire_key]])
                    for wire_key, item in found.items()
                }
            latest = self._binding.ask_counter(Counter.current)
            if latest == generation:
                # The client itself has another server or key than its options say, or
                # a serializer of its own.
                raise ValueError(f"the counter is {value!r} for it")
            generation = latest
        raise self._moving()

    def _read_through_client(self, expiries: Mapping[Key, Expiry]) -> dict[Key, Item]:
        binding = self._binding
        generation = binding.ask_counter(Counter.current)
        for _ in range(_MAX_READS):
            keys = self._callers_keys(expiries, generation)
            found = binding.client.get_multi(list(keys))
            latest = binding.ask_counter(Counter.current)
            if latest == generation:
                return {
                    keys[wire_key]: ClientsItem(
                        value, _lasting(expiries[keys[wire_key]].left())
                    )
                    for wire_key, value in found.items()
                }
            generation = latest
        raise self._moving()

    def _write_raw(self, items: Mapping[Key, RawItem]) -> None:
        try:
            self._raw_items().write(items)
        except (OSError, ValueError, NoConnectionError) as error:
            raise self._not_stored(error) from error

    def _write_through_client(self, values: Mapping[Key, Any], seconds: int) -> None:
        try:
            failed = self._binding.client.set_multi(values, seconds)
        except Exception as error:
            raise self._not_stored(error) from error
        if failed:
            raise self._not_stored(f"{len(failed)} were refused")

    def _raw_items(self) -> RawItems:
        if self._raw is None:
            raise NoConnectionError("no connection is possible")
        return self._raw

    def _callers_keys(
        self, callers_keys: Iterable[Key], generation: int
    ) -> dict[Key, Key]:
        keys = list(callers_keys)
        wire_keys = self._binding.keys(generation).wire_keys(keys)
        return dict(zip(wire_keys, keys, strict=True))

    def _give_up(self, reason: Exception) -> None:
        self.close()
        self._raw = None
        _log.debug(
            "Namespace %r: what set-up caches is read and stored by the client: %s",
            self._binding.counter.namespace,
            reason,
        )

    def _not_stored(self, reason: object) -> NamespaceUnavailable:
        return self._binding.counter.unavailable(
            f"what set-up cached cannot be stored again ({reason})"
        )

    def _moving(self) -> NamespaceUnavailable:
        return self._binding.counter.unavailable(
            f"invalidated {_MAX_READS} times while items were read"
        )


def _with_timeout(item: RawItem, noted: Expiry) -> RawItem:
    """Return an item that can be stored: its timeout is known, or is a moment."""
    if item.timeout == UNKNOWN:
        return replace(item, timeout=_lasting(noted.left()))
    return replace(item, timeout=_lasting(item.timeout))


def _lasting(timeout: int | None) -> int | None:
    """Return a timeout that memcached does not take for a moment."""
    if timeout is None or timeout <= LONGEST_RELATIVE:
        return timeout
    return timeout + int(clock.wall())
