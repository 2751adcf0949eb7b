"""Clocks that show the real time, even if a test replaces those of the module `time`.

Tests patch `time.time` and `time.monotonic`, stop them or let them jump. freezegun also
replaces each attribute of a module that is one of these functions. So the functions are
kept in a tuple, and where the system has `clock_gettime()`, that is the source.

time-machine replaces the functions of the interpreter itself. Then `wall()` shows its
time. That can only let an item expire too early, as it does on the bare backend.
"""

from __future__ import annotations

import time
from functools import partial

if hasattr(time, "clock_gettime"):
    _READ = (
        partial(time.clock_gettime, time.CLOCK_MONOTONIC),
        partial(time.clock_gettime, time.CLOCK_REALTIME),
    )
else:  # Windows
    _READ = (time.monotonic, time.time)  # type: ignore[assignment]


def monotonic() -> float:
    """Return a number of seconds that never goes back within this process."""
    return _READ[0]()


def wall() -> float:
    """Return the number of seconds since 1970, as far as the machine knows it."""
    return _READ[1]()
