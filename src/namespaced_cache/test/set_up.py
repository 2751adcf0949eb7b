"""What set-up caches: it is noted while set-up runs, and stored again before each test.

Set-up is what runs once for several tests, such as `setUpModule()`, `setUpClass()`,
`setUpTestData()`, and pytest's fixtures of a wider scope than "function". For the
database, Django's TestCase does the same: a test finds what `setUpTestData()` created.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter

from namespaced_cache.adapters.commands import Effect
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
from namespaced_cache.test.stores import Store, store_of

#: If a set-up caches more, its tests had better share it.
_MANY_ITEMS = 10_000
_MANY_BYTES = 64 * 1024 * 1024


@dataclass
class _SetUp:
    """A set-up, and what it has changed: items, and namespaces that it has emptied.

    `keys` are those that it has changed so far. Their expiry is None if a command has
    left it as it was. When the set-up has ended, `items` has what it has left. An item
    is None for a key that it has left without one. `emptied` has each invalidation.
    What changes the items of others is in the order of `moment`.
    """

    owner: Hashable
    name: str
    keys: dict[Counter, dict[Key, Expiry | None]] = field(default_factory=dict)
    bindings: dict[Store, Binding] = field(default_factory=dict)
    emptied: list[tuple[int, Counter]] = field(default_factory=list)
    moment: int = 0
    items: dict[Store, dict[Key, Item | None]] = field(default_factory=dict)
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
        self._running: list[_SetUp] = []
        #: Those that have ended, the latest last.
        self._ended: dict[Hashable, _SetUp] = {}
        #: What they all result in.
        self._items: dict[Store, dict[Key, Item]] = {}
        #: The generations of namespaces, while set-ups run.
        self._generations: dict[Counter, int] = {}
        self._moments = count(1)
        self._opened: dict[Store, tuple[Binding, StoredItems]] = {}

    def begin(self, owner: Hashable, name: str) -> None:
        """Note what is cached from now on, for this owner. No round trip."""
        if self._running:
            self._note_generations(self._running[-1])
        else:
            watch(self._note)
            counters = {store.counter for store in self._items}
            self._generations = {counter: counter.latest for counter in counters}
        self._running.append(_SetUp(owner, name))

    def end(self) -> None:
        """End the set-up that began last, and read what it has cached.

        One round trip for each server and 32 KiB of requests, or none if it has cached
        nothing. An error is raised by `restore`, while the set-up is in force.
        """
        ended = self._running[-1]
        self._note_generations(ended)
        try:
            for binding in self._bindings_of(ended):
                ended.items[store_of(binding)] = self._read(binding, ended)
        except Exception as error:  # noqa: BLE001  # raised later
            ended.error = error
        self._note_generations(ended)  # the read may have found a newer one
        self.give_up()
        ended.moment = next(self._moments)
        self._ended.pop(ended.owner, None)
        if ended.items or ended.emptied or ended.error:
            self._ended[ended.owner] = ended
            self._warn_if_large(ended)
        self._combine()

    def give_up(self) -> None:
        """End the set-up that began last, because it has failed. No round trip."""
        self._running.pop()
        if not self._running:
            unwatch(self._note)

    def cancel(self) -> None:
        """Forget the set-ups that are running. No round trip."""
        while self._running:
            self.give_up()

    def forget(self, owner: Hashable) -> bool:
        """Take the changes of a set-up back. Tell whether there were any.

        The next `restore` stores what the others have cached. No round trip.
        """
        if self._ended.pop(owner, None) is None:
            return False
        self._combine()
        return True

    def begin_test_of(self, owner: Hashable) -> None:
        """End the set-up of this owner, if it is running. Forget those of all others.

        This is for owners of which nothing tells when their set-up has ended.
        """
        if [set_up.owner for set_up in self._running] == [owner]:
            self.end()
        self.cancel()
        for other in [*self._ended]:
            if other != owner:
                self.forget(other)

    def restore(
        self, caches: Iterable[NamespacedCache], generations: Mapping[Counter, int]
    ) -> None:
        """Store what set-up has cached, in new generations of its namespaces.

        One round trip for each server, or none if there is nothing to store. Raises
        NamespaceUnavailable if it cannot be stored, or could not be read.
        """
        for counter in self._generations.keys() & generations:
            self._generations[counter] = generations[counter]
        for set_up in self._ended.values():
            if set_up.error is not None:
                raise NamespaceUnavailable(
                    f"What {set_up.name} has cached cannot be read: {set_up.error}"
                ) from set_up.error
        if not self._items:
            return
        done = set()
        for binding in map(_binding_of, caches):
            store = store_of(binding)
            items = self._items.get(store)
            if items and store.counter in generations and store not in done:
                done.add(store)
                self._stored(binding).write(items, generations[store.counter])

    def close(self) -> None:
        """Forget everything, and close the connections."""
        self.cancel()
        self._ended.clear()
        self._items.clear()
        while self._opened:
            _, (_, stored) = self._opened.popitem()
            stored.close()

    def _note(self, operation: Operation, binding: Binding, answer: object) -> None:
        if operation.effect is Effect.READS:
            return
        # False: there was nothing to change, or already something. Of many keys, this
        # may be so for one of them.
        if answer is False and len(operation.keys) == 1:
            return
        seconds = operation.expiry
        expiry = None
        if isinstance(seconds, int):
            expiry = Expiry(seconds, clock.monotonic())
        for set_up in self._running[-1:]:  # another thread may have ended it
            self._generations.setdefault(binding.counter, binding.counter.latest)
            self._note_generations(set_up)
            set_up.bindings.setdefault(store_of(binding), binding)
            noted = set_up.keys.setdefault(binding.counter, {})
            for key in operation.keys:
                # The client may have refused the key.
                if not isinstance(answer, BaseException) or binding.accepts(key):
                    noted[key] = expiry or noted.get(key)

    def _note_generations(self, set_up: _SetUp) -> None:
        """Note which namespaces were invalidated since this was last called."""
        for counter, generation in [*self._generations.items()]:
            if counter.latest != generation:
                self._generations[counter] = counter.latest
                set_up.emptied.append((next(self._moments), counter))

    def _bindings_of(self, set_up: _SetUp) -> Iterable[Binding]:
        """Return one binding for each store that a set-up has changed."""
        if not set_up.keys:
            return []
        current = {
            store_of(each): each for each in map(_binding_of, self._find_caches())
        }
        # An alias may have other settings by now than it had during set-up.
        found = set_up.bindings | current
        return [
            binding
            for store, binding in found.items()
            # If the server was never reached, nothing is there.
            if store.counter in set_up.keys and store.counter.was_reached
        ]

    def _read(self, binding: Binding, ended: _SetUp) -> dict[Key, Item | None]:
        stored = self._stored(binding)
        before = self._items.get(store_of(binding), {})
        expiries: dict[Key, Expiry] = {}
        for used, noted in [*ended.keys[binding.counter].items()]:
            key = binding.same_key(used)
            expiries[key] = noted or expiries.get(key) or _expiry_of(before.get(key))
        found = stored.read(expiries)
        return {key: found.get(key) for key in expiries}

    def _stored(self, binding: Binding) -> StoredItems:
        store = store_of(binding)
        opened, stored = self._opened.get(store, (None, None))
        if stored is None or opened is not binding:
            if stored is not None:
                stored.close()
            stored = StoredItems(binding)
            self._opened[store] = binding, stored
        return stored

    def _combine(self) -> None:
        events: list[tuple[int, Counter | _SetUp]] = []
        for set_up in self._ended.values():
            events += [*set_up.emptied, (set_up.moment, set_up)]
        items: dict[Store, dict[Key, Item]] = {}
        for _, event in sorted(events, key=itemgetter(0)):
            if isinstance(event, Counter):
                items = {k: own for k, own in items.items() if k.counter is not event}
                continue
            for store, changed in event.items.items():
                all_items = items.setdefault(store, {})
                for key, item in changed.items():
                    all_items.pop(key, None)
                    if item is not None:
                        all_items[key] = item
        self._items = items

    def _warn_if_large(self, set_up: _SetUp) -> None:
        items = [item for own in set_up.items.values() for item in own.values() if item]
        size = sum(len(item.value) for item in items if isinstance(item, RawItem))
        if len(items) > _MANY_ITEMS or size > _MANY_BYTES:
            self._warn(
                f"{set_up.name[0].upper()}{set_up.name[1:]} caches {len(items):,} "
                f"items of {size / 2**20:,.1f} MiB, which are stored again before each "
                f"test. To let the tests share them instead: "
                f'cache_isolation = "class".'
            )


def _binding_of(cache: NamespacedCache) -> Binding:
    binding: Binding = cache._cache.binding
    return binding


def _expiry_of(item: Item | None) -> Expiry:
    timeout = None if item is None else item.timeout
    return Expiry(0 if timeout is None else max(timeout, 1), clock.monotonic())
