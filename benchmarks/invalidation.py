"""How long it takes to forget a namespace of many keys, and what else could do it.

The keys are real: before each time that is taken, all of them are stored. What takes a
single round trip is done several times in a row then; the dead keys stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial

from borrowed import Memcached
from django.core.cache.backends.base import BaseCache
from measure import Act, clock, paired
from scale import Scale
from subjects import BACKENDS, bare, ours
from wire import Wire

from namespaced_cache import NamespacedCache
from namespaced_cache.keys import GenerationKeys

VALUE = b"x" * 10

#: How often in a row what takes a single round trip is done.
IN_A_ROW = 50


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare the ways to forget, for each number of keys on a server of its own."""
    acts: dict[tuple[str, str, int], Act] = {}
    with ExitStack() as stack:
        for keys in scale.sizes:
            # One thread, so that it is no matter which of them a connection gets.
            memcached = Memcached("-m", "1024", "-t", "1")
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
                for way, (used, forget) in ways.items():
                    times = 1 if way == "delete_many" else IN_A_ROW
                    acts[way, client, keys] = _act(used, wire, keys, forget, times)
        # Each begins with a server that is filled anew: there is nothing to warm up.
        measured = paired(acts, seconds, least=scale.rounds, warm=False)
    for (way, client, keys), figures in measured.items():
        yield figures.row(way=way, client=client, keys=keys)


def _act(
    cache: BaseCache,
    wire: Wire,
    keys: int,
    forget: Callable[[], object],
    times: int,
) -> Act:
    last = f"key:{keys - 1}"

    def act() -> float:
        wire.ask(b"flush_all")
        prefix = _prefix(cache)
        wire.store((b"%bkey:%d" % (prefix, number) for number in range(keys)), VALUE)
        if cache.get(last) != VALUE:
            raise RuntimeError(f"{last} is not where {cache!r} looks for it")
        seconds = clock(forget, times)
        if cache.get(last) is not None:
            raise RuntimeError(f"{cache!r} has not forgotten {last}")
        return seconds

    return act


def _prefix(cache: BaseCache) -> bytes:
    """Return what stands before a key on the server."""
    prefix = cache.make_key("")
    if isinstance(cache, NamespacedCache):
        prefix = GenerationKeys(cache.namespace, cache.generation).name(prefix)
    return prefix.encode()
