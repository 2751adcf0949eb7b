"""Builds the wrapped backend: production's own class, with its `_cache` namespaced."""

from __future__ import annotations

import inspect
import os
from functools import cache
from typing import Any

from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured

from namespaced_cache import generation, identity, libraries, locations
from namespaced_cache.client import NamespacedClient
from namespaced_cache.errors import NamespaceError
from namespaced_cache.locks import ForkableLock
from namespaced_cache.options import Options
from namespaced_cache.route import Route


class ClientBoundary(BaseMemcachedCache):
    """Stands before a memcached backend's class and gives it a NamespacedClient.

    The backend makes, keeps and renews its real client in its own way, be that
    Django's cached property or a property that reconnects; all of its methods see the
    NamespacedClient.
    """

    # Names of its own have two underscores: the backend's class may use any other.

    # Django's own, which its type stubs leave out.
    _class: type
    _options: dict[str, Any]

    def __init__(self, server: Any, options: Options) -> None:
        self.__begin(server, options)
        # Next in line is the backend's own class, which takes what Django gives it.
        super().__init__(server, options.wrapped_params)  # type: ignore[call-arg]

    @classmethod
    def adopt(cls, backend: Any, server: Any, options: Options) -> None:
        """Give a backend that is there already its place behind the boundary."""
        backend.__class__ = cls
        backend.__begin(server, options)

    def __begin(self, server: Any, options: Options) -> None:
        self.__server, self.__own_options = server, options
        self.__process = os.getpid()
        self.__counter: generation.Counter | None = None
        self.__client: Any = None
        self.__known_servers: list[Any] | None = None
        #: The client on the counter's server alone, where there are several.
        self.__home_client: Any = None
        self.__route: Route | None = None
        self.__namespaced_client = NamespacedClient(
            self.__real_client,
            self.__find_counter,
            self.__find_route,
            options.max_staleness,
            options.max_timeout,
        )

    @property
    def _cache(self) -> NamespacedClient:
        return self.__namespaced_client

    @_cache.setter
    def _cache(self, client: Any) -> None:
        # Backends that reconnect may assign the new client; who put ours aside for a
        # while (mock.patch) puts it back.
        if client is self.__namespaced_client:
            return
        own = inspect.getattr_static(self.__own_options.wrapped_class, "_cache")
        if hasattr(own, "__set__"):  # a property of the backend's own
            own.__set__(self, client)
        else:
            vars(self)["_cache"] = client

    @_cache.deleter
    def _cache(self) -> None:
        vars(self).pop("_cache", None)

    def __real_client(self) -> Any:
        if self.__process != os.getpid():
            self.__notice_a_fork()
        # Where Django's cached property, or an assignment, has left it; a property of
        # the backend's own is asked each time.
        client = vars(self).get("_cache")
        if client is None:
            client = super()._cache  # type: ignore[misc]
        if client is not self.__client:
            if libraries.is_left(client):
                raise NamespaceError(
                    f"{type(self).__name__} still has the client of the process that "
                    f"this one was forked from, whose connections it would share. Keep "
                    f"the client in an attribute of the backend, where it can be "
                    f"replaced."
                )
            # And others that the backend may have beside it.
            for value in (client, *list(vars(self).values())):
                libraries.watch(value)
            self.__client = client
        return client

    def __find_route(self) -> Route:
        route = self.__route
        # At every operation: in short, what follows says at length.
        if (
            route is not None
            and route.client is vars(self).get("_cache")
            and route.epoch is identity.epoch
        ):
            return route
        client = self.__real_client()
        counter = self.__find_counter()
        if (
            route is None
            or route.client is not client
            or route.counter is not counter
            or route.epoch is not identity.epoch
        ):
            home = self.__connect_home(client)
            self.__route = route = Route(client, home, counter)
        return route

    # Of several servers, the counter has one for its home, the first by name, and does
    # not move to another as items do while their server is away: two processes that do
    # not agree on who is away would each believe in a counter of its own.

    @property
    def __servers(self) -> list[Any]:
        # Once, for a backend that finds its servers out by asking somebody.
        if self.__known_servers is None:
            servers = self.client_servers
            if not servers:
                raise ImproperlyConfigured("LOCATION names no server.")
            self.__known_servers = sorted(servers, key=locations.name)
        return self.__known_servers

    def __connect_home(self, client: Any) -> Any:
        home, *others = self.__servers
        if not others:
            return client
        if self.__home_client is None:
            self.__home_client = self._class([home], **self._options)
            libraries.watch(self.__home_client)
        return self.__home_client

    def __find_counter(self) -> generation.Counter:
        namespace = identity.resolve(self.__own_options.namespace)
        counter = self.__counter
        if counter is None or counter.namespace != namespace:
            # What the client itself puts before a key makes it another key.
            behaviors = self._options.get("behaviors") or {}
            prefix = self._options.get("key_prefix") or b""
            place = repr((prefix, behaviors.get("namespace")))
            server = locations.name(self.__servers[0])
            counter = generation.counter(namespace, server, place)
            self.__counter = counter
        return counter

    def __notice_a_fork(self) -> None:
        with _lock:  # for several threads of the child may come at once
            if self.__process != os.getpid():
                self.__replace_inherited_clients()
                self.__client = self.__route = None
                _ = super()._cache  # type: ignore[misc]  # made by one of them
                self.__process = os.getpid()

    def __replace_inherited_clients(self) -> None:
        """Begin anew in a process that was forked: no socket is shared with its parent.

        What a backend built just now would hold takes the place of each client. One
        that is held elsewhere is refused when it is used.
        """
        fresh = vars(type(self)(self.__server, self.__own_options))
        for name, value in list(vars(self).items()):
            if libraries.is_client(value):
                del vars(self)[name]
                if name in fresh:
                    vars(self)[name] = fresh[name]


_lock = ForkableLock()


@cache
def _bounded_class(backend_class: Any) -> type[Any]:
    names = ("__module__", "__qualname__", "__doc__")
    attributes = {name: getattr(backend_class, name) for name in names}
    return type(backend_class.__name__, (ClientBoundary, backend_class), attributes)


def build(server: Any, options: Options) -> BaseMemcachedCache:
    """Build the backend that the options name, as Django would, on these servers."""
    wrapped_class: Any = options.wrapped_class  # mypy takes no class to be hashable
    backend: BaseMemcachedCache = _bounded_class(wrapped_class)(server, options)
    return backend


def adopt(backend: BaseMemcachedCache, server: Any, options: Options) -> None:
    """Namespace a backend that Django built before, for whoever holds it.

    Its client stays, and its keys come into the namespace.
    """
    backend_class: Any = type(backend)  # as above
    _bounded_class(backend_class).adopt(backend, server, options)
