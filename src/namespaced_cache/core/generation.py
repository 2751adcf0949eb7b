"""Generations: which numbers there are, and how new ones are chosen.

A counter starts from a seed, and each invalidation adds 1. From the left, a seed
consists of

    the time, in steps of 2**44 nanoseconds (4.9 hours), so that seeds rise with time
    28 random bits, so that no two processes ever choose the same seed
    16 zero bits, for the invalidations that follow

A clock that stands still, goes back or is wrong can spoil the order of seeds, but never
makes two of them equal. All generations with the same bits but the last 16 are a
*lineage*: one counter has made them, since the time when it was seeded.
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


#: The bits of a generation that count the invalidations since the seed.
COUNTING_BITS = 16

_RANDOM_BITS = 28
_TIME_STEP = 1 << (_RANDOM_BITS + COUNTING_BITS)

#: The last second for which a seed is made of a clock: in 2200. A seed for a later one
#: would leave little room below MAX_GENERATION.
_LAST_SECOND = 7_258_118_400


def seed(above: int) -> int:
    """Return a number for a new counter that no process has used before.

    It is larger than `above`, the latest generation that the caller knows.
    """
    second = clock.wall()
    if not second * 10**9 >= MIN_GENERATION or second > _LAST_SECOND:
        second = MIN_GENERATION / 10**9  # a machine whose clock was never set
    base = max(int(second) * 10**9 // _TIME_STEP * _TIME_STEP, MIN_GENERATION)
    base = max(above, base)
    # At least one lineage above, and on average half a time step.
    leap = (1 + secrets.randbits(_RANDOM_BITS)) << COUNTING_BITS
    return (base + leap) >> COUNTING_BITS << COUNTING_BITS


def lineage(generation: int) -> int:
    """Return what the generations of one counter have in common since its seed."""
    return generation >> COUNTING_BITS


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
