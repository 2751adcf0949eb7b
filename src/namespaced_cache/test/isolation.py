"""Isolation of tests: the common part of the pytest plugin, the runner and the mixin.

Each of them calls `invalidate()` when a class or a test begins. Memcached aliases are
wrapped when their backends are created. `settings.CACHES` is not changed, because
applications read it.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
from collections import Counter as Tally
from collections.abc import Collection, Iterable, Mapping
from copy import copy
from functools import partial, wraps
from typing import Any

from django.conf import settings
from django.core.cache import CacheHandler, caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured

from namespaced_cache import aliases, wrapping
from namespaced_cache.adapters.adapter import adapter_of
from namespaced_cache.backend import NamespacedCache, adopt
from namespaced_cache.core import identity, options
from namespaced_cache.core.counter import Counter
from namespaced_cache.errors import NamespaceUnavailable, UnsupportedClientError
from namespaced_cache.forks import new_lock
from namespaced_cache.test.examples import invalidate_before_examples
from namespaced_cache.test.guard import Guard
from namespaced_cache.test.leaks import Leaks
from namespaced_cache.test.scopes import scope_of
from namespaced_cache.test.set_up import SetUps

#: The environment variable that tells child processes that aliases are wrapped.
WRAP_VARIABLE = "NAMESPACED_CACHE_WRAP"

#: The default of MAX_TIMEOUT in a test run, in seconds.
DAY = 24 * 60 * 60


class SharedCount:
    """How often namespaces were invalidated, by all processes of a run together."""

    def __init__(self) -> None:
        self._namespaces = multiprocessing.Value("Q")
        self._invalidations = multiprocessing.Value("Q")

    def add(self, *, is_new: bool) -> None:
        """Count an invalidation, and its namespace if it is a new one."""
        for number, more in ((self._namespaces, is_new), (self._invalidations, True)):
            with number.get_lock():
                number.value += more

    @property
    def totals(self) -> tuple[int, int]:
        """How many namespaces there were, and how many invalidations."""
        return self._namespaces.value, self._invalidations.value


class Isolation:
    """The isolation of a test run in this process, from `start()` to `stop()`.

    With `wrap`, memcached aliases that have no namespace get one. Without it, a warning
    names such an alias and recommends `remedy`. The aliases in `exclude` are left as
    they are. If a server cannot be reached, `require` makes each test fail; otherwise a
    warning names it. `invalidations` counts how often each namespace was invalidated.
    Its keys are the namespace's name and server.
    """

    def __init__(
        self,
        *,
        wrap: bool,
        remedy: str = "",
        exclude: Collection[str] = (),
        require: bool = False,
    ) -> None:
        self.invalidations: Tally[str] = Tally()
        #: The count of all processes of a run that has several, or None.
        self.shared: SharedCount | None = None
        self.wraps = wrap
        self._exclude = exclude
        self._require = require
        self._guard = Guard(remedy)
        self._is_started = False
        #: What set-up has cached.
        self.set_ups = SetUps(self._opened_caches, self._guard.warn)
        #: The keys that leak. Whoever has a use for them starts it.
        self.leaks = Leaks()
        #: Whether an invalidation stores again what set-up has cached.
        self._restores = True
        #: Whether opening an alias invalidates its namespace, if it is not fresh.
        self._invalidates_opened = False
        #: The counters that were invalidated since the last test or class began.
        self._fresh: set[Counter] = set()
        #: The counters whose server was never reached.
        self._unreached: set[Counter] = set()
        #: For each alias and class of backends, whether its client has an adapter.
        self._has_adapter: dict[tuple[str, type], bool] = {}
        #: The aliases, and their BACKENDs, whose function has failed.
        self._failed: set[tuple[str, str]] = set()

    @property
    def notices(self) -> list[str]:
        """The warnings that were not raised although warnings are errors."""
        return self._guard.notices

    def start(self) -> None:
        """Isolate the open backends, and all backends that are created from now on."""
        global _current
        # A test may start another test run in this process.
        self._outer, _current = _current, self
        self._outer_wrap = os.environ.get(WRAP_VARIABLE)
        # The names are made now, so that child processes inherit them.
        identity.begin_tests()
        identity.name_children()
        if self.wraps:
            how = "require" if self._require else "1"
            os.environ[WRAP_VARIABLE] = shlex.join([how, *self._exclude])
        self._is_started = True
        handlers: Any = CacheHandler  # mypy allows no assignment to a method
        self._original = handlers.create_connection

        @wraps(self._original)
        def create_connection(handler: Any, alias: str) -> Any:
            create = self._create if self._is_started else self._original
            return create(handler, alias)

        handlers.create_connection = self._patch = create_connection
        if settings.configured:
            self._isolate_opened_backends()

    def stop(self) -> None:
        """Stop isolating new backends."""
        global _current
        _current = self._outer
        if self._outer_wrap is None:
            os.environ.pop(WRAP_VARIABLE, None)
        else:
            os.environ[WRAP_VARIABLE] = self._outer_wrap
        self._is_started = False
        self.set_ups.close()
        self.leaks.stop()
        self._guard.close()
        handlers: Any = CacheHandler
        if (
            handlers.create_connection is self._patch
        ):  # another package may have patched it since
            handlers.create_connection = self._original

    def invalidate(self, *, restore: bool = True) -> None:
        """Invalidate all namespaces of this process: one round trip for each.

        With `restore`, what set-up has cached is then stored again, in one round trip
        more for each server. If a server was never reached, one warning names it. After
        that it is left alone, because tests that do not use it must not fail. For all
        other servers, this raises the same errors as `invalidate_namespaces()`, and
        those of `SetUps.restore`.
        """
        identity.name_children()  # a forked process may have become a worker
        with _lock:
            self._fresh.clear()
            self._invalidates_opened = True
            self._restores = restore
            found = self._caches()
            for alias in self._invalidate_stale(found):
                del caches[alias]
        # This comes last, because the backends import their client libraries.
        self._guard.watch_clients()

    def _opened_caches(self) -> Iterable[NamespacedCache]:
        return self._caches().values()

    def _caches(self) -> dict[str, NamespacedCache]:
        """Return this thread's backends of the isolated aliases, and open them."""
        with _lock:
            # Bare backends are not opened, because the guard would warn of them.
            by_class = [
                alias
                for alias, setting in caches.settings.items()
                if self._isolates(alias, setting) and not _is_function(alias, setting)
            ]
            return aliases.namespaced_caches(by_class) | self._made_by_functions()

    def suspend(self) -> None:
        """Stop invalidating aliases that are opened, until the next `invalidate()`."""
        self._invalidates_opened = False

    def _create(self, handler: Any, alias: str) -> Any:
        setting = handler.settings[alias]
        isolated = self._isolated(alias, setting)
        if isolated:
            # The handler is copied, because all threads share it and its settings.
            handler = copy(handler)
            handler.settings = {alias: isolated}
            with options.naming(alias):
                cache = self._original(handler, alias)
        else:
            cache = self._original(handler, alias)
        self._check(alias, cache)
        # If a test overrides settings, the alias may have another server or namespace,
        # with items of an earlier test.
        if isinstance(cache, NamespacedCache) and self._invalidates_opened:
            with _lock:
                if self._invalidate_stale({alias: cache}):
                    cache = self._original(handler, alias)
        return cache

    def _check(self, alias: str, cache: Any) -> None:
        """Warn of a bare memcached alias, unless it is excluded on purpose."""
        if alias not in self._exclude:
            self._guard.check(alias, cache)

    def _invalidate_stale(self, found: Mapping[str, NamespacedCache]) -> list[str]:
        """Invalidate the namespaces that are not fresh.

        Returns the aliases whose client has just found out that its server is down. The
        caller has to replace such a client, because tests expect a new one's state.
        """
        stale: dict[Counter, str] = {}
        for alias, cache in found.items():
            counter = cache._cache.counter
            if self._can_isolate(alias, cache) and counter not in self._fresh:
                stale.setdefault(counter, alias)
        for counter in self._unreached & stale.keys():
            if not counter.was_reached:
                counter.invalidate_unreached()
                del stale[counter]
        with self.leaks.invalidating():
            generations, failed = aliases.invalidate(
                {counter: found[alias] for counter, alias in stale.items()}
            )
        for counter in generations:
            self._fresh.add(counter)
            name = f"{counter.namespace} on {counter.server}"
            if self.shared is not None:
                self.shared.add(is_new=name not in self.invalidations)
            self.invalidations[name] += 1
        if self._restores:
            self.set_ups.restore(found.values(), generations)
        unreached = []
        for counter, error in failed.items():
            is_unavailable = isinstance(error, NamespaceUnavailable)
            if counter.was_reached or not is_unavailable or self._require:
                raise error
            counter.invalidate_unreached()
            self._unreached.add(counter)
            self._guard.warn(
                f"{_not_isolated(stale[counter], error)} Start the server, or point "
                f"the alias at another: tests that need it will fail, or find nothing."
            )
            unreached.append(stale[counter])
        return unreached

    def _can_isolate(self, alias: str, cache: NamespacedCache) -> bool:
        """Tell whether an alias's client has an adapter. Warn once if it has none."""
        opened = alias, type(cache.wrapped)
        if opened not in self._has_adapter:
            self._has_adapter[opened] = True
            try:
                adapter_of(cache._cache.wrapped)
            except UnsupportedClientError as error:
                self._has_adapter[opened] = False
                self._guard.warn(_not_isolated(alias, error))
            except Exception:  # noqa: BLE001, S110  # the invalidation raises it
                pass
        return self._has_adapter[opened]

    def _made_by_functions(self) -> dict[str, NamespacedCache]:
        """Return the namespaced backends of aliases whose BACKEND is a function.

        If the function fails, the alias is left alone until it is used. Then Django
        raises the error, or the namespace is invalidated.
        """
        found = {}
        for alias, setting in caches.settings.items():
            if not _is_function(alias, setting):
                continue
            cache = getattr(caches._connections, alias, None)  # type: ignore[attr-defined]
            attempt = alias, setting["BACKEND"]
            if (
                cache is None
                and self._isolates(alias, setting)
                and attempt not in self._failed
            ):
                try:
                    cache = caches[alias]
                except Exception:  # noqa: BLE001  # anything that the function raises
                    self._failed.add(attempt)
            if isinstance(cache, NamespacedCache):
                found[alias] = cache
        return found

    def check_exclude(self) -> None:
        """Raise ImproperlyConfigured if an excluded alias does not exist."""
        if isinstance(self._exclude, str):
            raise ImproperlyConfigured(
                f"cache_namespace_exclude is {self._exclude!r}: it takes a list of "
                f"aliases."
            )
        for alias in self._exclude:
            try:
                aliases.check_exists(alias)
            except InvalidCacheBackendError as error:
                raise ImproperlyConfigured(
                    f"cache_namespace_exclude: {error}"
                ) from None

    def reason_against(self, alias: str, setting: Mapping[str, Any]) -> str | None:
        """Return why an alias has no namespace in this run, or None if it has one."""
        if alias in self._exclude:
            return "excluded"
        try:
            backend = wrapping.backend_of(alias, setting)
        except InvalidCacheBackendError:
            # Django raises this error when the alias is used.
            return "its BACKEND cannot be imported"
        if wrapping.is_namespaced(backend):
            return None
        if not wrapping.may_be_on(BaseMemcachedCache, backend):
            return f"{backend.__name__} is not on memcached"
        return None if self.wraps else "it has no namespace"

    def _isolates(self, alias: str, setting: Mapping[str, Any]) -> bool:
        return self.reason_against(alias, setting) is None

    def _isolated(
        self, alias: str, setting: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Return the setting of an alias that has a namespace in this run, or None."""
        if not self._isolates(alias, setting):
            return None
        if self.wraps:
            setting = wrapping.wrapped_setting(alias, setting, {})
        with options.naming(alias):
            capped = {"MAX_TIMEOUT": DAY, **options.of_setting(setting)}
        return {**setting, "OPTIONS": capped}

    def _isolate_opened_backends(self) -> None:
        """Isolate the open backends of this thread, for all code that holds them."""
        connections = caches._connections  # type: ignore[attr-defined]
        for alias in caches:
            opened = getattr(connections, alias, None)
            if opened is None:
                continue  # the class of an unused alias may be missing
            setting = caches.settings[alias]
            isolated = self._isolated(alias, setting)
            if not isolated or not isinstance(opened, BaseMemcachedCache):
                self._check(alias, opened)
                continue
            if not isinstance(opened, NamespacedCache):
                with options.naming(alias):
                    clients = adopt(opened, dict(isolated))
                for client in clients:
                    self._guard.watch_taken(alias, client)
            del caches[alias]


def _is_function(alias: str, setting: Mapping[str, Any]) -> bool:
    try:
        return options.is_function(wrapping.backend_of(alias, setting))
    except InvalidCacheBackendError:
        return False


def _not_isolated(alias: str, error: Exception) -> str:
    return f"CACHES[{alias!r}] is not isolated: {error}"


_current: Isolation | None = None
_lock = new_lock()


def join_run() -> None:
    """Wrap the aliases of this process if a test run that wraps them has started it."""
    how, *exclude = shlex.split(os.environ.get(WRAP_VARIABLE, "")) or [""]
    if _current is None and how:
        Isolation(wrap=True, exclude=exclude, require=how == "require").start()


def current() -> Isolation | None:
    """Return the active isolation of this process, or None."""
    return _current


def begin_test(test: Any, isolation: Isolation) -> None:
    """Invalidate before a unittest test, if its scope says so.

    The test fails if the invalidation fails.
    """
    scope = scope_of(type(test))
    if scope not in ("function", "empty"):
        return
    invalidate = partial(isolation.invalidate, restore=scope == "function")
    try:
        invalidate()
    except Exception as error:  # noqa: BLE001  # reported as the test's error
        test.setUp = partial(_raise, error)
    invalidate_before_examples(test, invalidate)


def _raise(error: Exception) -> None:
    raise error
