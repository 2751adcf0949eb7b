"""How long it takes to invalidate a namespace of many keys, and the alternatives.

The keys are real: all of them are stored before each measurement. A way that takes one
round trip is then timed several times in a row. The dead keys stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial

from borrowed import Memcached
from django.core.cache.backends.base import BaseCache
from measure import Act, clock, paired
from scale import Scale
from subjects import BACKENDS, THREADS, bare, ours
from wire import Wire

from namespaced_cache import NamespacedCache
from namespaced_cache.keys import GenerationKeys

VALUE = b"x" * 10

#: How often in a row a way that takes one round trip is timed.
IN_A_ROW = 50

ONE_THREAD = "1"


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare the ways to get rid of keys. Each number of keys has its own server."""
    acts: dict[tuple[str, str, int], Act] = {}
    with ExitStack() as stack:
        for keys in scale.sizes:
            # With one thread, all connections are assigned to the same one.
            memcached = Memcached("-m", "1024", *THREADS[ONE_THREAD])
            server = stack.enter_context(closing(memcached))
            wire = stack.enter_context(Wire(server.port))
            for client in BACKENDS:
                cache = stack.enter_context(closing(ours(client, server.location, "n")))
                plain = stack.enter_context(closing(bare(client, server.location)))
                ways = {
                    "invalidate_namespace": (cache, cache.invalidate_namespace),
                    "flush_all": (plain, plain.clear),
                }
                if keys <= scale.delete_up_to:
                    names = [f"key:{number}" for number in range(keys)]
                    ways["delete_many"] = plain, partial(plain.delete_many, names)
                for way, (used, remove) in ways.items():
                    times = 1 if way == "delete_many" else IN_A_ROW
                    acts[way, client, keys] = _act(used, wire, keys, remove, times)
        # Each act fills its server anew: there is nothing to warm up.
        measured = paired(acts, seconds, least=scale.rounds, warm=False)
    for (way, client, keys), figures in measured.items():
        yield figures.row(way=way, client=client, threads=ONE_THREAD, keys=keys)


def _act(
    cache: BaseCache,
    wire: Wire,
    keys: int,
    remove: Callable[[], object],
    times: int,
) -> Act:
    last = f"key:{keys - 1}"

    def act() -> float:
        wire.ask(b"flush_all")
        prefix = _prefix(cache)
        wire.store((b"%bkey:%d" % (prefix, number) for number in range(keys)), VALUE)
        if cache.get(last) != VALUE:
            raise RuntimeError(f"{cache!r} does not find {last}")
        seconds = clock(remove, times)
        if cache.get(last) is not None:
            raise RuntimeError(f"{cache!r} still finds {last}")
        return seconds

    return act


def _prefix(cache: BaseCache) -> bytes:
    """Return the part of the wire key that precedes the key."""
    prefix = cache.make_key("")
    if isinstance(cache, NamespacedCache):
        prefix = GenerationKeys(cache.namespace, cache.generation).wire_key(prefix)
    return prefix.encode()
