"""The counter: the number in memcached that says which generation is live.

It is a decimal number without an expiry. A missing counter is seeded with the time in
nanoseconds, which is ordered, is never the same twice and fits 63 bits until the year
2262. There is no constant to start from, because a number that was used before would
bring back what was stored under it.
"""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from namespaced_cache import events
from namespaced_cache.adapters.adapter import adapter_of
from namespaced_cache.adapters.counter_read import ABSENT, UNREAD, CounterRead
from namespaced_cache.core import pins
from namespaced_cache.core.generation import (
    MAX_GENERATION,
    MIN_GENERATION,
    generation_in,
)
from namespaced_cache.errors import NamespaceError, NamespaceUnavailable
from namespaced_cache.forks import new_lock
from namespaced_cache.keys import counter_key

#: What libmemcached returns from an `incr` that was told to expect no reply.
_NO_REPLY = 2**64 - 1

#: More than the number of invalidations that this process can have missed.
_LEAP = 10**9

#: How often a counter is repaired before the server is given up.
_MAX_REPAIRS = 10

_lock = new_lock()


class Counter:
    """One namespace's counter on its server, as this process knows it.

    Shared by all threads, and by all aliases that reach the same counter. Each call
    brings the counter client to use. `latest` is the latest generation, the newest that
    this process has seen; it is 0 before the first, and never goes back.
    """

    def __init__(self, namespace: str, server: str) -> None:
        self.namespace = namespace
        self.server = server
        self.key = counter_key(namespace)
        self.latest = 0
        #: The moment when the read began that found `latest`.
        self._read_at = float("-inf")

    # Without a round trip.

    def trusted(self, max_staleness: float) -> int | None:
        """Return the generation to use without reading the counter, or None.

        It is the one that is pinned in this context, or the latest generation if a
        server confirmed it within the last `max_staleness` seconds. No round trip.
        """
        pinned = pins.pinned(self)
        if pinned is not None:
            return pinned
        # The moment is read before the number, which must not be older than it.
        if max_staleness and time.monotonic() - self._read_at < max_staleness:
            return self.latest
        return None

    def is_trusted(self, generation: int, max_staleness: float) -> bool:
        """Tell whether a trusted generation still is; threads share the latest one."""
        return generation == self.latest or generation == self.trusted(max_staleness)

    @property
    def was_reached(self) -> bool:
        """Whether this process has ever read the counter. No round trip."""
        return self._read_at > float("-inf")

    def invalidate_unreached(self) -> None:
        """Start a new generation without the server. No round trip.

        For a server that was never reached. If it can be reached later, its counter is
        found to be lower than the latest generation, and is repaired.
        """
        with _lock:
            self.latest = self._unused()

    def begin_read(self) -> CounterRead:
        """Begin a read of the counter, for `latest_after`. No round trip."""
        return CounterRead(self.latest, time.monotonic())

    # With the counter client.

    def read(self, client: Any) -> int | None:
        """Return the generation on the server, and seed a missing counter.

        None if the client hides that the server is down; an error that it does not hide
        is raised as it is. One round trip; three to seed.
        """
        read = self.begin_read()
        read.value = self._get(client)
        return self._settle(client, read)

    def latest_after(self, client: Any, read: CounterRead) -> int | None:
        """Return the latest generation after a read; None as `read` returns it.

        No round trip if the read has its value already, else one.
        """
        latest = self.latest
        if read.value == latest == read.floor:  # the fast path
            self._read_at = read.began
            return latest
        if read.value is UNREAD:
            read.began = time.monotonic()
            read.value = self._get(client)
        # Another thread may have started a newer one since.
        return None if self._settle(client, read) is None else self.latest

    def current(self, client: Any) -> int:
        """Return the generation on the server: one round trip, see `read`.

        Raises NamespaceUnavailable if there is none to be had.
        """
        return self._acknowledged(self.read, client)

    def invalidate(self, client: Any) -> int:
        """Start a new generation and return it: one round trip.

        The pins of this context move with it. Raises NamespaceUnavailable unless the
        server acknowledged it.
        """
        generation = self._acknowledged(self._increment, client)
        pins.move(self, generation)
        return generation

    def _settle(self, client: Any, read: CounterRead) -> int | None:
        """Return the generation that was read; seed or repair the counter if need be.

        A missing counter is seeded. One below the read's floor, on a server that was
        down and has returned, is raised above the latest generation. No round trip
        otherwise. Raises NamespaceError for a value that is not a generation.
        """
        value, began = read.value, read.began
        for _ in range(_MAX_REPAIRS):
            seeded = False
            if value is ABSENT:
                seeded = self._seed(client) is not None
            else:
                generation = self.generation_in(value)
                if generation >= read.floor:
                    self._note_latest(generation, began)
                    return generation
                self._repair(client, value, generation, read.floor)
            # What counts is the value that is there now: another process may have been
            # first.
            began = time.monotonic()
            value = self._get(client)
            if value is ABSENT and not seeded:
                return None
        raise self._unsettled()

    def _repair(self, client: Any, value: object, found: int, floor: int) -> None:
        # Only if no other process has raised it meanwhile: what was written under its
        # number must not be lost to ours.
        adapter = adapter_of(client)
        with self._named_in_errors(client, "decoded"):
            adapter.compare_and_swap(client, self.key, value, self._unused())
        events.note(
            "repaired",
            "Namespace %r: the counter went back from %d to %d: repaired",
            self.namespace,
            floor,
            found,
        )

    def _increment(self, client: Any) -> int | None:
        # Again if the counter had to be seeded or repaired: of the processes that find
        # it lost, or too low, at the same time, each gets a number of its own.
        for _ in range(_MAX_REPAIRS):
            read = CounterRead(self.latest + 1, time.monotonic())
            read.value = answer = self._incremented(client)
            if answer is False:
                # pymemcache within its retry window, or with ignore_exc.
                return None
            own = answer
            if answer is ABSENT:
                # A counter that is seeded anew starts a new generation as well.
                own = self._seed(client)
            if answer in (ABSENT, _NO_REPLY):
                read.began = time.monotonic()
                read.value = self._get(client)
            generation = self._settle(client, read)
            if generation is None or own in (generation, _NO_REPLY):
                return generation
        raise self._unsettled()

    def _incremented(self, client: Any) -> object:
        adapter = adapter_of(client)
        try:
            answer = client.incr(self.key, 1)
        except adapter.not_found:
            answer = None
        except adapter.not_a_number as error:
            # The value may say better what is wrong.
            self.read(client)
            raise self._unfit(f"cannot be incremented ({error})") from error
        return ABSENT if answer is None else answer

    def _seed(self, client: Any) -> int | None:
        """Store a counter if there is none; return its number, or None."""
        seed = self._unused()
        with self._named_in_errors(client, "encoded"):
            if not client.add(self.key, seed):
                return None
        if self.was_reached:
            events.note("lost", "Namespace %r: the counter was lost", self.namespace)
        else:
            events.note("seeded", "Namespace %r: counter seeded", self.namespace)
        return seed

    def _get(self, client: Any) -> object:
        with self._named_in_errors(client, "decoded"):
            return client.get(self.key, ABSENT)

    def _unused(self) -> int:
        now = time.time_ns()
        if now < MIN_GENERATION:  # a machine whose clock was never set
            now += MIN_GENERATION
        # After the clock was set back: far above what other processes have reached by
        # invalidating meanwhile.
        return now if now > self.latest else self.latest + _LEAP

    def _note_latest(self, generation: int, began: float) -> None:
        if generation == self.latest:
            self._read_at = began
        elif generation > self.latest:
            with _lock:
                if generation > self.latest:
                    # In this order, because `trusted` takes no lock.
                    self.latest, self._read_at = generation, began

    # Errors.

    def generation_in(self, value: object) -> int:
        """Return the generation that a value of this counter stands for.

        Raises NamespaceError, which names the counter and the value, if it is none.
        """
        generation = generation_in(value)
        if generation is not None:
            return generation
        raise self._unfit(
            f"holds {reprlib.repr(value)}: it takes a whole number of 19 digits, up "
            f"to {MAX_GENERATION}"
        )

    def unavailable(self, reason: str) -> NamespaceUnavailable:
        """Make the error that names this namespace and its server."""
        return NamespaceUnavailable(
            f"Namespace {self.namespace!r} on {self.server}: {reason}."
        )

    def _acknowledged(self, ask: Callable[[Any], int | None], client: Any) -> int:
        """Return the number that the server answers with, or raise an error."""
        try:
            number = ask(client)
        except NamespaceError:
            raise
        except Exception as error:
            kind = type(error).__name__
            cause = f"{kind}: {error}" if str(error) else kind
            raise self.unavailable(f"no answer from the server ({cause})") from error
        if number is None:
            raise self.unavailable(
                "no answer from the server (the client takes it to be down, or hides "
                "why)"
            )
        return number

    @contextmanager
    def _named_in_errors(self, client: Any, how: str) -> Iterator[None]:
        """Name the counter in the error if the client's serializer fails."""
        try:
            yield
        except Exception as error:
            if adapter_of(client).is_undecodable(error):
                raise self._unfit(f"cannot be {how} ({error})") from error
            raise

    def _unsettled(self) -> NamespaceUnavailable:
        return self.unavailable("its counter does not keep the value that it is given")

    def _unfit(self, fault: str) -> NamespaceError:
        return NamespaceError(
            f"The counter of namespace {self.namespace!r}, the key {self.key!r} on "
            f"{self.server}, {fault}. If the client's serializer is not the cause, "
            f"delete that key, and the namespace starts anew."
        )
