"""Generations: which numbers there are, and how new ones are chosen.

A counter starts from a seed, and each invalidation adds 1. A seed is the time in
nanoseconds plus a random number of up to 2**30, which is one second. So seeds rise from
second to second. If a clock is wrong or stands still, a seed may be too low, but two
processes still do not choose the same one.

The generations that one counter has had since its seed are a *lineage*.
"""

from __future__ import annotations

import re
import secrets

from namespaced_cache.core import clock

#: A generation has 19 digits, like every time in nanoseconds since September 2001. This
#: package never stores a smaller number.
MIN_GENERATION = 10**18

#: The largest generation. Far above it, memcached's 64-bit `incr` wraps around.
MAX_GENERATION = 2**63 - 1

_DECIMAL = re.compile("[0-9]{19}")

#: The random bits of a seed. If two processes seed at the same time, and invalidate a
#: hundred times, the chance that a number comes twice is one in ten million.
_RANDOM_BITS = 30

#: Counters whose numbers differ by less count as one lineage.
LINEAGE = 2**16

#: The last second for which a seed is made of a clock: in 2200. A seed for a later one
#: would leave little room below MAX_GENERATION.
_LAST_SECOND = 7_258_118_400


def seed(above: int) -> int:
    """Return a number for a new counter that no process has used before.

    It is larger than `above`, the latest generation that the caller knows.
    """
    second = clock.wall()
    if not second * 10**9 >= MIN_GENERATION or second > _LAST_SECOND:
        second = MIN_GENERATION // 10**9  # a machine whose clock was never set
    return max(above, int(second * 10**9)) + 1 + secrets.randbits(_RANDOM_BITS)


def is_of_lineage(generation: int, value: int) -> bool:
    """Tell whether a counter with this value has had this generation since its seed."""
    return 0 <= value - generation < LINEAGE


def generation_in(value: object) -> int | None:
    """Return the generation that a counter's value represents, or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str | bytes) and _is_decimal(value):
        # Without a serializer, pymemcache stores and returns plain digits.
        number = int(value)
    else:
        return None
    return number if MIN_GENERATION <= number <= MAX_GENERATION else None


def _is_decimal(value: str | bytes) -> bool:
    # isdigit() is not used, because "²" is a digit. The length is limited, because
    # int() raises an error for very many digits.
    text = value if isinstance(value, str) else value.decode("latin-1")
    return _DECIMAL.fullmatch(text) is not None
