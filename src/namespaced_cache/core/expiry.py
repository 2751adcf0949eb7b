"""Expiry: how memcached reads a number of seconds, and how MAX_TIMEOUT caps one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from namespaced_cache.adapters.commands import Command

#: Memcached takes a larger number for a moment, in seconds since 1970 (its
#: protocol.txt, "Expiration times").
LONGEST_RELATIVE = 30 * 24 * 60 * 60


def capped(expiry: object, max_timeout: int) -> object:
    """Return an expiry as a client takes it, but not later than in `max_timeout` s.

    0 is never, and so the latest of all; a negative number is at once. Anything but a
    whole number is returned as it is, for the client to refuse.
    """
    if not isinstance(expiry, int) or expiry < 0:
        return expiry
    now = int(time.time())
    seconds = expiry if expiry <= LONGEST_RELATIVE else expiry - now
    if expiry and seconds <= max_timeout:
        return expiry
    return max_timeout if max_timeout <= LONGEST_RELATIVE else now + max_timeout


def capped_arguments(
    command: Command, args: Sequence[Any], kwargs: dict[str, Any], max_timeout: int
) -> tuple[Any, ...]:
    """Return the arguments that follow a command's keys, with the expiry capped.

    An expiry in `kwargs` is capped in place.
    """
    if command.expiry is None:
        return tuple(args)
    name, position = command.expiry
    if position >= len(args):
        kwargs[name] = capped(kwargs.get(name, 0), max_timeout)
        return tuple(args)
    expiry = capped(args[position], max_timeout)
    return (*args[:position], expiry, *args[position + 1 :])
