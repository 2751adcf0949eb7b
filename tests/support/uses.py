"""Ways to use a cache, and ways to interrupt such a use."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller

import pytest

from namespaced_cache.adapters.adapter import adapter_of
from namespaced_cache.adapters.counter_access import CounterAccess
from namespaced_cache.core.binding import Binding
from namespaced_cache.core.counter import Counter
from namespaced_cache.keys import GenerationKeys

#: The ways to invalidate a namespace.
WAYS_TO_INVALIDATE = {
    "invalidate_namespace": methodcaller("invalidate_namespace"),
    "clear": methodcaller("clear"),
    "flush_all": lambda cache: cache._cache.flush_all(),
    "ainvalidate": lambda cache: asyncio.run(cache.ainvalidate_namespace()),
    "aclear": lambda cache: asyncio.run(cache.aclear()),
}

#: Calls that store an item "w". Their answers do not contain it.
WRITES = {
    "set": lambda cache: cache.set("w", "written"),
    "add": lambda cache: cache.add("w", "written"),
    "set_many": lambda cache: cache.set_many({"w": "written"}),
    "get_or_set": lambda cache: cache.get_or_set("w", "written"),
    "aset": lambda cache: asyncio.run(cache.aset("w", "written")),
    "raw set": lambda cache: cache._cache.set(cache.make_key("w"), "written"),
}

#: Calls that return the item "k", or None.
READS = {
    "get": lambda cache: cache.get("k"),
    "get_many": lambda cache: cache.get_many(["k"]).get("k"),
    "aget": lambda cache: asyncio.run(cache.aget("k")),
    "raw get": lambda cache: cache._cache.get(cache.make_key("k")),
}

EACH_WAY_TO_INVALIDATE = pytest.mark.parametrize(
    "invalidate", WAYS_TO_INVALIDATE.values(), ids=WAYS_TO_INVALIDATE
)
EACH_WRITE = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
EACH_READ = pytest.mark.parametrize("read", READS.values(), ids=READS)

#: Enough keys that each of three servers stores some.
MANY = [f"k{number}" for number in range(50)]


def item(namespace: str, generation: int, key: str = "k") -> str:
    """Return the wire key of a key that Django's `make_key` makes."""
    return GenerationKeys(namespace, generation).wire_key(f":1:{key}")


def outcome(act):
    """Return what `act()` returns, or a text with the name of the error."""
    try:
        return act()
    except Exception as error:  # noqa: BLE001  # the caller compares it
        return f"raises {type(error).__name__}"


def is_nothing(found) -> bool:
    """Tell whether an outcome is an error, or a value that means a miss."""
    return not found or str(found).startswith("raises ")


class Clock:
    """A clock for MAX_STALENESS. It stands still until a test changes `now`."""

    now = 1000.0

    def monotonic(self):
        return self.now


def reach(client) -> CounterAccess:
    """Return the access to a counter by a real client."""
    return CounterAccess(adapter_of(client), lambda: client, None)


def as_another_process(cache):
    """Make a cache behave like one in another process, and return it.

    It has a counter of its own. So it does not learn the latest generation from the
    other caches of this process, and they do not learn it from this cache.
    """
    client = cache._cache
    theirs = Counter(client.counter.namespace, client.counter.server)
    binder = client._binder
    binding, bindings = binder.binding, {}

    def their_binding():
        mine = binding()
        if mine not in bindings:
            bindings[mine] = Binding(
                mine.client,
                mine.counter_client,
                theirs,
                mine.server,
                mine.options,
            )
        return bindings[mine]

    binder.counter, binder.binding = lambda: theirs, their_binding
    return cache


def in_a_thread(act):
    """Call `act` in a new thread, and return what it returns."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


def overtake(monkeypatch, client, names, act):
    """Call `act` once, after the client has carried out the first of these commands.

    Return a list, which is empty until then.
    """
    done = []

    def overtaken(command):
        def do(*args):
            try:
                return command(*args)
            finally:
                if not done:
                    done.append(True)
                    act()

        return do

    for name in names:
        monkeypatch.setattr(client, name, overtaken(getattr(client, name)))
    return done
