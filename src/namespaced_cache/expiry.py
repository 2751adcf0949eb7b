"""Expiry: how memcached reads a number of seconds, and how one is capped."""

from __future__ import annotations

import time

#: Memcached takes a larger number for a moment, in seconds since 1970 (its
#: protocol.txt, "Expiration times").
LONGEST_RELATIVE = 30 * 24 * 60 * 60


def capped(expiry: object, longest: int) -> object:
    """Return an expiry as a client takes it, but not later than in `longest` seconds.

    0 is never, and so the latest of all; a negative number is at once. What is no whole
    number stays, for the client to refuse.
    """
    if not isinstance(expiry, int) or expiry < 0:
        return expiry
    now = int(time.time())
    seconds = expiry if expiry <= LONGEST_RELATIVE else expiry - now
    if expiry and seconds <= longest:
        return expiry
    return longest if longest <= LONGEST_RELATIVE else now + longest
