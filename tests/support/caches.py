"""The backends that the tests run on, and how a cache is built on each of them."""

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
    """Build NamespacedCache around Django's own backend."""
    from namespaced_cache import NamespacedCache

    ours = {"WRAPPED_BACKEND": backend, **(OPTIONS or {})}
    return NamespacedCache(location, {**params, "OPTIONS": ours})
