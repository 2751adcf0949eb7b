"""The backends that the tests use, and functions that build a cache on each."""

from __future__ import annotations

from django.core.cache.backends.base import BaseCache
from django.utils.module_loading import import_string

BACKENDS = {
    "pymemcache": "django.core.cache.backends.memcached.PyMemcacheCache",
    "pylibmc": "django.core.cache.backends.memcached.PyLibMCCache",
}


def bare_cache(backend: str, location, **params) -> BaseCache:
    """Build Django's own backend."""
    return import_string(backend)(location, params)


def our_cache(backend: str, location, *, OPTIONS=None, **params) -> BaseCache:
    """Build a NamespacedCache that wraps Django's own backend."""
    from namespaced_cache import NamespacedCache

    ours = {"WRAPPED_BACKEND": backend, **(OPTIONS or {})}
    return NamespacedCache(location, {**params, "OPTIONS": ours})
