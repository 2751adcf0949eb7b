"""System checks of `CACHES`, for `manage.py check`. They open no socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Tags, register
from django.core.checks import Warning as CheckWarning

from namespaced_cache import aliases, locations, options
from namespaced_cache.backend import NamespacedCache

#: Django's session engines that keep sessions in the cache.
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
    """Find what is wrong, or surprises, in the settings of namespaced aliases."""
    found = list(_namespaced())
    messages: list[CheckMessage] = []
    for each in found:
        messages += _check_timeouts(each)
    for one, other in combinations(found, 2):
        messages += _check_servers(one, other)
    return messages


@register(Tags.caches, deploy=True)
def check_deployment(**_: Any) -> list[CheckMessage]:
    """Find what is right for tests and surprises in production."""
    messages: list[CheckMessage] = []
    for each in _namespaced():
        if each.options.namespace is None:
            messages.append(
                CheckWarning(
                    f"CACHES[{each.alias!r}] has a namespace of its own for each run.",
                    hint="Processes that are started apart do not see each other's "
                    "items, and a restart forgets them: set OPTIONS['NAMESPACE'].",
                    id="namespaced_cache.W003",
                )
            )
        if (
            settings.SESSION_ENGINE in _SESSIONS_IN_CACHE
            and each.alias == settings.SESSION_CACHE_ALIAS
        ):
            messages.append(
                CheckWarning(
                    f"Sessions are kept in CACHES[{each.alias!r}], which has a "
                    f"namespace.",
                    hint="Whoever invalidates it logs everybody out: give sessions "
                    "an alias of their own.",
                    id="namespaced_cache.W004",
                )
            )
    return messages


def _namespaced() -> Iterator[_Namespaced]:
    for alias, setting in caches.settings.items():
        # What cannot be right is told by an exception, which Django's own check of
        # caches meets as well.
        backend = aliases.backend_class(alias, setting)
        if issubclass(backend, NamespacedCache):
            given = options.read(dict(setting), wrapper=NamespacedCache)
            # Not by way of `caches`, where a test run has its say.
            cache = backend(setting.get("LOCATION", ""), dict(setting))
            yield _Namespaced(alias, given, cache)


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
    # Two of one run that have nothing in common are as good as two namespaces.
    if one.options.namespace or one.servers & other.servers:
        yield CheckWarning(
            f"CACHES[{one.alias!r}] and CACHES[{other.alias!r}] have the namespace "
            f"{one.cache.namespace!r} on different servers.",
            hint="Each has a counter of its own, and who invalidates one leaves the "
            "other: give them different NAMESPACEs.",
            id="namespaced_cache.W002",
        )
