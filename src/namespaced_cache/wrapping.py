"""Wraps the memcached aliases of a CACHES setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured

from namespaced_cache.backend import NamespacedCache, namespaced_if_memcached
from namespaced_cache.core import identity
from namespaced_cache.core import options as alias_options

#: The BACKEND of a namespaced alias.
BACKEND = "namespaced_cache.NamespacedCache"

#: The same, if a function returns the backend, which may be on memcached or not.
FUNCTIONS_BACKEND = "namespaced_cache.backend.namespaced_if_memcached"


def namespaced(
    caches_setting: Mapping[str, Mapping[str, Any]], **options: Any
) -> dict[str, dict[str, Any]]:
    """Return a copy of CACHES in which every memcached alias is wrapped.

    `options` are added to the OPTIONS of each alias that is wrapped, for example
    `NAMESPACE="shop-tests"`. Aliases on other backends, and aliases that are namespaced
    already, are copied unchanged. Call it in a settings module. No round trip.

    If BACKEND is a function, the alias is wrapped when it is opened. If the function
    then returns a backend that is not on memcached, that is left alone.

    Raises InvalidCacheBackendError for a BACKEND that cannot be imported and
    ImproperlyConfigured for an option that is unknown or has an invalid value.
    """
    if options.get("NAMESPACE") is None:
        identity.run()  # named now, so that child processes inherit the name
    return {
        alias: wrapped_setting(alias, setting, options)
        for alias, setting in caches_setting.items()
    }


def wrapped_setting(
    alias: str, setting: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a copy of one alias's setting, wrapped: see `namespaced()`."""
    if not isinstance(setting, Mapping):
        raise ImproperlyConfigured(
            f"CACHES[{alias!r}] is {setting!r}: it takes a dictionary."
        )
    copied: dict[str, Any] = _copied(setting)
    backend = backend_of(alias, copied)
    if may_be_on(BaseMemcachedCache, backend) and not is_namespaced(backend):
        ours = {"WRAPPED_BACKEND": copied["BACKEND"], **options}
        path = FUNCTIONS_BACKEND if alias_options.is_function(backend) else BACKEND
        with alias_options.naming(alias):
            theirs = alias_options.of_setting(copied)
            copied |= {"BACKEND": path, "OPTIONS": {**theirs, **ours}}
            alias_options.read(copied, wrapper=NamespacedCache)
    return copied


def backend_of(alias: str, setting: Mapping[str, Any]) -> Callable[..., Any]:
    """Import the class or function that an alias's BACKEND names.

    Raises InvalidCacheBackendError for one that cannot be imported.
    """
    return alias_options.import_backend(
        f"CACHES[{alias!r}]['BACKEND']",
        setting.get("BACKEND"),
        "it takes the dotted path of a backend, or of a function that returns one.",
    )


def may_be_on(backend_class: type, backend: Any) -> bool:
    """Tell whether a BACKEND is a class of this kind, or a function, which may be."""
    return alias_options.is_function(backend) or issubclass(backend, backend_class)


def is_namespaced(backend: Any) -> bool:
    """Tell whether a BACKEND gives aliases a namespace if they are on memcached."""
    if alias_options.is_function(backend):
        return backend is namespaced_if_memcached
    return issubclass(backend, NamespacedCache)


def _copied(value: Any) -> Any:
    # deepcopy() is not used, because a serializer or a socket module must stay the same
    # object.
    if isinstance(value, Mapping):
        return {name: _copied(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_copied(member) for member in value]
    return value
