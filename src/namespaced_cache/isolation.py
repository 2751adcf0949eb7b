"""Isolation of tests: what the pytest plugin, the runner and the mixin have in common.

Each of them knows when a class or a test begins, and says so by `forget()`. Memcached
aliases are wrapped where backends are created; `settings.CACHES` stays as it is,
because applications look at it.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial, wraps
from typing import Any

from django.conf import settings
from django.core.cache import CacheHandler, caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.test.signals import setting_changed

from namespaced_cache import aliases, identity, options, wrapped
from namespaced_cache.backend import NamespacedCache
from namespaced_cache.generation import Counter
from namespaced_cache.guard import Guard

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
        #: The counters that were bumped since the last test or class began.
        self._fresh: set[Counter] = set()
        self._unpatch: Callable[[], None]

    def start(self) -> None:
        """Isolate backends from now on where they are created, and those that are."""
        global _current
        _current = self
        # Named now, for child processes that are started next.
        identity.run()
        identity.name_children()
        if self._wrap:
            os.environ[WRAP_VARIABLE] = "1"
        handlers: Any = CacheHandler  # a method is not to be assigned, for mypy
        original = handlers.create_connection

        @wraps(original)
        def create_connection(handler: Any, alias: str) -> Any:
            setting = handler.settings[alias]
            isolated = self._isolated(alias, setting)
            if isolated is not setting:
                # The handler is shared by all threads, and its settings by everybody.
                handler = copy(handler)
                handler.settings = {alias: isolated}
            cache = original(handler, alias)
            self._guard.look_at(alias, cache)
            return cache

        handlers.create_connection = create_connection
        self._unpatch = partial(setattr, handlers, "create_connection", original)
        setting_changed.connect(self._setting_changed)
        if settings.configured:
            self._isolate_opened_backends()

    def stop(self) -> None:
        """Let backends be created as they were before."""
        global _current
        _current = None
        os.environ.pop(WRAP_VARIABLE, None)
        self._guard.close()
        setting_changed.disconnect(self._setting_changed)
        self._unpatch()

    def forget(self) -> None:
        """Invalidate all namespaces of this process: one round trip for each.

        Raises what `invalidate_namespaces()` raises.
        """
        self._fresh.clear()
        self._forget_what_is_not_fresh()

    def _forget_what_is_not_fresh(self) -> None:
        # Others are not opened here, for the guard would take it for the test's doing.
        namespaced = [
            alias
            for alias in caches
            if self._isolated(alias, caches.settings[alias])
            is not caches.settings[alias]
        ]
        stale = {
            counter: cache
            for cache in aliases.namespaced_caches(namespaced).values()
            if (counter := cache._cache.counter) not in self._fresh
        }
        for counter in aliases.invalidate(stale):
            self._fresh.add(counter)
            self.invalidations[f"{counter.namespace} on {counter.server}"] += 1
        # Now that what is to be guarded has been imported.
        self._guard.watch_clients()

    def _setting_changed(self, *, setting: str, enter: bool, **_: Any) -> None:
        # Other settings may lead to another server or namespace, and to what an earlier
        # test has left there.
        if setting == "CACHES" and enter and self.invalidations:
            self._forget_what_is_not_fresh()

    def _isolated(self, alias: str, setting: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return another setting for an alias that has a namespace in this run."""
        try:
            backend = aliases.backend_class(alias, setting)
        except InvalidCacheBackendError:
            return setting  # for Django to refuse
        if not issubclass(backend, BaseMemcachedCache):
            return setting
        if self._wrap:
            setting = aliases.wrapped_setting(alias, setting, {})
        elif not issubclass(backend, NamespacedCache):
            return setting
        capped = {"MAX_TIMEOUT": DAY, **(setting.get("OPTIONS") or {})}
        return {**setting, "OPTIONS": capped}

    def _isolate_opened_backends(self) -> None:
        """Isolate the backends of this thread that are there, whoever holds them."""
        connections = caches._connections  # type: ignore[attr-defined]
        for alias in caches:
            opened = getattr(connections, alias, None)
            setting = caches.settings[alias]
            isolated = self._isolated(alias, setting)
            if opened is None or isolated is setting:
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


def join() -> None:
    """Wrap aliases in a process that was started by a test of a run that wraps them."""
    if _current is None and os.environ.get(WRAP_VARIABLE):
        Isolation(wrap=True).start()


def current() -> Isolation | None:
    """Return the isolation that is started in this process, if there is one."""
    return _current
