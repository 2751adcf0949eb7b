"""The wrapped backend: production's own class, whose client is a NamespacedClient."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from django.core.cache.backends.memcached import BaseMemcachedCache

from namespaced_cache.core.binding import BackendBinder
from namespaced_cache.core.client import NamespacedClient, OnInvalidated
from namespaced_cache.core.options import Options


class ClientBoundary(BaseMemcachedCache):
    """A base before a memcached backend's class, which gives it a NamespacedClient.

    The backend makes, keeps and renews its real client in its own way, be that Django's
    cached property or a property that reconnects. All of its methods see the
    NamespacedClient.
    """

    # Its own names have two underscores: the backend's class may use any other.

    # Django's own, which its type stubs leave out.
    _class: type
    _options: dict[str, Any]

    def __init__(
        self, server: Any, options: Options, on_invalidated: OnInvalidated
    ) -> None:
        self.__begin(server, options, on_invalidated)
        # The next base is the backend's own class, which takes what Django gives it.
        super().__init__(server, options.wrapped_params)  # type: ignore[call-arg]

    @classmethod
    def adopt(
        cls, backend: Any, server: Any, options: Options, on_invalidated: OnInvalidated
    ) -> None:
        """Give a backend that exists already a NamespacedClient."""
        backend.__class__ = cls
        backend.__begin(server, options, on_invalidated)

    def __begin(
        self, server: Any, options: Options, on_invalidated: OnInvalidated
    ) -> None:
        self.__arguments = server, options, on_invalidated
        self.__namespaced_client = NamespacedClient(
            BackendBinder(self, options, self.__own_client, self.__rebuilt),
            options.max_timeout,
            on_invalidated,
        )

    @property
    def _cache(self) -> NamespacedClient:
        return self.__namespaced_client

    @_cache.setter
    def _cache(self, client: Any) -> None:
        # Backends that reconnect may assign the new client. Code that puts ours aside
        # for a while (mock.patch) puts it back.
        if client is self.__namespaced_client:
            return
        _, options, _ = self.__arguments
        own = inspect.getattr_static(options.wrapped_class, "_cache")
        if hasattr(own, "__set__"):  # a property of the backend's own
            own.__set__(self, client)
        else:
            vars(self)["_cache"] = client

    @_cache.deleter
    def _cache(self) -> None:
        vars(self).pop("_cache", None)

    def __own_client(self) -> Any:
        return super()._cache  # type: ignore[misc]

    def __rebuilt(self) -> BaseMemcachedCache:
        return type(self)(*self.__arguments)


@cache
def _bounded_class(backend_class: Any) -> type[Any]:
    names = ("__module__", "__qualname__", "__doc__")
    attributes = {name: getattr(backend_class, name) for name in names}
    return type(backend_class.__name__, (ClientBoundary, backend_class), attributes)


def build(
    server: Any, options: Options, on_invalidated: OnInvalidated
) -> BaseMemcachedCache:
    """Build the backend that the options name, as Django would, on these servers."""
    wrapped_class: Any = options.wrapped_class  # mypy takes no class to be hashable
    backend: BaseMemcachedCache = _bounded_class(wrapped_class)(
        server, options, on_invalidated
    )
    return backend


def adopt(
    backend: BaseMemcachedCache,
    server: Any,
    options: Options,
    on_invalidated: OnInvalidated,
) -> None:
    """Namespace a backend that Django built before, wherever it is held.

    Its client stays, and its keys come into the namespace.
    """
    backend_class: Any = type(backend)  # as above
    _bounded_class(backend_class).adopt(backend, server, options, on_invalidated)
