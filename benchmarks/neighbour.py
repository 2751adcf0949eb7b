"""What a neighbour on a small server loses to generations that nobody can reach.

What is dead stays in memory until memcached needs the room, and memcached does not know
that it is dead. It takes the room from what was not used for the longest time.
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

#: What such an item takes up, with its key and what memcached adds: the next larger of
#: the sizes that memory is divided into.
ITEM_BYTES = 600

#: How often an active neighbour gets all that it has while others write.
PASSES = 10

#: Keys of one get, and bumps that are sent together.
BATCH = 100

COUNTER = counter_key("busy").encode()

#: Makes the writes of the generations that it is told of.
Writer = Callable[[Wire, Sequence[int]], None]


def _bumps_with_an_item(wire: Wire, generations: Sequence[int]) -> None:
    # Each generation is foreseen, so that its item need not wait for the bump's answer.
    keys = [GenerationKeys("busy", number).name(b":1:key") for number in generations]
    _bump(wire, generations, [wire.storing(key, VALUE) for key in keys])


def _bumps_alone(wire: Wire, generations: Sequence[int]) -> None:
    _bump(wire, generations, [b"" for _ in generations])


def _bump(wire: Wire, generations: Sequence[int], items: Sequence[bytes]) -> None:
    if wire.bump(COUNTER, items) != generations[-1]:
        raise RuntimeError(f"The counter is not at {generations[-1]}")


def _random_prefixes(wire: Wire, generations: Sequence[int]) -> None:
    prefixes = [secrets.token_hex(8).encode() for _ in generations]
    wire.store((b"%b:1:key" % prefix for prefix in prefixes), VALUE)


WRITERS: dict[str, Writer] = {
    "bumps, each with an item": _bumps_with_an_item,
    "bumps alone": _bumps_alone,
    "items under random prefixes": _random_prefixes,
}


def run(scale: Scale, _: float) -> Iterator[dict[str, object]]:
    """Have a neighbour, in use or not, beside each writer on a server of its own."""
    for neighbour, (beside, write) in product(("in use", "idle"), WRITERS.items()):
        with (
            closing(Memcached("-m", str(scale.megabytes))) as server,
            Wire(server.port) as wire,
        ):
            figures = _beside(wire, scale, write, in_use=neighbour == "in use")
        yield {"neighbour": neighbour, "beside": beside, **figures}


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
    for number in range(0, scale.bumps, BATCH):
        write(wire, range(seed + number + 1, seed + number + BATCH + 1))
        if in_use and number % (scale.bumps // PASSES) == 0:
            _hit_rate(wire, keys)
    seconds = time.perf_counter() - start
    return {
        "megabytes": scale.megabytes,
        "writes": scale.bumps,
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
