"""System checks of `CACHES`, for `manage.py check`. They open no connection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Tags, register
from django.core.checks import Warning as CheckWarning

from namespaced_cache import wrapping
from namespaced_cache.adapters import locations
from namespaced_cache.backend import NamespacedCache
from namespaced_cache.core import identity, options

#: Django's session engines that store sessions in the cache.
_SESSIONS_IN_CACHE = {
    "django.contrib.sessions.backends.cache",
    "django.contrib.sessions.backends.cached_db",
}


@dataclass(frozen=True)
class _Namespaced:
    """A namespaced alias."""

    alias: str
    options: options.Options
    cache: Any

    @property
    def servers(self) -> frozenset[str]:
        return frozenset(map(locations.name, self.cache.client_servers))


@register(Tags.caches)
def check_caches(**_: Any) -> list[CheckMessage]:
    """Return warnings about wrong or surprising settings of namespaced aliases."""
    found = list(_namespaced())
    messages: list[CheckMessage] = []
    for each in found:
        messages += _check_timeouts(each)
        messages += _check_namespace(each)
    for one, other in combinations(found, 2):
        messages += _check_servers(one, other)
    return messages


@register(Tags.caches, deploy=True)
def check_deployment(**_: Any) -> list[CheckMessage]:
    """Return warnings about settings that are good for tests, not for production."""
    return [
        CheckWarning(
            f"Sessions are kept in CACHES[{each.alias!r}], which has a namespace.",
            hint="An invalidation logs every user out: give sessions an alias of their "
            "own.",
            id="namespaced_cache.W004",
        )
        for each in _namespaced()
        if settings.SESSION_ENGINE in _SESSIONS_IN_CACHE
        and each.alias == settings.SESSION_CACHE_ALIAS
    ]


def _namespaced() -> Iterator[_Namespaced]:
    for alias, setting in caches.settings.items():
        # An invalid setting raises an exception here, as in Django's own cache checks.
        backend = wrapping.backend_of(alias, setting)
        if wrapping.is_namespaced(backend):
            with options.naming(alias):
                given = options.read(dict(setting), wrapper=NamespacedCache)
                # `caches[alias]` is not used, because a test run may have wrapped it.
                cache = backend(setting.get("LOCATION", ""), dict(setting))
            # A function may have returned another backend.
            if isinstance(cache, NamespacedCache):
                yield _Namespaced(alias, given, cache)


def _check_namespace(each: _Namespaced) -> Iterator[CheckMessage]:
    if each.options.namespace is None and not identity.is_test_run():
        yield CheckWarning(
            f"CACHES[{each.alias!r}] has a namespace of its own for each run.",
            hint="Processes that are started separately do not see each other's items, "
            "and lose their own at a restart: set OPTIONS['NAMESPACE'], or wrap the "
            "aliases in the settings of tests only.",
            id="namespaced_cache.W003",
        )


def _check_timeouts(each: _Namespaced) -> Iterator[CheckMessage]:
    longest, timeout = each.options.max_timeout, each.cache.default_timeout
    if longest is not None and (timeout is None or longest < timeout):
        yield CheckWarning(
            f"CACHES[{each.alias!r}] has a TIMEOUT of {timeout}, which is never "
            f"reached: its MAX_TIMEOUT is {longest}.",
            id="namespaced_cache.W001",
        )


def _check_servers(one: _Namespaced, other: _Namespaced) -> Iterator[CheckMessage]:
    if one.cache.namespace != other.cache.namespace or one.servers == other.servers:
        return
    # Without NAMESPACE, two aliases that have no server in common cannot share keys.
    if one.options.namespace or one.servers & other.servers:
        yield CheckWarning(
            f"CACHES[{one.alias!r}] and CACHES[{other.alias!r}] have the namespace "
            f"{one.cache.namespace!r} on different servers.",
            hint="Each has a counter of its own, so an invalidation of one does not "
            "invalidate the other: give them different NAMESPACEs.",
            id="namespaced_cache.W002",
        )
