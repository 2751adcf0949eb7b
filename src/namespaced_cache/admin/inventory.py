"""Inventory: the items of namespaces on servers, and what is known of them.

An item is *live* if its generation is a counter's value. It is *dead* if its generation
is lower than a counter of the same lineage (see `core.generation`), because counters
only rise. All other items are *unclaimed*: their generation began after the counter was
read, or their counter is on a server that these settings do not name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from namespaced_cache.admin.server import Item, Server
from namespaced_cache.core import identity
from namespaced_cache.core.generation import generation_in, is_of_lineage
from namespaced_cache.keys import ParsedKey, base36, counter_key, parse

#: If the counter of a run was not used for so many seconds, the run is idle or
#: finished. The counter is not read then. A read would count as a use, and the run
#: would never become old enough to be purged.
IDLE_AFTER = 10 * 60


class State(Enum):
    """The state of an item."""

    COUNTER = "counter"
    LIVE = "live"
    DEAD = "dead"
    UNCLAIMED = "unclaimed"


@dataclass
class Amount:
    """A number of items, and the bytes of memory that they take."""

    items: int = 0
    bytes: int = 0

    def add(self, items: int, size: int) -> None:
        """Add items, and the bytes that they take together."""
        self.items += items
        self.bytes += size


@dataclass
class Namespace:
    """A namespace on some servers.

    `idle` is the number of seconds since its counter was last used, or None if there is
    no counter. `generation` is None if the counter was not read or holds no generation.
    """

    name: str
    idle: int | None = None
    generation: int | None = None
    live: Amount = field(default_factory=Amount)
    dead: Amount = field(default_factory=Amount)
    unclaimed: Amount = field(default_factory=Amount)


@dataclass(frozen=True)
class Found:
    """An item of a namespace. `generation` is None for the counter."""

    item: Item
    namespace: Namespace
    generation: int | None
    state: State


class Inventory:
    """The namespaces that were found on `servers` so far.

    `counter_servers` are the servers that may store a counter. `prefix` is the text
    that the clients put before each key.
    """

    def __init__(self, prefix: bytes = b"") -> None:
        self.servers: list[Server] = []
        self.counter_servers: list[Server] = []
        self.namespaces: dict[str, Namespace] = {}
        self._prefix = prefix
        #: For each namespace, the values of the counters that were found.
        self._counters: dict[str, set[int]] = {}
        #: For each namespace, the newest generation for which the counter was read.
        self._read_for: dict[str, int] = {}

    def counter_key(self, name: str) -> bytes:
        """Return the wire key of a namespace's counter."""
        return self._prefix + counter_key(name).encode()

    def walk(self, server: Server) -> Iterator[Found]:
        """Yield the items of namespaces on a server, and count them.

        Raises NamespaceError for a server that does not answer.
        """
        for item in server.items(self.counter_key("")):
            found = self.found(item)
            if found is None:
                continue
            if found.generation is not None:
                amount: Amount = getattr(found.namespace, found.state.value)
                amount.add(1, item.size)
            yield found

    def found(self, item: Item) -> Found | None:
        """Return what is known of an item, or None if it is not a namespace's."""
        parsed = self._parsed(item.key)
        if parsed is None:
            return None
        namespace = self.namespaces.get(parsed.namespace)
        if namespace is None:
            namespace = self._namespace(parsed.namespace)
            self.namespaces[parsed.namespace] = namespace
        state = State.COUNTER
        if parsed.generation is not None:
            state = self._state_of(namespace, parsed.generation)
        return Found(item, namespace, parsed.generation, state)

    def _parsed(self, wire_key: bytes) -> ParsedKey | None:
        key = wire_key[len(self._prefix) :]
        parsed = parse(key)
        if parsed is None or parsed.generation is None:
            return parsed
        # Other programs may have keys that look like ours. A generation has one
        # spelling only.
        spelled = f"{counter_key(parsed.namespace)}:{base36(parsed.generation)}"
        is_ours = generation_in(parsed.generation) is not None
        return parsed if is_ours and key.startswith(spelled.encode()) else None

    def _namespace(self, name: str) -> Namespace:
        key = self.counter_key(name)
        idle = [server.idle(key) for server in self.counter_servers]
        found = Namespace(name, min((i for i in idle if i is not None), default=None))
        if not identity.is_run(name) or (found.idle or 0) < IDLE_AFTER:
            self._read(found)
        return found

    def _read(self, namespace: Namespace) -> None:
        key = self.counter_key(namespace.name)
        values = [server.value(key) for server in self.counter_servers]
        numbers = [generation_in(value) for value in values if value is not None]
        counters = set(filter(None, numbers))
        newest = max(counters, default=0)
        self._counters[namespace.name] = counters
        namespace.generation = min(
            (number for number in counters if is_of_lineage(number, newest)),
            default=None,
        )

    def _value_for(self, namespace: Namespace, generation: int) -> int | None:
        """Return the value of the counter whose lineage has this generation, or None.

        If there are several, this is the lowest, so that no live item counts as dead.
        """
        counters = self._counters.get(namespace.name, set())
        return min((c for c in counters if is_of_lineage(generation, c)), default=None)

    def _state_of(self, namespace: Namespace, generation: int) -> State:
        counters = self._counters.get(namespace.name, set())
        value = self._value_for(namespace, generation)
        newest = self._read_for.get(namespace.name, 0)
        if counters and value is None and generation > newest:
            # The generation began after the counter was read, or its counter is on
            # another server.
            self._read_for[namespace.name] = generation
            self._read(namespace)
            self._end_live(namespace, counters)
            value = self._value_for(namespace, generation)
        if value is None:
            return State.UNCLAIMED
        return State.LIVE if generation == value else State.DEAD

    def _end_live(self, namespace: Namespace, earlier: set[int]) -> None:
        """Count what was live as dead if counters rose, or unclaimed if one is gone."""
        if self._counters[namespace.name] != earlier:
            rose = all(self._value_for(namespace, number) for number in earlier)
            amount = namespace.dead if rose else namespace.unclaimed
            amount.add(namespace.live.items, namespace.live.bytes)
            namespace.live = Amount()
