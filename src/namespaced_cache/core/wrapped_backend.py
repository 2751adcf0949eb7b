"""The wrapped backend: production's own class, whose client is a NamespacedClient."""

from __future__ import annotations

import inspect
import operator
from functools import cache
from typing import Any

from django.core.cache.backends.memcached import BaseMemcachedCache

from namespaced_cache.core.binding import BackendBinder
from namespaced_cache.core.client import NamespacedClient, OnInvalidated
from namespaced_cache.core.options import Options


class ClientBoundary(BaseMemcachedCache):
    """A base before a memcached backend's class, which gives it a NamespacedClient.

    The backend makes, stores and replaces its real client in its own way: by Django's
    cached property, or by a property that reconnects. All its methods use the
    NamespacedClient.
    """

    # Names of this class have two underscores, because the backend's class may use any
    # other name.

    # These are Django's attributes, which its type stubs leave out.
    _class: type
    _options: dict[str, Any]

    def __init__(
        self, server: Any, options: Options, on_invalidated: OnInvalidated
    ) -> None:
        self.__begin(server, options, on_invalidated)
        # The next base is the backend's own class. It takes the same arguments as from
        # Django.
        super().__init__(server, options.wrapped_params)  # type: ignore[call-arg]

    @classmethod
    def adopt(
        cls, backend: Any, server: Any, options: Options, on_invalidated: OnInvalidated
    ) -> None:
        """Give an existing backend a NamespacedClient."""
        backend.__class__ = cls
        backend.__begin(server, options, on_invalidated)

    @classmethod
    def replace_clients(cls, backend: Any) -> list[Any]:
        """Let a backend make new clients, and return those that it had."""
        binder: BackendBinder = backend.__binder
        return binder.replace_clients()

    def __begin(
        self, server: Any, options: Options, on_invalidated: OnInvalidated
    ) -> None:
        self.__arguments = server, options, on_invalidated
        self.__binder = BackendBinder(self, options, self.__own_client, self.__rebuilt)
        self.__namespaced_client = NamespacedClient(
            self.__binder, options.max_timeout, on_invalidated
        )

    def __set_client(self, client: Any) -> None:
        # A backend that reconnects may assign its new client. mock.patch assigns the
        # NamespacedClient again at its end, which changes nothing.
        if client is self.__namespaced_client:
            return
        own = inspect.getattr_static(own_class(self), "_cache")
        if hasattr(own, "__set__"):  # a property of the backend's own
            own.__set__(self, client)
        else:
            vars(self)["_cache"] = client

    def __delete_client(self) -> None:
        vars(self).pop("_cache", None)

    #: The NamespacedClient. Django's methods read it for each command, and a getter
    #: that is written in Python would take a microsecond.
    _cache: Any = property(
        operator.attrgetter("_ClientBoundary__namespaced_client"),
        __set_client,
        __delete_client,
    )

    def __own_client(self) -> Any:
        return super()._cache  # type: ignore[misc]

    def __rebuilt(self) -> Any:
        server, options, _ = self.__arguments
        if options.wrapped_class is None:
            return options.wrapped_backend(server, options.wrapped_params)
        return type(self)(*self.__arguments)


@cache
def _bounded_class(backend_class: Any) -> type[Any]:
    names = ("__module__", "__qualname__", "__doc__")
    attributes = {name: getattr(backend_class, name) for name in names}
    return type(backend_class.__name__, (ClientBoundary, backend_class), attributes)


def build(
    server: Any, options: Options, on_invalidated: OnInvalidated
) -> BaseMemcachedCache:
    """Build a backend of `options.wrapped_class`, on these servers, as Django does."""
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
    """Namespace a backend that is already built, for all code that holds it.

    The backend keeps its client. From now on its keys are in the namespace. A function
    may return the same backend again: this is namespaced already.
    """
    if issubclass(type(backend), ClientBoundary):
        return
    backend_class: Any = type(backend)  # as above
    _bounded_class(backend_class).adopt(backend, server, options, on_invalidated)


def replace_clients(backend: BaseMemcachedCache) -> list[Any]:
    """Let a wrapped backend make new clients, and return those that it had."""
    return ClientBoundary.replace_clients(backend)


def own_class(backend: BaseMemcachedCache) -> type[BaseMemcachedCache]:
    """Return the class that this backend had before it was namespaced."""
    _, backend_class = type(backend).__bases__
    return backend_class
