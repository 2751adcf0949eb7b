"""Generations: which numbers there are, and how a value of a counter stands for one."""

from __future__ import annotations

import re

#: A generation has 19 digits, as every number of nanoseconds has since September 2001.
#: This package has stored no number with fewer.
MIN_GENERATION = 10**18

#: The largest generation; above it memcached's 64-bit `incr` comes near its wrap.
MAX_GENERATION = 2**63 - 1

_DECIMAL = re.compile("[0-9]{19}")


def generation_in(value: object) -> int | None:
    """Return the generation that a counter's value stands for; None if it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str | bytes) and _is_decimal(value):
        # Without a serializer, pymemcache stores and returns plain digits.
        number = int(value)
    else:
        return None
    return number if MIN_GENERATION <= number <= MAX_GENERATION else None


def _is_decimal(value: str | bytes) -> bool:
    # Not isdigit(): "²" is a digit. Not longer: int() of very many digits raises.
    text = value if isinstance(value, str) else value.decode("latin-1")
    return _DECIMAL.fullmatch(text) is not None
