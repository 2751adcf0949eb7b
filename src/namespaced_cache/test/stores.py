"""Stores: where items are. Several aliases may be one store."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from namespaced_cache.adapters import locations
from namespaced_cache.core.binding import Binding
from namespaced_cache.core.counter import Counter


class Store(NamedTuple):
    """Where items are. Aliases with the same servers and namespace are one store."""

    counter: Counter
    #: How clients find the server of a key, if there are several.
    placement: Hashable


def store_of(binding: Binding) -> Store:
    """Return the store of a binding. No round trip."""
    if len(binding.server.all_locations) == 1:
        return Store(binding.counter, None)
    options = binding.server.options
    hasher = options.get("hasher")
    placement = (
        type(binding.adapter),
        tuple(map(locations.name, binding.server.all_locations)),
        hasher if isinstance(hasher, type) else type(hasher),
        repr(options.get("behaviors")),
    )
    return Store(binding.counter, placement)
