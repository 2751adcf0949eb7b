"""How long it takes to store again before a test what its set-up has cached.

It is compared with writing the same items by hand, in memcached's own protocol, without
a reply to each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

from borrowed import Memcached
from measure import clock, paired
from scale import Scale
from subjects import BACKENDS, THREADS, ours
from wire import Wire

from namespaced_cache import NamespacedCache
from namespaced_cache.keys import GenerationKeys
from namespaced_cache.test.set_up import SetUps

VALUE = "x" * 1000

ONE_THREAD = "1"


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare with both clients, for each number of items."""
    cases = [(client, items) for client in BACKENDS for items in scale.cached]
    for client, items in cases:
        with ExitStack() as stack:
            memcached = Memcached("-m", "1024", *THREADS[ONE_THREAD])
            server = stack.enter_context(closing(memcached))
            wire = stack.enter_context(Wire(server.port))
            cache = stack.enter_context(closing(ours(client, server.location, "n")))
            set_ups = SetUps(lambda own=cache: [own], print)
            stack.callback(set_ups.close)
            names = [f"key:{number}" for number in range(items)]
            set_ups.begin("class", "a class")
            cache.set_many(dict.fromkeys(names, VALUE))
            set_ups.end()
            acts = {
                "hand-written": partial(_written, cache, wire, names),
                "restored": partial(_restored, cache, set_ups),
            }
            measured = paired(acts, seconds / len(cases), least=scale.rounds)
            for way, figures in measured.items():
                yield figures.row(
                    client=client, threads=ONE_THREAD, items=items, way=way
                )


def _written(cache: NamespacedCache, wire: Wire, names: list[str]) -> float:
    """Return the seconds for the items, in the generation of the cache."""
    keys = GenerationKeys(cache.namespace, cache.generation)
    wire_keys = [keys.wire_key(cache.make_key(name)).encode() for name in names]
    return clock(lambda: wire.store(wire_keys, VALUE.encode()))


def _restored(cache: NamespacedCache, set_ups: SetUps) -> float:
    generations = {cache._cache.counter: cache.generation}
    return clock(lambda: set_ups.restore([cache], generations))
