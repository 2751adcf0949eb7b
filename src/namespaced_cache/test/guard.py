"""The guard: warns if a test run uses a shared memcached without a namespace."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from django.core.cache.backends.memcached import BaseMemcachedCache

from namespaced_cache.adapters import locations
from namespaced_cache.adapters.adapter import LIBRARIES, adapter_for, adapter_of
from namespaced_cache.adapters.first_command import before_first_command
from namespaced_cache.backend import NamespacedCache
from namespaced_cache.core import places

#: From this number on, systems choose the port if a program asks for any free one.
_FREE_PORTS = 32768


class Guard:
    """Warns of what a run does outside its namespaces.

    It warns once of an alias without a namespace, of each bare `flush_all`, and of the
    first command of a client that was taken out of a backend before the run.

    `remedy` is the line of settings that gives the aliases a namespace.
    """

    def __init__(self, remedy: str) -> None:
        #: The warnings that would have been raised, because warnings are errors: an
        #: application's call must not fail for them.
        self.notices: list[str] = []
        self._remedy = remedy
        self._has_warned = False
        self._watched: set[type] = set()
        self._unwatch: list[Callable[[], None]] = []

    def check(self, alias: str, cache: Any) -> None:
        """Warn if this is a bare memcached backend on a server that is not private."""
        if isinstance(cache, NamespacedCache) or not isinstance(
            cache, BaseMemcachedCache
        ):
            return
        shared = [server for server in cache.client_servers if not is_private(server)]
        if shared and not self._has_warned:
            self._has_warned = True
            self.warn(
                f"The cache alias {alias!r} reaches memcached at {shared[0]} without a "
                f"namespace: tests read and overwrite the keys of others there. "
                f"{self._remedy}"
            )

    def warn(self, text: str) -> None:
        """Warn, but never raise."""
        if not places.warn(text):
            self.notices.append(text)

    def watch_clients(self) -> None:
        """Warn of each `flush_all` of a bare client, because it empties a server.

        Call this repeatedly, because a client library is imported when it is needed.
        """
        for library in LIBRARIES:
            if library in sys.modules:
                for client_class in adapter_for(library).client_classes:
                    if client_class not in self._watched:
                        self._watched.add(client_class)
                        self._watch(client_class)

    def watch_taken(self, alias: str, client: Any) -> None:
        """Warn when a client that the backend of an alias no longer has is used.

        Code may have taken it out of the backend before the isolation began. Its
        connections are closed. It opens them again when it is used.
        """
        adapter_of(client).close(client)
        # A HashClient's clients for each server can be taken out of it.
        clients = [client, *getattr(client, "clients", {}).values()]
        ends: list[Callable[[], None]] = []

        def act() -> None:
            for end in ends:
                end()
            self.warn(
                f"A client that was taken out of CACHES[{alias!r}] before the "
                f"isolation began is used{places.described()}: its keys are in no "
                f"namespace. Take the client when it is needed: "
                f"`caches[{alias!r}]._cache`."
            )

        ends += [before_first_command(each, act) for each in clients]
        self._unwatch += ends

    def close(self) -> None:
        """Stop watching clients."""
        while self._unwatch:
            self._unwatch.pop()()

    def _watch(self, client_class: Any) -> None:
        original = client_class.flush_all

        @wraps(original)
        def flush_all(client: Any, *args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1)
            # A HashClient calls flush_all() of a client for each server. These calls
            # cause no further warning.
            if places.package(caller) != "pymemcache":
                self.warn(
                    f"flush_all() on a client without a namespace{places.described()}: "
                    f"it removes all keys of the server. `cache.clear()` of a "
                    f"namespaced alias removes only the keys of the test."
                )
            return original(client, *args, **kwargs)

        if "flush_all" in vars(client_class):
            self._unwatch.append(lambda: setattr(client_class, "flush_all", original))
        else:
            self._unwatch.append(lambda: delattr(client_class, "flush_all"))
        client_class.flush_all = flush_all


def is_private(server: Any) -> bool:
    """Tell whether a server was probably started for this test run alone.

    Such a server has its socket in the folder of temporary files, or it listens on a
    loopback port in the range from which systems choose free ports.
    """
    with suppress(ValueError):  # of an invalid address, or of a host's name
        address = locations.address(server)
        if isinstance(address, str):
            return Path(address).is_relative_to(tempfile.gettempdir())
        host, port = address
        is_loopback = host == "localhost" or ip_address(host).is_loopback
        return is_loopback and port >= _FREE_PORTS
    return False
