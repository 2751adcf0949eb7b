"""Builds the wrapped backend: production's own class, with its `_cache` namespaced."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from django.core.cache.backends.memcached import BaseMemcachedCache

from namespaced_cache import generation, identity, libraries
from namespaced_cache.client import NamespacedClient
from namespaced_cache.errors import NamespaceError
from namespaced_cache.options import Options


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

    def __init__(
        self, server: Any, params: dict[str, Any], namespace: str | None
    ) -> None:
        self.__arguments = (server, params, namespace)
        self.__process = os.getpid()
        self.__counter: generation.Counter | None = None
        self.__client: Any = None
        #: The client last used by the process that this one was forked from.
        self.__inherited: Any = None
        self.__namespaced_client = NamespacedClient(
            self.__real_client, self.__find_counter
        )
        # Next in line is the backend's own class, which takes what Django gives it.
        super().__init__(server, params)  # type: ignore[call-arg]

    @property
    def _cache(self) -> NamespacedClient:
        return self.__namespaced_client

    @_cache.setter
    def _cache(self, client: Any) -> None:
        # Backends that reconnect may assign the new client; who put ours aside for a
        # while (mock.patch) puts it back.
        if client is not self.__namespaced_client:
            vars(self)["_cache"] = client

    @_cache.deleter
    def _cache(self) -> None:
        vars(self).pop("_cache", None)

    def __real_client(self) -> Any:
        if self.__process != os.getpid():
            self.__replace_inherited_clients()
            self.__process = os.getpid()
        # Where Django's cached property, or an assignment, has left it; a property of
        # the backend's own is asked each time.
        client = vars(self).get("_cache")
        if client is None:
            client = super()._cache  # type: ignore[misc]
        if client is self.__inherited:
            raise NamespaceError(
                f"{type(self).__name__} still has the client of the process that this "
                f"one was forked from, whose connections it would share. Keep the "
                f"client in an attribute of the backend, where it can be replaced."
            )
        if client is not self.__client:
            libraries.watch(client)
            self.__client = client
        return client

    def __find_counter(self) -> generation.Counter:
        namespace = identity.resolve(self.__arguments[2])
        counter = self.__counter
        if counter is None or counter.namespace != namespace:
            servers = tuple(
                str(server).removeprefix("unix:") for server in self.client_servers
            )
            counter = generation.counter(namespace, servers, self.__place(servers))
            self.__counter = counter
        return counter

    def __place(self, servers: tuple[str, ...]) -> str:
        """Say what else decides where the counter's key is found.

        With one server that is only a prefix which the client itself puts before a key.
        Of several servers, each client, set up in its own way, may choose another.
        """
        if len(servers) == 1:
            behaviors = self._options.get("behaviors") or {}
            return repr((self._options.get("key_prefix"), behaviors.get("namespace")))
        return repr((self._class, sorted(self._options.items())))

    def __replace_inherited_clients(self) -> None:
        """Begin anew in a process that was forked: no socket is shared with its parent.

        What a backend built just now would hold takes the place of each client. One
        that is held elsewhere is remembered, where it must not be used again.
        """
        inherited = self.__client
        fresh = vars(type(self)(*self.__arguments))
        for name, value in list(vars(self).items()):
            if libraries.is_client(value):
                del vars(self)[name]
                if name in fresh:
                    vars(self)[name] = fresh[name]
        if inherited is not None and not libraries.of(inherited).usable_after_fork:
            self.__inherited = inherited


@cache
def _bounded_class(backend_class: Any) -> type[Any]:
    names = ("__module__", "__qualname__", "__doc__")
    attributes = {name: getattr(backend_class, name) for name in names}
    return type(backend_class.__name__, (ClientBoundary, backend_class), attributes)


def build(server: Any, options: Options) -> BaseMemcachedCache:
    """Build the backend that the options name, as Django would, on these servers."""
    wrapped_class: Any = options.wrapped_class  # mypy takes no class to be hashable
    backend: BaseMemcachedCache = _bounded_class(wrapped_class)(
        server, options.wrapped_params, options.namespace
    )
    return backend
