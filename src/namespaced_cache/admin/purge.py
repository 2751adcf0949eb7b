"""Purge: deletes the items that cannot be returned to any process any more.

These are the items of dead generations, and the leftovers of finished runs. Both must
have been out of use for some time, because a block with a pinned generation, or a
process with a MAX_STALENESS, uses items without reading the counter. A run is finished
if it has a counter here, and neither the counter nor any item was used for that time.

Right before items are deleted, the server is asked for their last use again. If an item
was used since the walk, all of its generation, or its run, is kept. The counters of a
finished run are deleted before its items, so a process of the run that wakes up in the
middle starts a new generation, and does not find one half of its items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from namespaced_cache.admin.inventory import Amount, Found, Inventory, State
from namespaced_cache.admin.server import Items
from namespaced_cache.core import identity
from namespaced_cache.keys import has_name

#: The number of items that are deleted in one round trip.
_BATCH = 1000

#: The name of a namespace and one of its generations. None stands for all of them.
Unit = tuple[str, int | None]


class Purge:
    """A purge of the servers of an inventory.

    A unit is out of use if nothing used its items for `older_than` seconds. `freed` is
    what was deleted, by the names of the namespaces; with `dry_run`, what would be.
    `on_item` is called for each item that a walk yields.
    """

    def __init__(
        self,
        inventory: Inventory,
        older_than: int,
        *,
        dry_run: bool,
        on_item: Callable[[], object],
    ) -> None:
        self.freed: dict[str, Amount] = {}
        self._inventory = inventory
        self._older_than = older_than
        self._dry_run = dry_run
        self._on_item = on_item
        #: For each unit, the seconds since its last use.
        self._idle: dict[Unit, int] = {}
        #: The runs whose counters were deleted.
        self._finished: set[str] = set()

    def run(self) -> None:
        """Walk over the servers, and delete.

        Raises NamespaceError for a server that does not answer.
        """
        inventory = self._inventory
        walks = [
            server.items(inventory.counter_key("")) for server in inventory.servers
        ]
        for walk in walks:
            for found in self._found(walk):
                self._on_item()
                self._note_use(found, found.item.idle)
        for walk in walks:
            garbage = filter(self._is_garbage, self._found(walk))
            while batch := list(islice(garbage, _BATCH)):
                self._delete(walk, batch)

    def _found(self, walk: Items) -> Iterator[Found]:
        return filter(None, map(self._inventory.found, walk))

    def _note_use(self, found: Found, idle: int) -> None:
        namespace = found.namespace
        # Its counter may be on another server.
        self._note_idle((namespace.name, None), namespace.last_seen)
        self._note_idle((namespace.name, None), idle)
        if found.generation is not None:
            self._note_idle((namespace.name, found.generation), idle)

    def _note_idle(self, unit: Unit, idle: int) -> None:
        self._idle[unit] = min(idle, self._idle.get(unit, idle))

    def _is_out_of_use(self, unit: Unit) -> bool:
        return self._idle[unit] >= self._older_than

    def _is_garbage(self, found: Found) -> bool:
        if not has_name(found.item.key):
            return False
        name = found.namespace.name
        # Without a counter here, nothing tells whether the run is finished: its counter
        # may be on a server that these settings do not name.
        has_counter = name in self._inventory.with_counter
        if identity.is_run(name) and has_counter and self._is_out_of_use((name, None)):
            return True
        is_dead = found.state is State.DEAD
        return is_dead and self._is_out_of_use((name, found.generation))

    def _delete(self, walk: Items, batch: list[Found]) -> None:
        """Delete what is still garbage: two round trips, and a few for each run."""
        states = walk.server.states([found.item.key for found in batch])
        for found, state in zip(batch, states, strict=True):
            if state is not None:
                self._note_use(found, state.idle)
        if not self._dry_run:
            for name in {found.namespace.name for found in batch}:
                self._finish(name)
        chosen = [
            (found, state)
            for found, state in zip(batch, states, strict=True)
            if state is not None and self._is_garbage(found)
        ]
        if not self._dry_run:
            walk.server.delete((found.item.key, state.cas) for found, state in chosen)
        for found, _ in chosen:
            amount = self.freed.setdefault(found.namespace.name, Amount())
            amount.add(1, found.item.size)

    def _finish(self, name: str) -> None:
        """Delete the counters of a run, unless the run is in use again."""
        if name in self._finished or not identity.is_run(name):
            return
        key = self._inventory.counter_key(name)
        counters = []
        for server in self._inventory.counter_servers:
            (state,) = server.states([key])
            if state is not None:
                self._note_idle((name, None), state.idle)
                counters.append((server, state.cas))
        if self._is_out_of_use((name, None)):
            for server, cas in counters:
                server.delete([(key, cas)])
            self._finished.add(name)
