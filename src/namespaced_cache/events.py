"""Events: what befalls the counters as this process sees it, logged and counted.

invalidated   a namespace was forgotten from here
seeded        a counter was put where this process had never seen one
lost          one was put where there had been one, which an eviction, a restart or
              somebody's `flush_all` took away: what the namespace held is forgotten
set_right     a counter that had gone back, on a server that was away, was raised
"""

from __future__ import annotations

import logging
from collections import Counter as Tally

from namespaced_cache.locks import ForkableLock

logger = logging.getLogger("namespaced_cache")

_LEVELS = {
    "invalidated": logging.DEBUG,
    "seeded": logging.INFO,
    "lost": logging.WARNING,
    "set_right": logging.WARNING,
}

_tally = Tally(dict.fromkeys(_LEVELS, 0))
_lock = ForkableLock()


def note(event: str, message: str, *arguments: object) -> None:
    """Count an event and log it."""
    with _lock:
        _tally[event] += 1
    logger.log(_LEVELS[event], message, *arguments)


def counts() -> dict[str, int]:
    """Return how often each event has happened in this process, and for metrics."""
    with _lock:
        return dict(_tally)
