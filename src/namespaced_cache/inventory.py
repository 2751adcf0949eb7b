"""Inventory: what namespaces hold on servers, and what of it nobody will ask for again.

A generation is dead once it is below its counter, for counters only rise. A run's
namespace is left over when nobody has looked at its counter for long enough; no other
run ever has its name. Nothing else is taken for garbage: what is above the counter has
begun since it was read, and what has no counter here may have it on a server that these
settings do not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from namespaced_cache import identity
from namespaced_cache.generation import generation_in
from namespaced_cache.keys import counter_key, parse
from namespaced_cache.server import Item, Server

#: A run that was not used for as many seconds is taken to rest, or to be over. Its
#: counter is not read, for that would be a use, and it would never grow old.
RESTS_AFTER = 10 * 60


class State(Enum):
    """What is known of an item."""

    COUNTER = "counter"
    LIVE = "live"
    DEAD = "dead"
    UNCLAIMED = "unclaimed"


@dataclass
class Amount:
    """So many items, and the bytes of memory that they take."""

    items: int = 0
    bytes: int = 0

    def add(self, items: int, size: int) -> None:
        """Add items of this size together."""
        self.items += items
        self.bytes += size


@dataclass
class Namespace:
    """A namespace on some servers.

    `idle` is for how many seconds its counter was not used, None where there is none;
    `generation` is None where the counter was not read or holds no generation.
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
        """Tell whether nobody will ask for it again.

        A run is over that was not used for `older_than` seconds.
        """
        if self.state is State.DEAD:
            return True
        idle = self.item.idle if self.namespace.idle is None else self.namespace.idle
        return identity.is_run(self.namespace.name) and idle >= older_than


class Inventory:
    """The namespaces on `servers`, as far as they were walked over.

    `keepers` are the servers on which a counter may be. `prefix` is what the clients
    put before each key.
    """

    def __init__(self, prefix: bytes = b"") -> None:
        self.servers: list[Server] = []
        self.keepers: list[Server] = []
        self.namespaces: dict[str, Namespace] = {}
        self._prefix = prefix
        #: The newest generation of each for which its counter was read.
        self._read_for: dict[str, int] = {}

    def counter_key(self, name: str) -> bytes:
        """Return the key of a namespace's counter, as servers have it."""
        return self._prefix + counter_key(name).encode()

    def walk(self, server: Server) -> Iterator[Found]:
        """Walk over a server's items that are of namespaces, and count them.

        Raises NamespaceError for a server that gives no answer.
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
                state = self._judge(namespace, parsed.generation)
                amount: Amount = getattr(namespace, state.value)
                amount.add(1, item.size)
            yield Found(item, namespace, state)

    def _namespace(self, name: str) -> Namespace:
        key = self.counter_key(name)
        idle = [server.idle(key) for server in self.keepers]
        found = Namespace(name, min((i for i in idle if i is not None), default=None))
        if not identity.is_run(name) or (found.idle or 0) < RESTS_AFTER:
            found.generation = self._read(name)
        return found

    def _read(self, name: str) -> int | None:
        key = self.counter_key(name)
        values = [server.value(key) for server in self.keepers]
        numbers = [generation_in(value) for value in values if value is not None]
        # Of several, whoever has made them, the lowest: it leaves most alive.
        return min((n or 0 for n in numbers), default=0) or None

    def _judge(self, namespace: Namespace, generation: int) -> State:
        known = namespace.generation
        if known is not None and generation > known:
            # It has begun since, or is of a counter that is not here.
            if generation > self._read_for.get(namespace.name, 0):
                self._read_for[namespace.name] = generation
                namespace.generation = self._read(namespace.name)
            if namespace.generation not in (known, None):
                namespace.dead.add(namespace.live.items, namespace.live.bytes)
                namespace.live = Amount()
            known = namespace.generation
        if known is None or generation > known:
            return State.UNCLAIMED
        return State.LIVE if generation == known else State.DEAD
