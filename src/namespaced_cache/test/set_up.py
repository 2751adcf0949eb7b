"""What set-up caches: it is noted while set-up runs, and stored again before each test.

Set-up is what runs once for several tests, such as `setUpModule()`, `setUpClass()`,
`setUpTestData()`, and pytest's fixtures of a wider scope than "function". For the
database, Django's TestCase does the same: a test finds what `setUpTestData()` created.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from namespaced_cache.adapters.raw_items import RawItem
from namespaced_cache.backend import NamespacedCache
from namespaced_cache.core import clock
from namespaced_cache.core.binding import Binding
from namespaced_cache.core.counter import Counter
from namespaced_cache.core.operation import Operation
from namespaced_cache.core.stored_items import Expiry, Item, StoredItems
from namespaced_cache.core.watching import unwatch, watch
from namespaced_cache.errors import NamespaceUnavailable
from namespaced_cache.keys import Key

#: If a set-up caches more, its tests had better share it.
_MANY_ITEMS = 10_000
_MANY_BYTES = 64 * 1024 * 1024


class _Store(NamedTuple):
    """Where items are. Aliases with the same servers and namespace are one store."""

    counter: Counter
    #: How clients find the server of a key, if there are several.
    placement: Hashable


def _store_of(binding: Binding) -> _Store:
    if len(binding.server.all_locations) == 1:
        return _Store(binding.counter, None)
    placement = type(binding.adapter), repr(binding.server)
    return _Store(binding.counter, placement)


@dataclass
class _Recording:
    """A set-up that is running, and the keys that it has changed so far."""

    owner: Hashable
    name: str
    #: The generations at its begin, of the namespaces in which items were stored again.
    generations: dict[Counter, int]
    #: None if the command has left the item's expiry as it was.
    keys: dict[Counter, dict[Key, Expiry | None]] = field(default_factory=dict)


@dataclass
class _Changes:
    """What a set-up has changed: items, and namespaces that it has invalidated.

    The item is None for a key that it has left without an item.
    """

    name: str
    emptied: set[Counter]
    items: dict[_Store, dict[Key, Item | None]] = field(default_factory=dict)
    error: Exception | None = None


class SetUps:
    """The set-ups that are in force, and what they have changed.

    `find_caches` returns the backends of the isolated aliases. `warn` warns, and never
    raises. Each set-up has an owner, such as a class or a fixture. A set-up may run
    while another does.
    """

    def __init__(
        self,
        find_caches: Callable[[], Iterable[NamespacedCache]],
        warn: Callable[[str], object],
    ) -> None:
        self._find_caches = find_caches
        self._warn = warn
        #: The set-ups that are running, the innermost last.
        self._running: list[_Recording] = []
        #: The changes of set-ups that have ended, the latest last.
        self._changes: dict[Hashable, _Changes] = {}
        #: What all changes result in.
        self._items: dict[_Store, dict[Key, Item]] = {}
        self._opened: dict[_Store, tuple[Binding, StoredItems]] = {}

    def begin(self, owner: Hashable, name: str) -> None:
        """Note what is cached from now on, for this owner. No round trip."""
        if not self._running:
            watch(self._note)
        generations = {store.counter: store.counter.latest for store in self._items}
        self._running.append(_Recording(owner, name, generations))

    def end(self) -> None:
        """End the set-up that began last, and read what it has cached.

        One round trip for each server, or none if it has cached nothing. An error is
        raised by `restore`, while the set-up is in force.
        """
        ended = self._running.pop()
        if not self._running:
            unwatch(self._note)
        changes = _Changes(
            ended.name,
            {
                counter
                for counter, at in ended.generations.items()
                if at != counter.latest
            },
        )
        try:
            for binding in self._bindings_of(ended.keys):
                changes.items[_store_of(binding)] = self._read(binding, ended)
        except Exception as error:  # noqa: BLE001  # raised later
            changes.error = error
        self._changes.pop(ended.owner, None)
        if changes.items or changes.emptied or changes.error:
            self._changes[ended.owner] = changes
            self._warn_if_large(changes)
        self._combine()

    def end_all(self) -> None:
        """End each set-up that is running: see `end`."""
        while self._running:
            self.end()

    def cancel(self) -> None:
        """Forget the set-ups that are running. No round trip."""
        if self._running:
            self._running.clear()
            unwatch(self._note)

    def forget(self, owner: Hashable) -> bool:
        """Take the changes of a set-up back. Tell whether there were any.

        The next `restore` stores what the others have cached. No round trip.
        """
        if self._changes.pop(owner, None) is None:
            return False
        self._combine()
        return True

    def restore(
        self, caches: Iterable[NamespacedCache], generations: Mapping[Counter, int]
    ) -> None:
        """Store what set-up has cached, in new generations of its namespaces.

        One round trip for each server, or none if there is nothing to store. Raises
        NamespaceUnavailable if it cannot be stored, or could not be read.
        """
        for recording in self._running:
            for counter in recording.generations.keys() & generations:
                recording.generations[counter] = generations[counter]
        for changes in self._changes.values():
            if changes.error is not None:
                raise NamespaceUnavailable(
                    f"What {changes.name} has cached cannot be read: {changes.error}"
                ) from changes.error
        if not self._items:
            return
        done = set()
        for binding in map(_binding_of, caches):
            store = _store_of(binding)
            items = self._items.get(store)
            if items and store.counter in generations and store not in done:
                done.add(store)
                self._stored(binding).write(items, generations[store.counter])

    def close(self) -> None:
        """Forget everything, and close the connections."""
        self.cancel()
        self._changes.clear()
        self._items.clear()
        while self._opened:
            _, (_, stored) = self._opened.popitem()
            stored.close()

    def _note(self, operation: Operation, binding: Binding, answer: object) -> None:
        if not operation.changes_items:
            return
        seconds = operation.expiry
        expiry = None
        if isinstance(seconds, int) and answer is not False:
            expiry = Expiry(seconds, clock.monotonic())
        for recording in self._running[-1:]:
            noted = recording.keys.setdefault(binding.counter, {})
            for key in operation.keys:
                noted[key] = expiry or noted.get(key)

    def _bindings_of(self, counters: Iterable[Counter]) -> Iterable[Binding]:
        """Return one binding for each store of these counters."""
        found: dict[_Store, Binding] = {}
        if counters:
            for binding in map(_binding_of, self._find_caches()):
                # If the server was never reached, nothing is there.
                if binding.counter in counters and binding.counter.was_reached:
                    found.setdefault(_store_of(binding), binding)
        return found.values()

    def _read(self, binding: Binding, ended: _Recording) -> dict[Key, Item | None]:
        stored = self._stored(binding)
        before = self._items.get(_store_of(binding), {})
        expiries: dict[Key, Expiry] = {}
        for used, noted in ended.keys[binding.counter].items():
            key = stored.same(used)
            expiries[key] = noted or expiries.get(key) or _expiry_of(before.get(key))
        found = stored.read(expiries)
        return {key: found.get(key) for key in expiries}

    def _stored(self, binding: Binding) -> StoredItems:
        store = _store_of(binding)
        opened, stored = self._opened.get(store, (None, None))
        if stored is None or opened is not binding:
            if stored is not None:
                stored.close()
            stored = StoredItems(binding)
            self._opened[store] = binding, stored
        return stored

    def _combine(self) -> None:
        items: dict[_Store, dict[Key, Item]] = {}
        for changes in self._changes.values():
            items = {
                store: own
                for store, own in items.items()
                if store.counter not in changes.emptied
            }
            for store, changed in changes.items.items():
                all_items = items.setdefault(store, {})
                for key, item in changed.items():
                    all_items.pop(key, None)
                    if item is not None:
                        all_items[key] = item
        self._items = items

    def _warn_if_large(self, changes: _Changes) -> None:
        items = [
            item for own in changes.items.values() for item in own.values() if item
        ]
        size = sum(len(item.value) for item in items if isinstance(item, RawItem))
        if len(items) > _MANY_ITEMS or size > _MANY_BYTES:
            self._warn(
                f"{changes.name} caches {len(items):,} items of {size / 2**20:,.1f} "
                f"MiB, which are stored again before each test. To let the tests share "
                f'them instead: cache_isolation = "class".'
            )


def _binding_of(cache: NamespacedCache) -> Binding:
    binding: Binding = cache._cache.binding
    return binding


def _expiry_of(item: Item | None) -> Expiry:
    return Expiry((item and item.timeout) or 0, clock.monotonic())
