"""Expiry: the number of seconds until an item expires, capped by MAX_TIMEOUT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from namespaced_cache.adapters.commands import Command
from namespaced_cache.adapters.raw_items import LONGEST_RELATIVE
from namespaced_cache.core import clock


def capped(expiry: object, max_timeout: int) -> object:
    """Return an expiry for the client, at most `max_timeout` seconds from now.

    0 means "never", so it is capped. A negative number means "at once". A value that is
    not a whole number is returned unchanged, so that the client refuses it.
    """
    if not isinstance(expiry, int) or expiry < 0:
        return expiry
    if 0 < expiry <= min(max_timeout, LONGEST_RELATIVE):
        return expiry
    # Only from here on a clock is needed, if at all.
    if expiry > LONGEST_RELATIVE and expiry - clock.wall() <= max_timeout:
        return expiry
    if max_timeout <= LONGEST_RELATIVE:
        return max_timeout
    return int(clock.wall()) + max_timeout


def expiry_of(
    command: Command, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> object:
    """Return the expiry in the arguments that follow a command's keys, or None."""
    if command.expiry is None:
        return None
    name, position = command.expiry
    return args[position] if position < len(args) else kwargs.get(name, 0)


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
