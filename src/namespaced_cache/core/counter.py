"""The counter: the memcached item that holds the live generation.

It is a decimal number without an expiry. A missing counter is seeded with a number that
was never used before (see `generation.seed`). It does not start from a constant,
because a number that was used before would bring back the items stored under it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from namespaced_cache import events
from namespaced_cache.adapters.counter_access import CounterAccess
from namespaced_cache.adapters.counter_read import ABSENT, UNREAD, CounterRead
from namespaced_cache.core import clock, pins
from namespaced_cache.core.generation import (
    MAX_GENERATION,
    generation_in,
    seed,
)
from namespaced_cache.errors import NamespaceError, NamespaceUnavailable
from namespaced_cache.forks import new_lock
from namespaced_cache.keys import counter_key

#: The return value of libmemcached's `incr` with the behavior "no reply".
_NO_REPLY = 2**64 - 1

#: How often a counter is seeded or repaired before an operation fails.
_MAX_REPAIRS = 10

#: The moment of a read that nothing trusts.
_NEVER = float("-inf")

_lock = new_lock()


class Counter:
    """One namespace's counter on its server, and the latest generation.

    There is one object for all threads and all aliases that use the same counter. The
    caller passes the access to its server to each method that needs it. `latest` is the
    latest generation: the newest that this process has seen. It is 0 at first, and
    never goes back. `client_prefix` describes what the clients put before each key.
    """

    def __init__(self, namespace: str, server: str, client_prefix: str = "") -> None:
        self.namespace = namespace
        self.server = server
        self.client_prefix = client_prefix
        self.key = counter_key(namespace)
        self.latest = 0
        #: Whether this process has ever read the counter.
        self.was_reached = False
        #: Whether an alias trusts `latest` for some seconds. If none does, no operation
        #: reads a clock.
        self.is_timed = False
        #: How often `invalidate_unreached` was called, and how many of these calls the
        #: server has caught up with.
        self._unreached = self._caught_up = 0
        #: The moment at which the counter read began that returned `latest`.
        self._read_at = _NEVER

    # Methods without a round trip.

    def trusted(self, max_staleness: float) -> int | None:
        """Return the generation to use without a counter read, or None.

        This is the generation that is pinned in this context. Otherwise it is the
        latest generation, if a server returned it within the last `max_staleness`
        seconds. No round trip.
        """
        held = pins.current.get()
        if held:
            pinned = pins.pinned(held, self)
            if pinned is not None:
                return pinned
        # `_read_at` is read before `latest`, because `latest` must not be the older
        # one.
        if max_staleness and 0 <= clock.monotonic() - self._read_at < max_staleness:
            return self.latest
        return None

    def is_trusted(self, generation: int, max_staleness: float) -> bool:
        """Tell whether a generation is still trusted. Other threads change `latest`."""
        return generation == self.latest or generation == self.trusted(max_staleness)

    def invalidate_unreached(self) -> None:
        """Start a new generation when the server is reached. No round trip.

        Use this for a server that was never reached. Nothing tells whether the counter
        that is found later is older than this call. So the first read starts a new
        generation.
        """
        with _lock:
            self._unreached += 1

    def begin_read(self) -> CounterRead:
        """Begin a read of the counter, for `latest_after`. No round trip."""
        began = clock.monotonic() if self.is_timed else _NEVER
        return CounterRead(self.latest, began, self.was_reached)

    def confirms(self, read: CounterRead) -> bool:
        """Tell whether a read shows that its generation is the latest. No round trip.

        If it does, `latest_after` need not be called.
        """
        latest = self.latest
        if read.value == latest == read.floor:
            self._read_at = read.began
            return True
        return False

    # Methods that ask the server.

    def read(self, access: CounterAccess) -> int | None:
        """Return the generation on the server, and seed a missing counter.

        Returns None if the client hides that the server is down. An error that the
        client does not hide is raised unchanged. One round trip, or three to seed.
        """
        read = self.begin_read()
        read.value = self._get(access)
        return self._settle(access, read)

    def latest_after(self, access: CounterAccess, read: CounterRead) -> int | None:
        """Return the latest generation after a counter read, or None as in `read`.

        No round trip if the counter read already has its value, else one.
        """
        if read.value is UNREAD:
            read.began = self._now()
            read.value = self._get(access)
        # Another thread may have started a newer generation since.
        return None if self._settle(access, read) is None else self.latest

    def current(self, access: CounterAccess) -> int:
        """Return the generation on the server: one round trip, see `read`.

        Raises NamespaceUnavailable if the server does not answer.
        """
        return self._acknowledged(self.read, access)

    def invalidate(self, access: CounterAccess) -> int:
        """Start a new generation and return it: one round trip.

        The pins of this context move to it. Raises NamespaceUnavailable unless the
        server acknowledged the invalidation.
        """
        generation = self._acknowledged(self._increment, access)
        pins.move(self, generation)
        return generation

    def _settle(self, access: CounterAccess, read: CounterRead) -> int | None:
        """Return the generation that was read. Seed or repair the counter if necessary.

        A missing counter is seeded. A counter below the read's floor is repaired: it is
        raised above the latest generation. Otherwise this takes no round trip. Raises
        NamespaceError for a value that is not a generation.
        """
        value, began, reached = read.value, read.began, read.reached
        refusals = 0
        floor, unreached = read.floor, self._unreached
        is_behind = unreached != self._caught_up
        for _ in range(_MAX_REPAIRS):
            seeded = False
            if value is ABSENT:
                seeded = self._seed(access, reached=reached) is not None
                reached = reached or seeded
            else:
                generation = self.generation_in(value)
                if is_behind:
                    floor = max(floor, generation + 1)
                if generation >= floor:
                    self._note_latest(generation, began)
                    self._caught_up = unreached
                    return generation
                self._repair(access, value, generation, floor)
            is_behind = False  # what is found from here on is newer
            # Read the counter again, because another process may have been first.
            began = self._now()
            value = self._get(access)
            if value is ABSENT and not seeded:
                # The client hides an outage. Or the counter, which another process had
                # seeded, was lost again.
                refusals += 1
                if refusals > 1:
                    return None
        raise self._unsettled()

    def _repair(
        self, access: CounterAccess, value: object, found: int, floor: int
    ) -> None:
        # Compare-and-swap changes nothing if another process has repaired it meanwhile.
        # Items written under that process's number must not be lost.
        with self._named_in_errors(access, "decoded"):
            access.compare_and_swap(self.key, value, self._new_seed(floor))
        events.note(
            "repaired",
            "Namespace %r: the counter went back from %d to %d: repaired",
            self.namespace,
            floor,
            found,
        )

    def _increment(self, access: CounterAccess) -> int | None:
        # Increment again if the counter had to be seeded or repaired. If several
        # processes find it lost or too low at the same time, each must get a number of
        # its own.
        for _ in range(_MAX_REPAIRS):
            read = CounterRead(self.latest + 1, self._now(), self.was_reached)
            read.value = answer = self._incremented(access)
            if answer is False:
                # pymemcache in its retry window, or with ignore_exc.
                return None
            own = answer
            if answer is ABSENT:
                # A newly seeded counter starts a new generation as well.
                own = self._seed(access, reached=read.reached)
            if answer in (ABSENT, _NO_REPLY):
                read.began = self._now()
                read.value = self._get(access)
            generation = self._settle(access, read)
            if generation is None or own in (generation, _NO_REPLY):
                return generation
        raise self._unsettled()

    def _incremented(self, access: CounterAccess) -> object:
        adapter = access.adapter
        try:
            answer = access.increment(self.key)
        except adapter.not_found:
            answer = None
        except adapter.not_a_number as error:
            # The error for the counter's value is clearer, if there is one.
            self.read(access)
            raise self._unfit(f"cannot be incremented ({error})") from error
        return ABSENT if answer is None else answer

    def _seed(self, access: CounterAccess, *, reached: bool) -> int | None:
        """Store a counter if there is none. Return its number, or None.

        `reached` tells whether this process had read the counter before it was missing.
        """
        number = self._new_seed(self.latest)
        with self._named_in_errors(access, "encoded"):
            if not access.create(self.key, number):
                return None
        if reached:
            events.note("lost", "Namespace %r: the counter was lost", self.namespace)
        else:
            events.note("seeded", "Namespace %r: counter seeded", self.namespace)
        return number

    def _get(self, access: CounterAccess) -> object:
        with self._named_in_errors(access, "decoded"):
            return access.get(self.key)

    def _new_seed(self, above: int) -> int:
        number = seed(max(above, self.latest))
        if number > MAX_GENERATION:
            raise self._unfit(f"had the value {above}, which is too large")
        return number

    def _now(self) -> float:
        """Return the moment, if an alias trusts the latest generation for a time."""
        return clock.monotonic() if self.is_timed else _NEVER

    def _note_latest(self, generation: int, began: float) -> None:
        if generation == self.latest:
            self._read_at = began
            self.was_reached = True
        elif generation > self.latest:
            with _lock:
                if generation > self.latest:
                    # `latest` comes first, because `trusted` takes no lock.
                    self.latest, self._read_at = generation, began
                    self.was_reached = True

    # Errors.

    def generation_in(self, value: object) -> int:
        """Return the generation that a value of this counter represents.

        Raises NamespaceError for any other value. The error names the counter and the
        value.
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

    def _acknowledged(
        self, ask: Callable[[CounterAccess], int | None], access: CounterAccess
    ) -> int:
        """Return the number that the server answers, or raise NamespaceUnavailable."""
        try:
            number = ask(access)
        except NamespaceError:
            raise
        except Exception as error:
            kind = type(error).__name__
            cause = f"{kind}: {error}" if str(error) else kind
            raise self.unavailable(f"no answer from the server ({cause})") from error
        if number is None:
            raise self.unavailable(
                "no answer from the server (the client treats it as down, or hides the "
                "error)"
            )
        return number

    @contextmanager
    def _named_in_errors(self, access: CounterAccess, how: str) -> Iterator[None]:
        """Name the counter in the error if the client's serializer fails."""
        try:
            yield
        except Exception as error:
            if access.adapter.is_undecodable(error):
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
