"""Works on a project's aliases: wraps them in settings, invalidates them in tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from namespaced_cache import options as alias_options
from namespaced_cache.backend import NamespacedCache
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
    return {
        alias: _wrapped(alias, dict(setting), options)
        for alias, setting in caches_setting.items()
    }


def _wrapped(
    alias: str, setting: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    path = setting.get("BACKEND", "")
    try:
        backend = import_string(path)
    except (ImportError, AttributeError, TypeError) as error:
        raise InvalidCacheBackendError(
            f"CACHES[{alias!r}]['BACKEND'] is {path!r}, which cannot be imported: "
            f"{error}"
        ) from error
    if not issubclass(backend, BaseMemcachedCache) or issubclass(
        backend, NamespacedCache
    ):
        return setting
    setting["BACKEND"] = BACKEND
    setting["OPTIONS"] = {
        **(setting.get("OPTIONS") or {}),
        "WRAPPED_BACKEND": path,
        **options,
    }
    alias_options.read(setting, wrapper=NamespacedCache)
    return setting


def invalidate_namespaces(using: str | Iterable[str] | None = None) -> dict[str, int]:
    """Forget every key of the namespaces of these aliases (None: of all that have one).

    Returns the new generation for each alias; no alias has a namespace, no entry. One
    round trip for each namespace: aliases that share one get the same number, aliases
    that were not used in this thread before are opened. Raises NamespaceUnavailable
    unless a server acknowledged it, and ImproperlyConfigured for an alias in `using`
    that has no namespace.
    """
    bumped: dict[Counter, int] = {}
    generations: dict[str, int] = {}
    for alias in _aliases(using):
        cache = caches[alias]
        if isinstance(cache, NamespacedCache):
            counter = cache._cache.counter
            if counter not in bumped:
                bumped[counter] = cache.invalidate_namespace()
            generations[alias] = bumped[counter]
        elif using is not None:
            raise ImproperlyConfigured(
                f"The cache alias {alias!r} has no namespace: its BACKEND is "
                f"{type(cache).__module__}.{type(cache).__qualname__}, not {BACKEND}."
            )
    return generations


def _aliases(using: str | Iterable[str] | None) -> list[str]:
    if using is None:
        return list(caches)
    return [using] if isinstance(using, str) else list(using)
