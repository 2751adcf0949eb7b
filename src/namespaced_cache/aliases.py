"""Works on a project's aliases: wraps them in settings, invalidates them in tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.cache import DEFAULT_CACHE_ALIAS, caches
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured

from namespaced_cache import identity
from namespaced_cache import options as alias_options
from namespaced_cache.backend import NamespacedCache
from namespaced_cache.errors import NamespaceError
from namespaced_cache.generation import Counter

BACKEND = "namespaced_cache.NamespacedCache"


def namespaced(
    caches_setting: Mapping[str, Mapping[str, Any]], **options: Any
) -> dict[str, dict[str, Any]]:
    """Return a copy of CACHES in which every memcached alias is wrapped.

    `options` are added to the OPTIONS of each alias that is wrapped, for example
    `NAMESPACE="shop-tests"`. Aliases on other backends, and those that are namespaced
    already, are copied as they are. Made to be called in a settings module.

    Raises InvalidCacheBackendError for a BACKEND that cannot be imported and
    ImproperlyConfigured for an option that is unknown or cannot be right.
    """
    if options.get("NAMESPACE") is None:
        identity.run()  # named now, for child processes that are started next
    return {
        alias: wrapped_setting(alias, setting, options)
        for alias, setting in caches_setting.items()
    }


def wrapped_setting(
    alias: str, setting: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a copy of one alias's setting, wrapped: see `namespaced()`."""
    copied: dict[str, Any] = _copied(setting)
    backend = backend_class(alias, copied)
    if issubclass(backend, BaseMemcachedCache) and not issubclass(
        backend, NamespacedCache
    ):
        theirs = copied.get("OPTIONS") or {}
        ours = {"WRAPPED_BACKEND": copied["BACKEND"], **options}
        copied |= {"BACKEND": BACKEND, "OPTIONS": {**theirs, **ours}}
        try:
            alias_options.read(copied, wrapper=NamespacedCache)
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(f"CACHES[{alias!r}]: {error}") from None
    return copied


def backend_class(alias: str, setting: Mapping[str, Any]) -> type:
    """Import the class that an alias's BACKEND names.

    Raises InvalidCacheBackendError for one that cannot be imported.
    """
    return alias_options.import_backend(
        f"CACHES[{alias!r}]['BACKEND']",
        setting.get("BACKEND"),
        "it takes the dotted path of a backend.",
    )


def _copied(value: Any) -> Any:
    # Not deepcopy(): what a serializer or a socket module is must stay itself.
    if isinstance(value, Mapping):
        return {name: _copied(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_copied(member) for member in value]
    return value


def get_namespaced(alias: str = DEFAULT_CACHE_ALIAS) -> NamespacedCache:
    """Return this thread's backend of an alias: `caches[alias]`, under its own type.

    For code that is type-checked: to a checker `caches[alias]` and Django's `cache` are
    a BaseCache, which has no `invalidate_namespace()`. No round trip.

    Raises ImproperlyConfigured for an alias that has no namespace, and
    InvalidCacheBackendError for one that there is not.
    """
    return namespaced_caches(alias)[alias]


def invalidate_namespaces(using: str | Iterable[str] | None = None) -> dict[str, int]:
    """Forget every key of the namespaces of these aliases (None: of all that have one).

    Returns the new generation for each alias; no alias has a namespace, no entry. One
    round trip for each namespace: aliases that share one get the same number, aliases
    that were not used in this thread before are opened.

    Raises ImproperlyConfigured, before anything is forgotten, for an alias in `using`
    that has no namespace; and, after the others are forgotten, what
    `invalidate_namespace()` raised for the first that could not be.
    """
    found = namespaced_caches(using)
    counters = {alias: cache._cache.counter for alias, cache in found.items()}
    counted: dict[Counter, NamespacedCache] = {}
    for alias, cache in found.items():
        counted.setdefault(counters[alias], cache)
    bumped, failed = invalidate(counted)
    for error in failed.values():
        raise error
    return {alias: bumped[counter] for alias, counter in counters.items()}


def namespaced_caches(
    using: str | Iterable[str] | None = None,
) -> dict[str, NamespacedCache]:
    """Return this thread's backends of these aliases (None: of all with a namespace).

    Those on memcached are opened, others are not. Raises ImproperlyConfigured for an
    alias in `using` that has no namespace.
    """
    found = {}
    for alias in _aliases(using):
        # Without opening it, which may need a library or a server that is not there.
        if using is None and not issubclass(
            backend_class(alias, caches.settings[alias]), BaseMemcachedCache
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


def invalidate(
    counted: Mapping[Counter, NamespacedCache],
) -> tuple[dict[Counter, int], dict[Counter, NamespaceError]]:
    """Invalidate the namespace of each counter by a backend that has it.

    One round trip each. Returns the new generations, and what was raised for those
    that have none.
    """
    bumped: dict[Counter, int] = {}
    failed: dict[Counter, NamespaceError] = {}
    for counter, cache in counted.items():
        try:
            bumped[counter] = cache.invalidate_namespace()
        except NamespaceError as error:
            failed[counter] = error
    return bumped, failed


def _aliases(using: str | Iterable[str] | None) -> list[str]:
    if using is None:
        return list(caches)
    return [using] if isinstance(using, str) else list(using)
