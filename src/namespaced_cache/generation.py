"""The counter: the number in memcached that says which generation is alive.

It is a decimal number without an expiry. Where there is none it is seeded with the time
in nanoseconds, which is ordered, never comes again and fits 63 bits until the year
2262; there is no constant to start from, because a number that was used before would
bring back what was stored under it.
"""

from __future__ import annotations

import re
import reprlib
import time
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    contextmanager,
)
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from namespaced_cache import events, libraries
from namespaced_cache.errors import NamespaceError, NamespaceUnavailable
from namespaced_cache.keys import counter_key
from namespaced_cache.locks import ForkableLock
from namespaced_cache.look import ABSENT, UNASKED, Look

if TYPE_CHECKING:
    from namespaced_cache.piggyback import Request

#: A generation has 19 digits, as every number of nanoseconds has since September 2001:
#: what has fewer was not put there by us.
MIN_GENERATION = 10**18

#: The largest generation; above it memcached's 64-bit `incr` comes near its wrap.
MAX_GENERATION = 2**63 - 1

#: What libmemcached answers to an `incr` that it was told to expect no reply to.
_NO_REPLY = 2**64 - 1

#: A step that is larger than any number of bumps that this process can have missed.
_LEAP = 10**9

_DECIMAL = re.compile("[0-9]{19}")

#: How often a counter that does not settle is set right before the server is given up.
_REPAIRS = 10


class Counter:
    """One namespace's counter on its server, as this process knows it.

    Shared by all threads, and by all aliases that reach the same counter; each call
    brings the client to ask through. `known` is the newest generation that was ever
    seen, 0 before the first, and never goes back.
    """

    def __init__(self, namespace: str, server: str) -> None:
        self.namespace = namespace
        self.server = server
        self.key = counter_key(namespace)
        self.known = 0
        #: The moment when a question was asked whose answer was `known`.
        self._asked = float("-inf")

    def trusted(self, max_staleness: float) -> int | None:
        """Return the generation to use without a look at the server, if there is one.

        That is the one pinned in this context, or the known one if a server confirmed
        it within the last `max_staleness` seconds. No round trip.
        """
        pins = _pins.get()
        if pins:
            for pin in reversed(pins):
                if pin.counter is self:
                    return pin.number
        # The moment is read before the number that it must not be newer than.
        if max_staleness and time.monotonic() - self._asked < max_staleness:
            return self.known
        return None

    @property
    def was_reached(self) -> bool:
        """Whether this process has ever had an answer. No round trip."""
        return self._asked > float("-inf")

    def outdate(self) -> None:
        """Let nothing count that stands on the server now. No round trip.

        For a server that was never reached: what it has when it is, is set right then.
        """
        with _lock:
            self.known = self._unused()

    def stands_at(self, generation: int, max_staleness: float) -> bool:
        """Tell whether a generation that was trusted still is; threads share theirs."""
        return generation == self.known or generation == self.trusted(max_staleness)

    def look(self, request: Request | None = None) -> Look:
        """Begin a look: to be answered, and then given to `judge`. No round trip."""
        return Look(self.known, time.monotonic(), request)

    def read(self, client: Any) -> int | None:
        """Return the generation on the server, seeding it where there is none.

        None where the client hides an outage behind an empty answer; what it does not
        hide is raised as it comes. One round trip; three where it must be seeded.
        """
        look = self.look()
        look.answer = self._ask(client)
        return self.judge(client, look)

    def seen(self, client: Any, look: Look) -> int | None:
        """Return the newest generation known after a look; None as `read` does.

        No round trip if the look was answered on its way.
        """
        known = self.known
        if look.answer == known == look.floor:  # as nearly always
            self._asked = look.asked
            return known
        if look.answer is UNASKED:
            look.asked = time.monotonic()
            look.answer = self._ask(client)
        # Another thread may have begun a newer one since.
        return None if self.judge(client, look) is None else self.known

    def judge(self, client: Any, look: Look) -> int | None:
        """Return the generation that the answer to a look stands for.

        No round trip, except where the server must be set right: a counter that is gone
        is seeded, and one below the look's floor, of a server that was away and has
        returned, is raised above what is known. Raises NamespaceError for an answer
        that is no generation.
        """
        answer, asked = look.answer, look.asked
        for _ in range(_REPAIRS):
            seeded = False
            if answer is ABSENT:
                seeded = self._seed(client) is not None
            else:
                number = self.number_in(answer)
                if number >= look.floor:
                    self._learn(number, asked)
                    return number
                # Only if nobody else has raised it meanwhile: what was written under
                # another process's number must not be lost to ours.
                with self._coded(client, "decoded"):
                    libraries.of(client).swap(client, self.key, answer, self._unused())
                events.note(
                    "set_right",
                    "Namespace %r: the counter went back from %d to %d: set right",
                    self.namespace,
                    look.floor,
                    number,
                )
            # What counts is what stands there now: another process may have been first.
            asked = time.monotonic()
            answer = self._ask(client)
            if answer is ABSENT and not seeded:
                return None
        raise self._unsettled()

    def current(self, client: Any) -> int:
        """Return the generation on the server: one round trip, see `read`.

        Raises NamespaceUnavailable where there is none to be had.
        """
        return self._acknowledged(lambda: self.read(client))

    def bump(self, client: Any) -> int:
        """Begin a new generation and return it: one round trip.

        What is pinned in this context moves with it. Raises NamespaceUnavailable
        unless the server acknowledged it.
        """
        number = self._acknowledged(lambda: self._bumped(client))
        for pin in _pins.get():
            if pin.counter is self:
                with _lock:  # tasks that share the pin may bump at the same time
                    pin.number = max(pin.number, number)
        return number

    def unavailable(self, reason: str) -> NamespaceUnavailable:
        """Make the error that names this namespace and its server."""
        return NamespaceUnavailable(
            f"Namespace {self.namespace!r} on {self.server}: {reason}."
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
                "no answer from the server (the client takes it to be away, or hides "
                "why)"
            )
        return number

    def _bumped(self, client: Any) -> int | None:
        # Again where the counter had to be set right: of those who find it lost, or too
        # low, at the same time, each is to have a number of its own.
        for _ in range(_REPAIRS):
            look = Look(self.known + 1, time.monotonic())
            look.answer = answer = self._incremented(client)
            if answer is False:
                # pymemcache within its retry window, or with ignore_exc.
                return None
            own = answer
            if answer is ABSENT:
                # A number that was lost and is seeded anew is a new generation as well.
                own = self._seed(client)
            if answer in (ABSENT, _NO_REPLY):
                look.asked = time.monotonic()
                look.answer = self._ask(client)
            number = self.judge(client, look)
            if number is None or own in (number, _NO_REPLY):
                return number
        raise self._unsettled()

    def _incremented(self, client: Any) -> object:
        library = libraries.of(client)
        try:
            answer = client.incr(self.key, 1)
        except library.not_found:
            answer = None
        except library.not_a_number as error:
            # What is read may say better what is wrong.
            self.read(client)
            raise self._unfit(f"cannot be incremented ({error})") from error
        return ABSENT if answer is None else answer

    def _seed(self, client: Any) -> int | None:
        """Put a counter where there is none; tell its number, if it was put."""
        seed = self._unused()
        with self._coded(client, "encoded"):
            if not client.add(self.key, seed):
                return None
        if self.was_reached:
            events.note("lost", "Namespace %r: the counter was lost", self.namespace)
        else:
            events.note("seeded", "Namespace %r: counter seeded", self.namespace)
        return seed

    def _ask(self, client: Any) -> object:
        with self._coded(client, "decoded"):
            return client.get(self.key, ABSENT)

    @contextmanager
    def _coded(self, client: Any, how: str) -> Iterator[None]:
        """Name the counter where the client's serializer is what fails."""
        try:
            yield
        except Exception as error:
            if libraries.of(client).is_undecodable(error):
                raise self._unfit(f"cannot be {how} ({error})") from error
            raise

    def number_in(self, answer: object) -> int:
        """Return the generation that a value stands for.

        Raises NamespaceError, which names the counter and the value, if it is none.
        """
        number = generation_in(answer)
        if number is not None:
            return number
        raise self._unfit(
            f"holds {reprlib.repr(answer)}: it takes a whole number of 19 digits, up "
            f"to {MAX_GENERATION}"
        )

    def _unsettled(self) -> NamespaceUnavailable:
        return self.unavailable("its counter does not stay where it is put")

    def _unfit(self, fault: str) -> NamespaceError:
        return NamespaceError(
            f"The counter of namespace {self.namespace!r}, the key {self.key!r} on "
            f"{self.server}, {fault}. If it is not the client's serializer that makes "
            f"it so, delete that key, and the namespace starts anew."
        )

    def _unused(self) -> int:
        now = time.time_ns()
        if now < MIN_GENERATION:  # a machine whose clock was never set
            now += MIN_GENERATION
        # Where the clock was set back, far above what others have bumped to meanwhile.
        return now if now > self.known else self.known + _LEAP

    def _learn(self, number: int, asked: float) -> None:
        if number == self.known:
            self._asked = asked
        elif number > self.known:
            with _lock:
                if number > self.known:
                    # In this order, because `trusted` takes no lock.
                    self.known, self._asked = number, asked


def generation_in(answer: object) -> int | None:
    """Return the generation that a counter's value stands for; None if it is none."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        number = answer
    elif isinstance(answer, str | bytes) and _is_decimal(answer):
        # Without a serializer, pymemcache stores and returns plain digits.
        number = int(answer)
    else:
        return None
    return number if MIN_GENERATION <= number <= MAX_GENERATION else None


def _is_decimal(answer: str | bytes) -> bool:
    # Not isdigit(): "²" is a digit. Not longer: int() of very many digits raises.
    text = answer if isinstance(answer, str) else answer.decode("latin-1")
    return _DECIMAL.fullmatch(text) is not None


class Pin:
    """The generation that a context uses without looking, until it is moved."""

    def __init__(self, counter: Counter, number: int) -> None:
        self.counter = counter
        self.number = number


#: The pins of this context, the innermost last. A task that is started within a block
#: inherits them; it shares each Pin itself, which an invalidation in either moves.
_pins: ContextVar[tuple[Pin, ...]] = ContextVar("namespaced_cache_pins", default=())


class PinnedGeneration(
    AbstractContextManager[int, None], AbstractAsyncContextManager[int, None]
):
    """A block, `with` or `async with`, in which one generation is used: see `Pin`.

    `look` asks the server which; it is one round trip, at the block's start. Gives that
    generation. Not to be entered twice.
    """

    def __init__(self, look: Callable[[], Pin]) -> None:
        self._look = look
        self._pin: Pin | None = None

    def __enter__(self) -> int:
        return self._begin(self._look())

    def __exit__(self, *_: object) -> None:
        # By what it is, not by a ContextVar's token, which is of no use where an
        # asynchronous fixture begins in one context and ends in another.
        _pins.set(tuple(pin for pin in _pins.get() if pin is not self._pin))

    async def __aenter__(self) -> int:
        return self._begin(await sync_to_async(self._look, thread_sensitive=True)())

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def _begin(self, pin: Pin) -> int:
        if self._pin is not None:
            raise RuntimeError("A pinned_generation() is entered once; make another.")
        self._pin = pin
        _pins.set((*_pins.get(), pin))
        return pin.number


_counters: dict[tuple[str, ...], Counter] = {}
_lock = ForkableLock()


def counter(namespace: str, server: str, place: str) -> Counter:
    """Return this process's one Counter for a namespace on a server.

    `place` tells apart clients that would look for it there under different keys.
    """
    with _lock:
        return _counters.setdefault(
            (namespace, server, place), Counter(namespace, server)
        )
