"""The counter: the number in memcached that says which generation is alive.

It is a decimal number without an expiry. Where there is none it is seeded with the time
in nanoseconds, which is ordered, never comes again and fits 63 bits until the year
2262; there is no constant to start from, because a number that was used before would
bring back what was stored under it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from namespaced_cache import libraries
from namespaced_cache.errors import NamespaceError, NamespaceUnavailable
from namespaced_cache.keys import counter_key

logger = logging.getLogger("namespaced_cache")

#: The largest generation; above it memcached's 64-bit `incr` comes near its wrap.
MAX_GENERATION = 2**63 - 1

#: A step that is larger than any number of bumps that this process can have missed.
_LEAP = 10**9

_DECIMAL = re.compile("[0-9]{1,19}")

#: How often a counter that does not settle is set right before the server is given up.
_REPAIRS = 10


class Counter:
    """One namespace's counter on one set of servers, as this process knows it.

    Shared by all threads, and by all aliases that reach the same counter; each call
    brings the client to ask through. `known` is the newest generation that was ever
    seen, 0 before the first, and never goes back.
    """

    def __init__(self, namespace: str, servers: tuple[str, ...]) -> None:
        self.namespace = namespace
        self.servers = servers
        self.key = counter_key(namespace)
        self.known = 0

    def read(self, client: Any) -> int | None:
        """Return the generation on the server, seeding it where there is none.

        None where the client hides an outage behind an empty answer; what it does not
        hide is raised as it comes. One round trip; three where it must be seeded.
        """
        floor = self.known
        return self.judge(client, client.get(self.key), floor)

    def judge(self, client: Any, answer: object, floor: int) -> int | None:
        """Return the generation that an answer of the server stands for.

        `floor` is the newest generation known before the server was asked. No round
        trip, except where the answer must be set right on the server: a counter that
        is gone is seeded, and one below `floor`, of a server that was away and has
        returned, is raised above it. Raises NamespaceError for an answer that is no
        generation.
        """
        for _ in range(_REPAIRS):
            if answer is None:
                if client.add(self.key, self._unused()):
                    logger.info("Namespace %r: counter seeded", self.namespace)
            else:
                number = self._number(answer)
                if number >= floor:
                    self._learn(number)
                    return number
                client.set(self.key, self._unused())
                logger.warning(
                    "Namespace %r: the counter went back from %d to %d and was raised",
                    self.namespace,
                    floor,
                    number,
                )
            # What counts is what stands there now: another process may have been first.
            answer = client.get(self.key)
            if answer is None:
                return None
        raise self.unavailable("its counter does not stay where it is put")

    def current(self, client: Any) -> int:
        """Return the generation on the server: one round trip, see `read`.

        Raises NamespaceUnavailable where there is none to be had.
        """
        return self._acknowledged(lambda: self.read(client))

    def bump(self, client: Any) -> int:
        """Begin a new generation and return it: one round trip.

        Raises NamespaceUnavailable unless a server acknowledged it.
        """
        return self._acknowledged(lambda: self._bumped(client))

    def unavailable(self, reason: str) -> NamespaceUnavailable:
        """Make the error that names this namespace and its servers."""
        return NamespaceUnavailable(
            f"Namespace {self.namespace!r} on {', '.join(self.servers)}: {reason}."
        )

    def _acknowledged(self, ask: Callable[[], int | None]) -> int:
        try:
            number = ask()
        except NamespaceError:
            raise
        except Exception as error:
            what = (
                f"{type(error).__name__}: {error}"
                if str(error)
                else type(error).__name__
            )
            raise self.unavailable(f"no answer from the server ({what})") from error
        if number is None:
            raise self.unavailable(
                "no answer from the server (the client takes it to be away, and did "
                "not ask)"
            )
        return number

    def _bumped(self, client: Any) -> int | None:
        library = libraries.of(client)
        floor = self.known
        try:
            answer = client.incr(self.key, 1)
        except library.not_found:
            answer = None
        except library.away:
            raise
        except Exception:
            # Rubbish cannot be incremented, and says so better when it is read.
            self.read(client)
            raise
        if answer is False:
            # pymemcache within its retry window, or with ignore_exc.
            return None
        # A number that was lost and is seeded anew is a new generation as well.
        return self.judge(client, answer, floor + 1)

    def _number(self, answer: object) -> int:
        if isinstance(answer, int) and not isinstance(answer, bool):
            number = answer
        elif isinstance(answer, str | bytes) and _is_decimal(answer):
            # Without a serializer, pymemcache stores and returns plain digits.
            number = int(answer)
        else:
            number = 0
        if 0 < number <= MAX_GENERATION:
            return number
        raise NamespaceError(
            f"The counter of namespace {self.namespace!r}, the key {self.key!r} on "
            f"{', '.join(self.servers)}, holds {answer!r}: it takes a whole number "
            f"from 1 to {MAX_GENERATION}. Delete that key, and the namespace starts "
            f"anew."
        )

    def _unused(self) -> int:
        now = time.time_ns()
        # Where the clock was set back, far above what others have bumped to meanwhile.
        return now if now > self.known else self.known + _LEAP

    def _learn(self, number: int) -> None:
        if number > self.known:
            with _lock:
                self.known = max(self.known, number)


def _is_decimal(answer: str | bytes) -> bool:
    # Not isdigit(): "²" is a digit. Not longer: int() of very many digits raises.
    text = answer if isinstance(answer, str) else answer.decode("latin-1")
    return _DECIMAL.fullmatch(text) is not None


_counters: dict[tuple[object, ...], Counter] = {}
_lock = threading.Lock()


def counter(namespace: str, servers: tuple[str, ...], place: str) -> Counter:
    """Return this process's one Counter for a namespace in a place.

    `place` tells apart clients that would look for the same key on different servers,
    or under different names.
    """
    with _lock:
        return _counters.setdefault(
            (namespace, servers, place), Counter(namespace, servers)
        )


def _after_fork_in_child() -> None:
    # Another thread may have held the lock when the process forked.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
