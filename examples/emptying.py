"""Measures three ways to empty a cache: round trips, time, and a neighbour's lost keys.

Round trips are counted on the socket.
"""

import secrets
import socket
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.core.cache import BaseCache, CacheHandler

PLAIN = "django.core.cache.backends.memcached.PyMemcacheCache"
NAMESPACED = "namespaced_cache.NamespacedCache"

SIZES = (10, 1_000, 100_000)
NEIGHBOUR_KEYS = 1_000
SAMPLE = 1_000
REPEATS = 3
CHUNK = 1_000
# Unreachable keys cannot be deleted, so they have to expire.
TIMEOUT = 300


@dataclass(frozen=True)
class Way:
    """One way to empty a cache: its name, the backend it needs, and the call."""

    name: str
    backend: str
    empty: Callable[[Any, Sequence[str]], object]


INVALIDATE = Way(
    "invalidate_namespace()", NAMESPACED, lambda cache, _: cache.invalidate_namespace()
)
FLUSH = Way("flush_all", PLAIN, lambda cache, _: cache.clear())
DELETE = Way("delete_many", PLAIN, lambda cache, keys: cache.delete_many(keys))


@dataclass(frozen=True)
class Measurement:
    """The costs and the effects of emptying a cache of `keys` keys."""

    way: Way
    keys: int
    round_trips: int
    milliseconds: float
    readable_before: int
    readable_after: int
    neighbour_lost: int


class RoundTrips:
    """Replaces the socket module in a client, and counts the client's round trips.

    One round trip is one reply that the client waited for: the first `recv` after
    a `sendall`. All other names are those of the socket module.
    """

    def __init__(self) -> None:
        """Start with a count of 0."""
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        """Return the attribute `name` of the socket module."""
        return getattr(socket, name)

    def socket(self, *args: int) -> socket.socket:
        """Return a socket whose round trips are counted here."""
        return _CountedSocket(self, *args)


class _CountedSocket(socket.socket):
    def __init__(self, trips: RoundTrips, *args: int) -> None:
        super().__init__(*args)
        self._trips = trips
        self._unanswered = False

    def sendall(self, data: bytes, flags: int = 0) -> None:
        self._unanswered = True
        super().sendall(data, flags)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        if self._unanswered:
            self._unanswered = False
            self._trips.count += 1
        return super().recv(bufsize, flags)


def measure(way: Way, size: int, location: str) -> Measurement:
    """Fill a cache with `size` keys beside a neighbour's, empty it, and count the keys.

    For `INVALIDATE`, all keys are counted before and after. For the other ways, a
    sample is counted. `FLUSH` empties the whole server, so no other program must use
    the server at `location`.
    """
    trips = RoundTrips()
    token = secrets.token_hex(4)
    cache = _open(way.backend, f"demo-{size}-{token}", location, trips)
    neighbour = _open(PLAIN, f"demo-neighbour-{token}", location, socket)
    keys = [f"page:{number}" for number in range(size)]
    looked_for = keys if way is INVALIDATE else keys[:: max(1, size // SAMPLE)]
    theirs = [f"page:{number}" for number in range(NEIGHBOUR_KEYS)]
    try:
        _fill(neighbour, theirs)
        _fill(cache, keys)
        before = _count(cache, looked_for)

        trips_before = trips.count
        started = time.perf_counter()
        way.empty(cache, keys)
        seconds = time.perf_counter() - started
        round_trips = trips.count - trips_before

        after = _count(cache, looked_for)
        neighbour_lost = NEIGHBOUR_KEYS - _count(neighbour, theirs)
        neighbour.delete_many(theirs)
    finally:
        cache.close()
        neighbour.close()
    return Measurement(
        way, size, round_trips, seconds * 1000, before, after, neighbour_lost
    )


def median(measurements: Iterable[Measurement]) -> Measurement:
    """Return the median of the times, with the worst of all other results."""
    found = list(measurements)
    return replace(
        found[0],
        milliseconds=statistics.median(each.milliseconds for each in found),
        round_trips=max(each.round_trips for each in found),
        readable_before=min(each.readable_before for each in found),
        readable_after=max(each.readable_after for each in found),
        neighbour_lost=max(each.neighbour_lost for each in found),
    )


def _open(backend: str, name: str, location: str, sockets: object) -> BaseCache:
    options = {"no_delay": True, "socket_module": sockets}
    if backend == NAMESPACED:
        options["NAMESPACE"] = name
    settings = {
        "BACKEND": backend,
        "LOCATION": location,
        "KEY_PREFIX": name,
        "TIMEOUT": TIMEOUT,
        "OPTIONS": options,
    }
    return CacheHandler({"default": settings})["default"]


def _fill(cache: BaseCache, keys: Sequence[str]) -> None:
    for chunk in _chunks(keys):
        cache.set_many(dict.fromkeys(chunk, "cached"))


def _count(cache: BaseCache, keys: Sequence[str]) -> int:
    return sum(len(cache.get_many(chunk)) for chunk in _chunks(keys))


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]
