"""Inventory: the items of namespaces on servers, and which of them are garbage.

A generation that is lower than its counter is dead, because counters only rise. If the
counter of a run was not used for long enough, the items of the run are leftovers. No
other run ever has its name. All other items are kept. A generation above the counter
began after the counter was read. A namespace without a counter here may have one on a
server that these settings do not name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from namespaced_cache.admin.server import Item, Server
from namespaced_cache.core import identity
from namespaced_cache.core.generation import generation_in
from namespaced_cache.keys import counter_key, parse

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
    """An item of a namespace."""

    item: Item
    namespace: Namespace
    state: State

    def is_garbage(self, older_than: int) -> bool:
        """Tell whether the item is in a dead generation, or a leftover of a run.

        A run counts as finished if it was not used for `older_than` seconds.
        """
        if self.state is State.DEAD:
            return True
        idle = self.item.idle if self.namespace.idle is None else self.namespace.idle
        return identity.is_run(self.namespace.name) and idle >= older_than


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
            parsed = parse(item.key[len(self._prefix) :])
            if parsed is None:
                continue
            namespace = self.namespaces.get(parsed.namespace)
            if namespace is None:
                namespace = self._namespace(parsed.namespace)
                self.namespaces[parsed.namespace] = namespace
            state = State.COUNTER
            if parsed.generation is not None:
                state = self._state_of(namespace, parsed.generation)
                amount: Amount = getattr(namespace, state.value)
                amount.add(1, item.size)
            yield Found(item, namespace, state)

    def _namespace(self, name: str) -> Namespace:
        key = self.counter_key(name)
        idle = [server.idle(key) for server in self.counter_servers]
        found = Namespace(name, min((i for i in idle if i is not None), default=None))
        if not identity.is_run(name) or (found.idle or 0) < IDLE_AFTER:
            found.generation = self._read(name)
        return found

    def _read(self, name: str) -> int | None:
        key = self.counter_key(name)
        values = [server.value(key) for server in self.counter_servers]
        numbers = [generation_in(value) for value in values if value is not None]
        # If there are several counters, the lowest is used, so that no live item counts
        # as dead.
        return min((n or 0 for n in numbers), default=0) or None

    def _state_of(self, namespace: Namespace, generation: int) -> State:
        live = namespace.generation
        if live is not None and generation > live:
            # The generation began after the counter was read, or its counter is on
            # another server.
            if generation > self._read_for.get(namespace.name, 0):
                self._read_for[namespace.name] = generation
                namespace.generation = self._read(namespace.name)
            if namespace.generation not in (live, None):
                namespace.dead.add(namespace.live.items, namespace.live.bytes)
                namespace.live = Amount()
            live = namespace.generation
        if live is None or generation > live:
            return State.UNCLAIMED
        return State.LIVE if generation == live else State.DEAD
