"""The signal by which a project resets what it keeps beside the cache."""

from __future__ import annotations

from typing import Any

from django.core.cache import caches
from django.dispatch import Signal

from namespaced_cache.backend import NamespacedCache

#: Sent when this process has invalidated a namespace, in whatever way, and the server
#: has acknowledged it. `sender` is NamespacedCache, `namespace` the name with its
#: worker, `generation` the new number, and `alias` that of this thread's backend which
#: did it, or None if it is no alias's.
namespace_invalidated = Signal()


def send(client: Any, namespace: str, generation: int) -> None:
    """Send it, for the client that did it. What a receiver raises goes on."""
    if namespace_invalidated.has_listeners(NamespacedCache):
        namespace_invalidated.send(
            NamespacedCache,
            alias=_alias(client),
            namespace=namespace,
            generation=generation,
        )


def _alias(client: Any) -> str | None:
    connections = caches._connections  # type: ignore[attr-defined]
    for alias in caches:
        cache: Any = getattr(connections, alias, None)
        # Of others, to ask for the client could make one.
        if issubclass(type(cache), NamespacedCache) and cache._cache is client:
            return alias
    return None
