"""The counters of this process: one for each, shared by threads and aliases."""

from __future__ import annotations

from namespaced_cache.core.counter import Counter
from namespaced_cache.forks import new_lock

_counters: dict[tuple[str, ...], Counter] = {}
_lock = new_lock()


def counter(namespace: str, server: str, client_prefix: str) -> Counter:
    """Return this process's only Counter of a namespace on a server. No round trip.

    Clients with different values of `client_prefix` store their counters under
    different keys.
    """
    with _lock:
        return _counters.setdefault(
            (namespace, server, client_prefix),
            Counter(namespace, server, client_prefix),
        )
