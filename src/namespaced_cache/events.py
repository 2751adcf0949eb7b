"""Events: what this process does to counters. Each event is logged and counted.

invalidated   this process invalidated a namespace
seeded        this process stored a counter where it had never seen one
lost          this process stored a counter again, because an eviction, a restart or a
              `flush_all` had removed it; the whole namespace is invalidated by this
repaired      this process raised a counter that had gone back, on a server that was
              down and has returned
"""

from __future__ import annotations

import logging
from collections import Counter as Tally

from namespaced_cache.forks import new_lock

logger = logging.getLogger("namespaced_cache")

_LEVELS = {
    "invalidated": logging.DEBUG,
    "seeded": logging.INFO,
    "lost": logging.WARNING,
    "repaired": logging.WARNING,
}

_tally = Tally(dict.fromkeys(_LEVELS, 0))
_lock = new_lock()


def note(event: str, message: str, *arguments: object) -> None:
    """Count an event and log it."""
    with _lock:
        _tally[event] += 1
    logger.log(_LEVELS[event], message, *arguments)


def counts() -> dict[str, int]:
    """Return how often each event has happened in this process, for metrics."""
    with _lock:
        return dict(_tally)
