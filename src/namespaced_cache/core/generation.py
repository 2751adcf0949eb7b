"""Generations: which numbers are valid, and how to read one from a counter's value."""

from __future__ import annotations

import re

#: A generation has 19 digits, like every time in nanoseconds since September 2001. This
#: package never stores a smaller number.
MIN_GENERATION = 10**18

#: The largest generation. Far above it, memcached's 64-bit `incr` wraps around.
MAX_GENERATION = 2**63 - 1

_DECIMAL = re.compile("[0-9]{19}")


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
