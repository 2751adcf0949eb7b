"""Isolation of tests: what the pytest plugin, the runner and the mixin have in common.

Each of them knows when a class or a test begins, and says so by `forget()`. Memcached
aliases are wrapped where backends are created; `settings.CACHES` stays as it is,
because applications look at it.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections.abc import Mapping
from copy import copy
from functools import wraps
from typing import Any

from django.conf import settings
from django.core.cache import CacheHandler, caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.cache.backends.memcached import BaseMemcachedCache

from namespaced_cache import aliases, identity, options, wrapped
from namespaced_cache.backend import NamespacedCache
from namespaced_cache.errors import NamespaceUnavailable
from namespaced_cache.generation import Counter
from namespaced_cache.guard import Guard
from namespaced_cache.locks import ForkableLock

#: The environment variable that tells child processes that aliases are wrapped.
WRAP_VARIABLE = "NAMESPACED_CACHE_WRAP"

#: For how many seconds an item of a test may stay, unless MAX_TIMEOUT says otherwise.
DAY = 24 * 60 * 60


class Isolation:
    """The isolation of a test run in this process, from `start()` to `stop()`.

    With `wrap`, memcached aliases that have no namespace get one. Without, a warning
    tells of them and recommends `remedy`. `invalidations` counts how often each
    namespace, by its name and server, was invalidated.
    """

    def __init__(self, *, wrap: bool, remedy: str = "") -> None:
        self.invalidations: Tally[str] = Tally()
        self._wrap = wrap
        self._guard = Guard(remedy)
        self._is_started = False
        #: Whether what is not fresh is to be forgotten when it is opened.
        self._forgets = False
        #: The counters that were bumped since the last test or class began.
        self._fresh: set[Counter] = set()
        #: Those whose server was never reached.
        self._away: set[Counter] = set()

    def start(self) -> None:
        """Isolate backends from now on where they are created, and those that are."""
        global _current
        # A test may run tests of its own.
        self._outer, _current = _current, self
        self._outer_wrap = os.environ.get(WRAP_VARIABLE)
        # Named now, for child processes that are started next.
        identity.run()
        identity.name_children()
        if self._wrap:
            os.environ[WRAP_VARIABLE] = "1"
        self._is_started = True
        handlers: Any = CacheHandler  # a method is not to be assigned, for mypy
        self._original = handlers.create_connection

        @wraps(self._original)
        def create_connection(handler: Any, alias: str) -> Any:
            create = self._create if self._is_started else self._original
            return create(handler, alias)

        handlers.create_connection = self._patch = create_connection
        if settings.configured:
            self._isolate_opened_backends()

    def stop(self) -> None:
        """Let backends be created as they were before."""
        global _current
        _current = self._outer
        if self._outer_wrap is None:
            os.environ.pop(WRAP_VARIABLE, None)
        else:
            os.environ[WRAP_VARIABLE] = self._outer_wrap
        self._is_started = False
        self._guard.close()
        handlers: Any = CacheHandler
        if handlers.create_connection is self._patch:  # and not somebody else's on top
            handlers.create_connection = self._original

    def forget(self) -> None:
        """Invalidate all namespaces of this process: one round trip for each.

        A server that was never reached is warned of, once, and then left alone, because
        who does not use it shall not miss it. Raises what `invalidate_namespaces()`
        raises for the others.
        """
        identity.name_children()  # a worker that was forked is one by now
        with _lock:
            self._fresh.clear()
            self._forgets = True
            # Bare ones are not opened here: the guard would take it for the test's.
            found = aliases.namespaced_caches(
                alias
                for alias in caches
                if self._isolates(alias, caches.settings[alias])
            )
            for alias in self._forget(found):
                del caches[alias]
        # Now that what is to be guarded has been imported.
        self._guard.watch_clients()

    def leave(self) -> None:
        """Forget nothing, not even what is opened, until `forget()` is called."""
        self._forgets = False

    def _create(self, handler: Any, alias: str) -> Any:
        setting = handler.settings[alias]
        isolated = self._isolated(alias, setting)
        if isolated:
            # The handler is shared by all threads, and its settings by everybody.
            handler = copy(handler)
            handler.settings = {alias: isolated}
        cache = self._original(handler, alias)
        self._guard.look_at(alias, cache)
        # Settings that a test has overridden may lead to another server or namespace,
        # and to what an earlier test has left there.
        if isinstance(cache, NamespacedCache) and self._forgets:
            with _lock:
                if self._forget({alias: cache}):
                    cache = self._original(handler, alias)
        return cache

    def _forget(self, found: Mapping[str, NamespacedCache]) -> list[str]:
        """Invalidate what is not fresh.

        Returns the aliases whose client has just met a server that is away, and would
        not do what a new one does.
        """
        stale: dict[Counter, str] = {}
        for alias, cache in found.items():
            counter = cache._cache.counter
            if counter not in self._fresh:
                stale.setdefault(counter, alias)
        for counter in self._away & stale.keys():
            if not counter.was_reached:
                counter.outdate()
                del stale[counter]
        bumped, failed = aliases.invalidate(
            {counter: found[alias] for counter, alias in stale.items()}
        )
        for counter in bumped:
            self._fresh.add(counter)
            self.invalidations[f"{counter.namespace} on {counter.server}"] += 1
        away = []
        for counter, error in failed.items():
            if counter.was_reached or not isinstance(error, NamespaceUnavailable):
                raise error
            counter.outdate()
            self._guard.warn_of(error)
            self._away.add(counter)
            away.append(stale[counter])
        return away

    def _isolates(self, alias: str, setting: Mapping[str, Any]) -> bool:
        """Tell whether an alias has a namespace in this run."""
        try:
            backend = aliases.backend_class(alias, setting)
        except InvalidCacheBackendError:
            return False  # for Django to refuse
        return issubclass(
            backend, BaseMemcachedCache if self._wrap else NamespacedCache
        )

    def _isolated(
        self, alias: str, setting: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Return the setting of an alias that has a namespace in this run, or None."""
        if not self._isolates(alias, setting):
            return None
        if self._wrap:
            setting = aliases.wrapped_setting(alias, setting, {})
        capped = {"MAX_TIMEOUT": DAY, **(setting.get("OPTIONS") or {})}
        return {**setting, "OPTIONS": capped}

    def _isolate_opened_backends(self) -> None:
        """Isolate the backends of this thread that are there, whoever holds them."""
        connections = caches._connections  # type: ignore[attr-defined]
        for alias in caches:
            opened = getattr(connections, alias, None)
            if opened is None:
                continue  # and its backend's class is not imported either
            setting = caches.settings[alias]
            isolated = self._isolated(alias, setting)
            if not isolated:
                self._guard.look_at(alias, opened)
                continue
            if not isinstance(opened, NamespacedCache):
                wrapped.adopt(
                    opened,
                    setting.get("LOCATION", ""),
                    options.read(dict(isolated), wrapper=NamespacedCache),
                )
            del caches[alias]


_current: Isolation | None = None
_lock = ForkableLock()


def join() -> None:
    """Wrap aliases in a process that was started by a test of a run that wraps them."""
    if _current is None and os.environ.get(WRAP_VARIABLE):
        Isolation(wrap=True).start()


def current() -> Isolation | None:
    """Return the isolation that is started in this process, if there is one."""
    return _current
