"""The guard: warns where a test run reaches what others keep in memcached."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

from django.core.cache.backends.memcached import BaseMemcachedCache

from namespaced_cache import locations
from namespaced_cache.backend import NamespacedCache
from namespaced_cache.errors import NamespaceWarning

#: The client classes whose `flush_all` empties a server, by their module.
_CLIENTS = {
    "pymemcache.client.base": ("Client", "PooledClient"),
    "pymemcache.client.hash": ("HashClient",),
    "pylibmc.client": ("Client",),
}

#: Packages that lie between such a call and the code that wanted it.
_BETWEEN = {"asgiref", "django", "namespaced_cache", "pylibmc", "pymemcache"}

#: From here on, systems give ports to whoever asks for any that is free.
_FREE_PORTS = 32768


class Guard:
    """Warns of aliases without a namespace, once, and of every bare `flush_all`.

    `remedy` is the line that gives the aliases their namespace.
    """

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._has_warned = False
        self._watched: set[type] = set()
        self._unwatch: list[Callable[[], None]] = []

    def look_at(self, alias: str, cache: Any) -> None:
        """Warn if this is a bare memcached backend on a server that is not private."""
        if isinstance(cache, NamespacedCache) or not isinstance(
            cache, BaseMemcachedCache
        ):
            return
        shared = [server for server in cache.client_servers if not is_private(server)]
        if shared and not self._has_warned:
            _warn(
                f"The cache alias {alias!r} reaches memcached at {shared[0]} without a "
                f"namespace: tests read and overwrite what others keep there. "
                f"{self._remedy}",
                _place(),
            )
            # Not before: where warnings are errors, no test is to get by.
            self._has_warned = True

    def warn_of(self, error: Exception) -> None:
        """Warn of a namespace that cannot be had."""
        _warn(f"{error} Tests that need it will fail, or find nothing.", _place())

    def watch_clients(self) -> None:
        """Have `flush_all` reported; a namespaced one never gets as far as a client.

        To be called again, because a client library is imported when it is needed.
        """
        for module, names in _CLIENTS.items():
            if module in sys.modules:
                for name in names:
                    client_class = getattr(sys.modules[module], name)
                    if client_class not in self._watched:
                        self._watched.add(client_class)
                        self._watch(client_class)

    def close(self) -> None:
        """Report no more."""
        while self._unwatch:
            self._unwatch.pop()()

    def _watch(self, client_class: Any) -> None:
        original = client_class.flush_all

        @wraps(original)
        def flush_all(client: Any, *args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1)
            # Once, and not again for each server of a HashClient.
            if _package(caller) != "pymemcache":
                place = _place()
                _warn(
                    f"flush_all() on a client without a namespace, at "
                    f"{place.f_code.co_filename}:{place.f_lineno}: it takes all keys "
                    f"of the server. `cache.clear()` of a namespaced alias takes the "
                    f"test's own.",
                    place,
                )
            return original(client, *args, **kwargs)

        if "flush_all" in vars(client_class):
            self._unwatch.append(lambda: setattr(client_class, "flush_all", original))
        else:
            self._unwatch.append(lambda: delattr(client_class, "flush_all"))
        client_class.flush_all = flush_all


def is_private(server: Any) -> bool:
    """Tell whether a server was evidently started for this test run alone.

    Its socket lies among temporary files, or it listens on a loopback port of those
    that systems give to whoever asks for any.
    """
    with suppress(ValueError):  # no address, or a host's name
        address = locations.address(server)
        if isinstance(address, str):
            return Path(address).is_relative_to(tempfile.gettempdir())
        host, port = address
        is_loopback = host == "localhost" or ip_address(host).is_loopback
        return is_loopback and port >= _FREE_PORTS
    return False


def _place() -> FrameType:
    """Return the innermost frame that is neither Django's nor a library's."""
    place = sys._getframe()
    while _package(place) in _BETWEEN and place.f_back is not None:
        place = place.f_back
    return place


def _package(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def _warn(text: str, place: FrameType) -> None:
    warnings.warn_explicit(
        text,
        NamespaceWarning,
        place.f_code.co_filename,
        place.f_lineno,
        registry=place.f_globals.setdefault("__warningregistry__", {}),
    )
