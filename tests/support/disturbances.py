"""Disturbances of the traffic: wrong clocks, signals that raise, and missing fixes.

Each is given to `traffic.Plan`. A child process calls `begin()` before it makes its
cache, `take()` with the hand of each thread, and `end()` after its last call.
"""

from __future__ import annotations

import codecs
import faulthandler
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

from pymemcache.client.base import Client

from tests.support.recorder import Hand

HOUR = 3_600
YEAR = 365 * 24 * HOUR

#: How the error of a call begins that a signal has broken off.
BROKEN_OFF = "BrokenOffError"


class Disturbance:
    """One disturbance. It is pickled for the processes."""

    def begin(self, index: int) -> None:
        """Begin in the child process with this index."""

    def take(self, hand: Hand, thread: int) -> None:
        """Disturb the calls of one thread. The main thread has the number 0."""

    def end(self) -> None:
        """End it, in the child process."""


# Clocks.


def frozen(by: float, begin: float) -> Callable[[], float]:
    """Return a clock that stands still, at this distance from the time `begin`."""
    return lambda: begin + by


def skewed(by: float, _: float) -> Callable[[], float]:
    """Return a clock that goes as it should, but is wrong."""
    right = time.time
    return lambda: right() + by


def jumping(by: float, _: float) -> Callable[[], float]:
    """Return a clock that jumps back and forth, by up to a distance."""
    right, dice = time.time, random.Random(by)
    return lambda: right() + dice.choice([-1, -dice.random(), 0, dice.random(), 1]) * by


#: For each process, how its clock goes wrong, and by how many seconds.
CLOCKS = {
    "all frozen": [(frozen, 0)] * 5,
    "all jump": [
        (jumping, by) for by in (10 * HOUR, 50 * YEAR, 2000 * YEAR, 3 * YEAR, HOUR)
    ],
    "behind": [
        (skewed, -5 * HOUR),
        (skewed, 0),
        (frozen, -9 * YEAR),
        (skewed, -2 * HOUR),
        (skewed, -HOUR),
    ],
    "mixed": [
        (frozen, 0),
        (skewed, 30 * YEAR),
        (jumping, YEAR),
        (skewed, 0),
        (skewed, -20 * YEAR),
    ],
}


@dataclass(frozen=True)
class Clocks(Disturbance):
    """Every process has a clock of its own, named in CLOCKS.

    Tests replace the clocks of the module `time`. What this package reads is replaced
    too, so that its seeds are made from the wrong clock. `began` is the moment at which
    frozen clocks stand.
    """

    name: str
    began: float

    def begin(self, index: int) -> None:
        """Replace the clocks for the rest of the process."""
        make, by = CLOCKS[self.name][index]
        shown = make(by, self.began)
        clocks = {
            "time.time": shown,
            "time.time_ns": lambda: int(shown() * 10**9),
            "time.monotonic": shown,
            "namespaced_cache.core.clock.wall": shown,
        }
        for name, clock in clocks.items():
            mock.patch(name, clock).start()


# Signals.


class Raised(BaseException):
    """What the signal handler raises, like KeyboardInterrupt."""


class BrokenOffError(Exception):
    """A call was broken off. It may have taken effect."""


class Storm(Disturbance):
    """Signals that raise in the main thread, in the middle of its calls.

    `longest` is the longest time between two signals, in seconds.
    """

    def __init__(self, location: str, longest: float = 0.006) -> None:
        self._location = location
        self._longest = longest
        self._is_armed = False
        self._dice = random.Random(longest)

    def begin(self, index: int) -> None:
        """Let each process have other moments."""
        self._dice.seed(index)
        faulthandler.enable()
        # The first connection loads this codec. If a signal breaks the loading off in
        # the main thread, other threads do not find the codec.
        codecs.lookup("idna")

    def take(self, hand: Hand, thread: int) -> None:
        """Let signals break off the calls of the main thread from now on."""
        if thread != 0:
            return
        hand.cache = _Disturbed(hand.cache, self._call)
        hand.client = _Disturbed(hand.client, self._call)
        signal.signal(signal.SIGALRM, self._handle)
        self._set_timer()

    def end(self) -> None:
        """Send no more signals."""
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _set_timer(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._dice.uniform(0.0001, self._longest))

    def _handle(self, *_: object) -> None:
        self._set_timer()
        if self._is_armed:
            self._is_armed = False  # one is enough for a call
            raise Raised

    def _call(self, member: Callable[..., Any], *arguments: Any) -> Any:
        try:
            try:
                self._is_armed = True
                return member(*arguments)
            finally:
                self._is_armed = False
        except Raised as error:
            # The server may still have to accept the connection and to carry out the
            # command. It takes connections in their order, and one thread serves them.
            # So it has done that when it has answered on a later connection.
            witness = Client(self._location)
            for _ in range(2):
                witness.version()
            witness.close()
            raise BrokenOffError from error


class _Disturbed:
    """A cache or a client. Its methods are called by way of a function."""

    def __init__(self, target: Any, call: Callable[..., Any]) -> None:
        self._target = target
        self._call = call

    def __getattr__(self, name: str) -> Any:
        if name == "generation":  # a property with a round trip
            return self._call(getattr, self._target, name)
        member = getattr(self._target, name)
        if name == "make_key" or not callable(member):
            return member
        return partial(self._call, member)


# Fixes that are taken out, to show that the histories notice it.


@dataclass(frozen=True)
class TakeOut(Disturbance):
    """A function is replaced by one that always returns the same."""

    name: str
    returns: Any

    def begin(self, index: int) -> None:  # noqa: ARG002  # like the others
        """Replace the function for the rest of the process."""
        mock.patch(self.name, return_value=self.returns).start()


#: Two processes that know the same number seed the same one.
SAME_SEEDS = TakeOut("namespaced_cache.core.generation.secrets.randbits", returns=0)

#: A connection stays open after a command was broken off.
NOT_CLOSED = TakeOut("namespaced_cache.adapters.broken_off.guard", returns=True)

#: All connections of a client are closed after a command was broken off.
ALL_CLOSED = TakeOut("namespaced_cache.adapters.broken_off.guard", returns=False)
