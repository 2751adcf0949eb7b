"""NamespacedCache: the class that BACKEND names.

    application ─► NamespacedCache ─► wrapped backend ─► NamespacedClient ─► client

NamespacedCache is only a proxy. The wrapped backend is the one that production uses: it
makes and validates the keys. `core/client.py` adds the generation to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured

from namespaced_cache.core import identity, options, wrapped_backend
from namespaced_cache.core.client import NamespacedClient
from namespaced_cache.core.pins import PinnedGeneration
from namespaced_cache.proxy.delegation import (
    Attributes,
    class_for,
    delegate_djangos_attributes,
    own_attributes,
)
from namespaced_cache.signals import namespace_invalidated

#: Sets an object's class. The proxy's `__class__` is the wrapped backend's class.
_set_class = vars(object)["__class__"].__set__


class NamespacedCache(BaseMemcachedCache):
    """A memcached backend whose keys are in a namespace that is emptied in O(1).

    Every method of Django's cache API calls the wrapped backend's method. Every other
    attribute is read from and assigned to the wrapped backend. For `isinstance()`, this
    is also an instance of the wrapped backend's class. The README describes OPTIONS.
    Invalid ones raise ImproperlyConfigured.
    """

    _namespaced_backend: BaseMemcachedCache

    def __init__(
        self, server: Any, params: dict[str, Any], *, _made: Any = None
    ) -> None:
        # Not super().__init__(): the wrapped backend has the attributes it would set.
        with _naming(params):
            settings = _read(params)
            if settings.namespace is None:
                identity.run()  # named now, so that child processes inherit the name
            backend = self._namespaced_build(server, params, settings, _made)
        # These names must not be names of a backend's attributes.
        wrapped_class = wrapped_backend.own_class(backend)
        own_attributes(self).update(
            _namespaced_from=(server, params),
            _namespaced_class=wrapped_class,
            _namespaced_backend=backend,
            _namespaced_type=type(self),
        )
        proxy_class = class_for(type(self), wrapped_class, backend)
        if proxy_class is not type(self):
            _set_class(self, proxy_class)

    @staticmethod
    def _namespaced_build(
        server: Any, params: dict[str, Any], settings: options.Options, made: Any
    ) -> BaseMemcachedCache:
        """Build the wrapped backend, or namespace the one that a function has made."""
        if settings.wrapped_class is not None:
            return wrapped_backend.build(server, settings, _send_signal)
        backend = made or _made_by_function(server, settings)
        if not _can_be_wrapped(backend):
            raise options.refused_backend(
                params["OPTIONS"]["WRAPPED_BACKEND"],
                f"which has returned {backend!r}",
            )
        wrapped_backend.adopt(backend, server, settings, _send_signal)
        namespaced: BaseMemcachedCache = backend
        return namespaced

    @property
    def wrapped(self) -> BaseMemcachedCache:
        """The wrapped backend. Its keys are in the namespace as well."""
        return self._namespaced_backend

    @property
    def namespace(self) -> str:
        """The namespace's name in this process, with its worker. No round trip."""
        client: NamespacedClient = self._cache
        return client.counter.namespace

    @property
    def generation(self) -> int:
        """The live generation, read from the counter server: one round trip.

        Raises NamespaceUnavailable if the server does not answer.
        """
        client: NamespacedClient = self._cache
        return client.current_generation()

    def invalidate_namespace(self) -> int:
        """Start a new generation and return it. No old key is found any more.

        One round trip, however many keys there are. All other keys on the server,
        including those of other namespaces, stay as they are. Raises
        NamespaceUnavailable unless the counter server acknowledged the invalidation.
        """
        client: NamespacedClient = self._cache
        return client.invalidate()

    async def ainvalidate_namespace(self) -> int:
        """See invalidate_namespace()."""
        return await sync_to_async(self.invalidate_namespace, thread_sensitive=True)()

    def pinned_generation(self) -> PinnedGeneration:
        """Make a block in which this context uses one generation.

        Use `with` or `async with`. The block reads the counter once, at its start, in
        one round trip, and gives the generation. After that, no operation in the block
        reads the counter. This is true for this thread or task, and for the tasks that
        it starts. If another process invalidates the namespace meanwhile, the block
        uses the dead generation. So values computed from old data never reach the new
        generation. An invalidation inside the block moves the block on to the new
        generation.

        Raises NamespaceUnavailable at the start if the counter server does not answer.
        """
        client: NamespacedClient = self._cache
        return client.pinned_generation()

    # The proxy.

    @property  # type: ignore[misc]  # read only here
    def __class__(self) -> type:
        # isinstance() uses type() first and then this, so it is true for both classes.
        wrapped_class: type = own_attributes(self).get("_namespaced_class", type(self))
        return wrapped_class

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]  # read only here
        # For code that looks attributes up in `vars()`. Python itself does not use it.
        own = own_attributes(self)
        backend = own.get("_namespaced_backend")
        return own if backend is None else Attributes(self, backend)

    def __getattr__(self, name: str) -> Any:
        # Python calls this only for attributes that the class lacks. copy and pickle
        # look some up before __init__() has run.
        if "_namespaced_backend" not in own_attributes(self):
            raise AttributeError(name)
        return getattr(self._namespaced_backend, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # A patched method, such as a spy, stays here, where the application calls it.
        # Any other attribute is the wrapped backend's.
        if hasattr(type(self), name) or callable(
            getattr(type(self._namespaced_backend), name, None)
        ):
            super().__setattr__(name, value)
        else:
            setattr(self._namespaced_backend, name, value)

    def __delattr__(self, name: str) -> None:
        if name in own_attributes(self) or hasattr(type(self), name):
            super().__delattr__(name)
        else:
            delattr(self._namespaced_backend, name)

    def __dir__(self) -> Iterable[str]:
        return {*vars(self), *dir(type(self)), *dir(self._namespaced_backend)}

    def __repr__(self) -> str:
        return (
            f"<NamespacedCache {self.namespace!r} of {self._namespaced_class.__name__}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy makes its own client, because modules and sockets cannot be pickled.
        state = {name: getattr(self, name) for name in vars(BaseCache({}))}
        return self._namespaced_type, self._namespaced_from, state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self._namespaced_backend, name, value)


def _read(params: dict[str, Any]) -> options.Options:
    settings = options.read(params, wrapper=NamespacedCache)
    # A test run changes the settings of an alias, but names it.
    find_alias = partial(_named_or_found, options.named(), params)
    return replace(settings, find_alias=find_alias)


def _named_or_found(named: str | None, params: dict[str, Any]) -> str | None:
    return _alias_with(params) if named is None else named


@contextmanager
def _naming(params: dict[str, Any]) -> Iterator[None]:
    """Name the alias in errors about its settings, if they are those of an alias."""
    try:
        yield
    except (ImproperlyConfigured, ModuleNotFoundError):
        with options.naming(_alias_with(params)):
            raise


def _alias_with(params: dict[str, Any]) -> str | None:
    """Return the first alias with these settings. Django passes no name on."""
    with suppress(ImproperlyConfigured):  # if there are no settings
        for alias, setting in caches.settings.items():
            others = {"BACKEND": None, "LOCATION": None}
            if {**setting, **others} == {**params, **others}:
                return alias
    return None


def namespaced_if_memcached(server: Any, params: dict[str, Any]) -> Any:
    """Return what the function WRAPPED_BACKEND returns, namespaced if it is memcached.

    `namespaced()` and test runs make this the BACKEND of an alias whose BACKEND is a
    function. It is unknown what such a function returns before it is called.
    """
    settings = _read(params)
    made = _made_by_function(server, settings)
    if _can_be_wrapped(made):
        return NamespacedCache(server, params, _made=made)
    return made


def adopt(backend: BaseMemcachedCache, params: dict[str, Any]) -> list[Any]:
    """Namespace a bare backend that Django has built.

    It is changed in place, so code that holds it uses the namespace too. `params` are
    the settings of an alias on NamespacedCache. The backend keeps its class. It gets
    new clients. The earlier ones are in no namespace, and are returned, because code
    may have taken them out of the backend. No round trip.
    """
    settings = _read(params)
    server = params.get("LOCATION", "")
    wrapped_backend.adopt(backend, server, settings, _send_signal)
    return wrapped_backend.replace_clients(backend)


def _made_by_function(server: Any, settings: options.Options) -> Any:
    return settings.wrapped_backend(server, settings.wrapped_params)


def _can_be_wrapped(backend: object) -> bool:
    return isinstance(backend, BaseMemcachedCache) and not isinstance(
        backend, NamespacedCache
    )


def _send_signal(client: NamespacedClient, namespace: str, generation: int) -> None:
    """Send `namespace_invalidated`. Exceptions in receivers are not caught."""
    if namespace_invalidated.has_listeners(NamespacedCache):
        namespace_invalidated.send(
            NamespacedCache,
            alias=_alias_of(client),
            namespace=namespace,
            generation=generation,
        )


def _alias_of(client: NamespacedClient) -> str | None:
    connections = caches._connections  # type: ignore[attr-defined]
    for alias in caches:
        cache: Any = getattr(connections, alias, None)
        # Other backends are skipped, because reading `_cache` could make a client.
        if issubclass(type(cache), NamespacedCache) and cache._cache is client:
            return alias
    return None


delegate_djangos_attributes(NamespacedCache)
