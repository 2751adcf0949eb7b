"""Functions for a project's namespaced aliases: open them and invalidate them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django.core.cache import DEFAULT_CACHE_ALIAS, caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured

from namespaced_cache.backend import NamespacedCache
from namespaced_cache.core.counter import Counter
from namespaced_cache.errors import NamespaceError
from namespaced_cache.wrapping import BACKEND, backend_of, may_be_on


def get_namespaced(alias: str = DEFAULT_CACHE_ALIAS) -> NamespacedCache:
    """Return this thread's backend of an alias: `caches[alias]`, with its own type.

    For a type checker, `caches[alias]` and Django's `cache` are a BaseCache, which has
    no `invalidate_namespace()`. No round trip.

    Raises ImproperlyConfigured for an alias that has no namespace, and
    InvalidCacheBackendError for an alias that does not exist.
    """
    return namespaced_caches(alias)[alias]


def invalidate_namespaces(using: str | Iterable[str] | None = None) -> dict[str, int]:
    """Invalidate the namespaces of these aliases (None: of all that have one).

    Returns the new generation of each of these aliases. One round trip for each
    namespace. Aliases that share a namespace get the same number. Aliases that were not
    used in this thread before are opened.

    Raises ImproperlyConfigured for an alias in `using` that has no namespace, before
    anything is invalidated. If a namespace cannot be invalidated, the others are still
    invalidated. Then the first error of `invalidate_namespace()` is raised.
    """
    found = namespaced_caches(using)
    counters = {alias: cache._cache.counter for alias, cache in found.items()}
    counted: dict[Counter, NamespacedCache] = {}
    for alias, cache in found.items():
        counted.setdefault(counters[alias], cache)
    generations, failed = invalidate(counted)
    for error in failed.values():
        raise error
    return {alias: generations[counter] for alias, counter in counters.items()}


def namespaced_caches(
    using: str | Iterable[str] | None = None,
) -> dict[str, NamespacedCache]:
    """Return this thread's backends of these aliases (None: of all with a namespace).

    Only aliases on memcached are opened, and those whose BACKEND is a function. Raises
    ImproperlyConfigured for an alias in `using` that has no namespace, and
    InvalidCacheBackendError for one that does not exist.
    """
    found = {}
    for alias in _aliases(using):
        check_exists(alias)
        # The alias is not opened, because that may need a missing library or server.
        if using is None and not may_be_on(
            BaseMemcachedCache, backend_of(alias, caches.settings[alias])
        ):
            continue
        cache = caches[alias]
        if isinstance(cache, NamespacedCache):
            found[alias] = cache
        elif using is not None:
            raise ImproperlyConfigured(
                f"The cache alias {alias!r} has no namespace: its BACKEND is "
                f"{type(cache).__module__}.{type(cache).__qualname__}, not {BACKEND}."
            )
    return found


def check_exists(alias: str) -> None:
    """Raise InvalidCacheBackendError, which lists the aliases, if there is no such."""
    if alias not in caches.settings:
        raise InvalidCacheBackendError(
            f"CACHES has no alias {alias!r}: it has {', '.join(map(repr, caches))}."
        )


def invalidate(
    counted: Mapping[Counter, NamespacedCache],
) -> tuple[dict[Counter, int], dict[Counter, NamespaceError]]:
    """Invalidate the namespace of each counter, with the backend that it maps to.

    One round trip each. Returns the new generations, and the errors of the counters
    that could not be incremented.
    """
    generations: dict[Counter, int] = {}
    failed: dict[Counter, NamespaceError] = {}
    for counter, cache in counted.items():
        try:
            generations[counter] = cache.invalidate_namespace()
        except NamespaceError as error:
            failed[counter] = error
    return generations, failed


def _aliases(using: str | Iterable[str] | None) -> list[str]:
    if using is None:
        return list(caches)
    return [using] if isinstance(using, str) else list(using)
