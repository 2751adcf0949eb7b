"""What a neighbour on a small server loses to the items of dead generations.

Items of a dead generation stay in memory until memcached needs the room. memcached does
not know that they are dead. It evicts the items that were unused for the longest time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import product

from borrowed import Memcached
from scale import Scale
from wire import Wire

from namespaced_cache.keys import GenerationKeys, counter_key

VALUE = b"x" * 500

#: The memory that such an item takes, with its key and memcached's header: the next
#: larger of the sizes that memcached divides its memory into.
ITEM_BYTES = 600

#: How often a neighbour that is in use gets all its items while others write.
PASSES = 10

#: Keys of one get, and writes that are sent together.
BATCH = 100

COUNTER = counter_key("busy").encode()

#: Does the writes that belong to the given generations.
Writer = Callable[[Wire, Sequence[int]], None]


def _invalidations_with_an_item(wire: Wire, generations: Sequence[int]) -> None:
    # The generations are known in advance, so no item has to wait for a reply.
    keys = [
        GenerationKeys("busy", number).wire_key(b":1:key") for number in generations
    ]
    _invalidate(wire, generations, [wire.storing(key, VALUE) for key in keys])


def _invalidations_alone(wire: Wire, generations: Sequence[int]) -> None:
    _invalidate(wire, generations, [b"" for _ in generations])


def _invalidate(wire: Wire, generations: Sequence[int], items: Sequence[bytes]) -> None:
    if wire.increment(COUNTER, items) != generations[-1]:
        raise RuntimeError(f"The counter is not at {generations[-1]}")


def _random_prefixes(wire: Wire, generations: Sequence[int]) -> None:
    prefixes = [secrets.token_hex(8).encode() for _ in generations]
    wire.store((b"%b:1:key" % prefix for prefix in prefixes), VALUE)


WRITERS: dict[str, Writer] = {
    "invalidations, each with an item": _invalidations_with_an_item,
    "invalidations alone": _invalidations_alone,
    "items under random prefixes": _random_prefixes,
}


def run(scale: Scale, _: float) -> Iterator[dict[str, object]]:
    """Measure a neighbour, in use and idle, beside each writer, on a new server."""
    for neighbour, (beside, write) in product(("in use", "idle"), WRITERS.items()):
        with (
            closing(Memcached("-m", str(scale.megabytes))) as server,
            Wire(server.port) as wire,
        ):
            figures = _beside(wire, scale, write, in_use=neighbour == "in use")
        yield {
            "neighbour": neighbour,
            "beside": beside,
            "threads": "default",
            **figures,
        }


def _beside(
    wire: Wire, scale: Scale, write: Writer, *, in_use: bool
) -> dict[str, float]:
    half = scale.megabytes * 2**20 // 2
    keys = [b"neighbour:%d" % number for number in range(half // ITEM_BYTES)]
    wire.store(keys, VALUE)
    seed = time.time_ns()
    wire.ask(b"set %b 0 0 19\r\n%d" % (COUNTER, seed))
    before = _hit_rate(wire, keys), _evictions(wire)
    start = time.perf_counter()
    for number in range(0, scale.writes, BATCH):
        write(wire, range(seed + number + 1, seed + number + BATCH + 1))
        if in_use and number % (scale.writes // PASSES) == 0:
            _hit_rate(wire, keys)
    seconds = time.perf_counter() - start
    return {
        "megabytes": scale.megabytes,
        "writes": scale.writes,
        "seconds": seconds,
        "hit_rate_before": before[0],
        "hit_rate_after": _hit_rate(wire, keys),
        "evictions_before": before[1],
        "evictions_after": _evictions(wire),
    }


def _hit_rate(wire: Wire, keys: list[bytes]) -> float:
    batches = (keys[i : i + BATCH] for i in range(0, len(keys), BATCH))
    return sum(map(wire.get, batches)) / len(keys)


def _evictions(wire: Wire) -> int:
    return int(wire.stats()["evictions"])
