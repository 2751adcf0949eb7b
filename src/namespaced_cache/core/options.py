"""Reads and checks the OPTIONS of a namespaced alias."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from django.core.cache.backends.base import BaseCache, InvalidCacheBackendError
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from namespaced_cache.adapters.adapter import missing_library
from namespaced_cache.core import identity

DEFAULT_BACKEND = "django.core.cache.backends.memcached.PyMemcacheCache"

#: This package's options. All others go to the wrapped backend unchanged.
NAMES = ("WRAPPED_BACKEND", "NAMESPACE", "MAX_STALENESS", "MAX_TIMEOUT")

#: How similar a misspelled name is to one of these, from 0 to 1. pymemcache's own
#: `dead_timeout` is less similar to MAX_TIMEOUT.
_SIMILARITY = 0.9

_TAKES = (
    f"it takes the dotted path of a memcached backend, such as {DEFAULT_BACKEND!r}, or "
    f"of a function that returns one."
)


@dataclass(frozen=True)
class Options:
    """The validated settings of an alias.

    `wrapped_backend` is the class of the wrapped backend, or a function that returns
    the wrapped backend. `wrapped_params` are the settings that it gets: the alias's
    settings without this package's OPTIONS. `find_alias` returns the alias that has
    these settings, or None if it is not known.
    """

    wrapped_backend: Callable[[Any, dict[str, Any]], Any]
    namespace: str | None
    max_staleness: float
    max_timeout: int | None
    wrapped_params: dict[str, Any]
    find_alias: Callable[[], str | None] = lambda: None

    @property
    def wrapped_class(self) -> type[BaseMemcachedCache] | None:
        """The class of the wrapped backend. None: a function returns the backend."""
        found = self.wrapped_backend
        return None if is_function(found) else found  # type: ignore[return-value]  # it is the class


def is_function(backend: object) -> bool:
    """Tell whether this is no class of backends, but makes backends when called.

    Django accepts every callable that takes a location and the settings of an alias.
    """
    return not (isinstance(backend, type) and issubclass(backend, BaseCache))


def read(params: dict[str, Any], wrapper: type) -> Options:
    """Read the settings of one alias without changing them.

    Django builds a backend for each thread from the same dictionaries. An option that
    was removed here would be missing in the second thread. `wrapper` is NamespacedCache
    or a subclass of it. It cannot wrap itself.

    Raises ImproperlyConfigured, or InvalidCacheBackendError for WRAPPED_BACKEND. Both
    name the option, the value it got and the values it accepts.
    """
    given = of_setting(params)
    ours = {name: value for name, value in given.items() if name in NAMES}
    theirs = {name: value for name, value in given.items() if name not in NAMES}
    backend = _wrapped_backend(ours.get("WRAPPED_BACKEND", DEFAULT_BACKEND), wrapper)
    for name in theirs:
        _check_not_ours(name, backend)
    namespace = ours.get("NAMESPACE")
    if namespace is not None and not identity.is_name(namespace):
        raise ImproperlyConfigured(
            f"OPTIONS['NAMESPACE'] is {namespace!r}: it takes {identity.NAME_RULE}, or "
            f"None for one namespace for each run."
        )
    return Options(
        wrapped_backend=backend,
        namespace=namespace,
        max_staleness=_seconds("MAX_STALENESS", ours.get("MAX_STALENESS", 0)),
        max_timeout=_whole_seconds("MAX_TIMEOUT", ours.get("MAX_TIMEOUT")),
        # Django passes the settings on without these two.
        wrapped_params={
            name: value
            for name, value in {**params, "OPTIONS": theirs}.items()
            if name not in {"BACKEND", "LOCATION"}
        },
    )


def of_setting(setting: Mapping[str, Any]) -> Mapping[Any, Any]:
    """Return the OPTIONS of an alias's setting.

    Raises ImproperlyConfigured if they are no dictionary.
    """
    given = setting.get("OPTIONS") or {}
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"OPTIONS is {given!r}: it takes a dictionary.")
    return given


@contextmanager
def naming(alias: str | None) -> Iterator[None]:
    """Name the alias (None: unknown) for `named()`, and in errors about its settings.

    If its client library is missing, the error also says how to install it. Errors keep
    their classes, because an application may catch them.
    """
    place = f"CACHES[{alias!r}]"
    outer = _named.set(alias)
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_library(error)
        if missing is None or str(error).startswith(place):
            raise
        opened = "The cache alias" if alias is None else place
        raise ModuleNotFoundError(
            f"{opened} cannot be opened: {missing}", name=error.name
        ) from (error.__cause__ or error)
    except ImproperlyConfigured as error:
        kind = type(error)
        if (
            alias is None
            or kind not in (ImproperlyConfigured, InvalidCacheBackendError)
            or str(error).startswith(place)
        ):
            raise
        raise kind(f"{place}: {error}") from error.__cause__
    finally:
        _named.reset(outer)


_named: ContextVar[str | None] = ContextVar("named", default=None)


def named() -> str | None:
    """Return the alias whose settings are used at the moment, or None if unknown."""
    return _named.get()


def _check_not_ours(name: object, backend: object) -> None:
    """Raise ImproperlyConfigured for a misspelled option, and for an unknown one.

    A backend that is not Django's may have upper-case options of its own.
    """
    is_djangos = str(getattr(backend, "__module__", "")).startswith("django.")
    if not isinstance(name, str) or (name == "namespace" and not is_djangos):
        return
    meant = get_close_matches(name.upper(), NAMES, n=1, cutoff=_SIMILARITY)
    if meant:
        raise ImproperlyConfigured(
            f"OPTIONS has {name!r}, which NamespacedCache does not know: it is spelled "
            f"{meant[0]!r}."
        )
    if name.isupper() and is_djangos:
        raise ImproperlyConfigured(
            f"OPTIONS has {name!r}, which NamespacedCache does not know: its own "
            f"options are {', '.join(NAMES)}; options in lower case go to the client."
        )


def _seconds(name: str, value: object) -> float:
    # The value is not converted, because a whole number may be too large for a float.
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value < float("inf")
    ):
        return value
    raise ImproperlyConfigured(
        f"OPTIONS[{name!r}] is {value!r}: it takes a number of seconds, 0 or more."
    )


def _whole_seconds(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ImproperlyConfigured(
        f"OPTIONS[{name!r}] is {value!r}: it takes a whole number of seconds above 0, "
        f"or None to leave timeouts alone."
    )


def _wrapped_backend(path: object, wrapper: type) -> Callable[..., Any]:
    found: Any = import_backend("OPTIONS['WRAPPED_BACKEND']", path, _TAKES)
    if is_function(found):
        return found  # type: ignore[no-any-return]  # it is callable
    # The base class itself cannot be used as a backend.
    if not issubclass(found, BaseMemcachedCache) or found is BaseMemcachedCache:
        raise refused_backend(path, "which is no memcached backend")
    if issubclass(found, wrapper):
        raise refused_backend(path, "the wrapper itself")
    return found  # type: ignore[no-any-return]  # as above


def refused_backend(path: object, reason: str) -> InvalidCacheBackendError:
    """Make the error for a WRAPPED_BACKEND that cannot be wrapped."""
    return InvalidCacheBackendError(
        f"OPTIONS['WRAPPED_BACKEND'] is {path!r}, {reason}: {_TAKES}"
    )


def import_backend(setting: str, path: object, takes: str) -> Callable[..., Any]:
    """Import the class or function at a dotted path.

    Raises InvalidCacheBackendError, which names the setting, the value it got and the
    values it accepts.
    """
    if not isinstance(path, str):
        raise InvalidCacheBackendError(f"{setting} is {path!r}: {takes}")
    try:
        found = import_string(path)
    except (ImportError, TypeError, ValueError) as error:
        # A path with one dot too many raises TypeError or ValueError.
        missing = missing_library(error) if isinstance(error, ImportError) else None
        raise InvalidCacheBackendError(
            f"{setting} is {path!r}, which cannot be imported: {missing}"
            if missing
            else f"{setting} is {path!r}, which cannot be imported ({error}): {takes}"
        ) from error
    if not callable(found):
        raise InvalidCacheBackendError(
            f"{setting} is {path!r}, neither a class nor a function: {takes}"
        )
    made: Callable[..., Any] = found
    return made
