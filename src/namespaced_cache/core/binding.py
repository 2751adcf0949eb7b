"""Bindings: a real client, bound to the counter of its namespace.

A backend may replace its client, and a process may fork or become a test worker. So a
binding holds for the moment: each operation asks for it, and gets the same one as long
as nothing has changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured

from namespaced_cache import forks
from namespaced_cache.adapters import locations
from namespaced_cache.adapters.adapter import adapter_of, is_client
from namespaced_cache.core import identity, registry
from namespaced_cache.core.counter import Counter
from namespaced_cache.core.options import Options
from namespaced_cache.errors import NamespaceError
from namespaced_cache.keys import GenerationKeys, Key


class Binding:
    """The real client, the counter client and the counter, as they are at the moment.

    The counter client reaches the counter server; with one server it is the real
    client. `max_staleness` is how many seconds the latest generation is trusted.
    """

    def __init__(
        self, client: Any, counter_client: Any, counter: Counter, max_staleness: float
    ) -> None:
        self.client = client
        self.counter_client = counter_client
        self.counter = counter
        self.max_staleness = max_staleness
        self.adapter = adapter_of(client)
        #: A binding is valid as long as the names that it was made of.
        self.epoch = identity.epoch
        #: Reads the counter while a command is carried out; None if that is impossible.
        self.counter_reader = self.adapter.counter_reader(
            client, counter_client, counter.key
        )
        #: Whether a command that reads can fetch the counter as one more key.
        self.fetches_counter = self.counter_reader is None and counter_client is client
        self._keys: GenerationKeys | None = None

    def keys(self, generation: int) -> GenerationKeys:
        """Return the keys of a generation. No round trip."""
        keys = self._keys
        if keys is None or keys.number != generation:
            self._keys = keys = GenerationKeys(
                self.counter.namespace,
                generation,
                limit=self.adapter.key_limit(self.client),
                refuse_key_ends=not self.adapter.checks_keys(self.client),
                check=self._check_key,
            )
        return keys

    def ask_counter(self, question: Callable[[Counter, Any], int]) -> int:
        """Return what the counter answers, such as `Counter.current`."""
        try:
            return question(self.counter, self.counter_client)
        except Exception:
            raise
        except BaseException:  # Ctrl-C, a test's time limit
            self.abandon()
            raise

    def abandon(self) -> None:
        """Leave no reply behind that the next command would take for its own."""
        for client in {self.client, self.counter_client}:
            self.adapter.abandon(client)

    def _check_key(self, key: Key) -> None:
        self.adapter.check_key(self.client, key)


class Binder(Protocol):
    """Finds the binding of the moment for a NamespacedClient."""

    def client(self) -> Any:
        """Return the real client."""

    def counter(self) -> Counter:
        """Return the counter."""

    def binding(self) -> Binding:
        """Return both, bound to each other."""


class BackendBinder:
    """Finds the real client of a wrapped backend, and binds it to its counter.

    `connect` gets the client in the backend's own way, be that Django's cached property
    or a property that reconnects; `rebuild` makes such a backend anew, after a fork.
    """

    def __init__(
        self,
        backend: BaseMemcachedCache,
        options: Options,
        connect: Callable[[], Any],
        rebuild: Callable[[], BaseMemcachedCache],
    ) -> None:
        self._backend: Any = backend
        self._attributes = vars(backend)
        self._options = options
        self._connect = connect
        self._rebuild = rebuild
        self._process = os.getpid()
        self._client: Any = None
        self._counter: Counter | None = None
        self._binding: Binding | None = None
        self._sorted_servers: list[Any] | None = None
        #: The client on the counter server alone, if there are several servers.
        self._counter_client: Any = None

    def binding(self) -> Binding:
        """Return the binding of the moment. No round trip."""
        binding = self._binding
        # The fast path, at nearly every operation.
        if (
            binding is not None
            and binding.client is self._attributes.get("_cache")
            and binding.epoch is identity.epoch
        ):
            return binding
        client = self.client()
        counter = self.counter()
        if (
            binding is None
            or binding.client is not client
            or binding.counter is not counter
            or binding.epoch is not identity.epoch
        ):
            self._binding = binding = Binding(
                client,
                self._client_of_the_counter(client),
                counter,
                self._options.max_staleness,
            )
        return binding

    def client(self) -> Any:
        """Return the real client, in the backend's own way. No round trip."""
        if self._process != os.getpid():
            self._replace_inherited_clients()
        # Django's cached property, or an assignment, leaves it here; a property of the
        # backend's own is asked each time.
        client = self._attributes.get("_cache")
        if client is None:
            client = self._connect()
        if client is not self._client:
            if forks.is_unusable(client):
                raise NamespaceError(
                    f"{type(self._backend).__name__} still has the client of the "
                    f"process that this one was forked from, whose connections it "
                    f"would share. Keep the client in an attribute of the backend, "
                    f"where it can be replaced."
                )
            # The backend may have other clients beside it.
            for value in (client, *list(self._attributes.values())):
                release_in_child(value)
            self._client = client
        return client

    def counter(self) -> Counter:
        """Return the counter of the namespace in this process. No round trip."""
        namespace = identity.resolve(self._options.namespace)
        counter = self._counter
        if counter is None or counter.namespace != namespace:
            # The client may itself put something before a key.
            options = self._backend._options
            behaviors = options.get("behaviors") or {}
            prefix = options.get("key_prefix") or b""
            counter = registry.counter(
                namespace,
                locations.name(self._servers()[0]),
                repr((prefix, behaviors.get("namespace"))),
            )
            self._counter = counter
        return counter

    # Of several servers, the first by name is the counter server. The counter does not
    # move to another server as items do while theirs is down: two processes that do not
    # agree on which server is down would each use a counter of its own.

    def _servers(self) -> list[Any]:
        # Once, for a backend that discovers its servers over a network.
        if self._sorted_servers is None:
            servers = self._backend.client_servers
            if not servers:
                raise ImproperlyConfigured("LOCATION names no server.")
            self._sorted_servers = sorted(servers, key=locations.name)
        return self._sorted_servers

    def _client_of_the_counter(self, client: Any) -> Any:
        counter_server, *others = self._servers()
        if not others:
            return client
        if self._counter_client is None:
            backend = self._backend
            self._counter_client = backend._class([counter_server], **backend._options)
            release_in_child(self._counter_client)
        return self._counter_client

    def _replace_inherited_clients(self) -> None:
        """Begin anew in a process that was forked: no socket is shared with its parent.

        What a backend built just now would hold takes the place of each client. One
        that is held elsewhere is refused when it is used.
        """
        with _lock:  # for several threads of the child may come at once
            if self._process == os.getpid():
                return
            fresh = vars(self._rebuild())
            for name, value in list(self._attributes.items()):
                if is_client(value):
                    del self._attributes[name]
                    if name in fresh:
                        self._attributes[name] = fresh[name]
            self._counter_client = None
            self._client = self._binding = None
            self._connect()  # by one of the threads
            self._process = os.getpid()


class CloneBinder:
    """Binds clones of a binder's clients (pylibmc), which another thread is to use."""

    def __init__(self, original: Binder) -> None:
        self._original = original
        #: By process, because a forked child needs others.
        self._clients: dict[int, tuple[Any, Any]] = {}
        self._clone()  # now, and not in the other thread, while this one is at work

    def client(self) -> Any:
        """Return the clone of the real client. No round trip."""
        return self._clone()[0]

    def counter(self) -> Counter:
        """Return the counter, which is the original's. No round trip."""
        return self._original.counter()

    def binding(self) -> Binding:
        """Return a binding of the clones. No round trip."""
        original = self._original.binding()
        return Binding(*self._clone(), original.counter, original.max_staleness)

    def _clone(self) -> tuple[Any, Any]:
        process = os.getpid()
        if process not in self._clients:
            original = self._original.binding()
            # With one server the counter client is the same.
            clones = {
                client: client.clone()
                for client in (original.client, original.counter_client)
            }
            for clone in clones.values():
                release_in_child(clone)
            self._clients[process] = (
                clones[original.client],
                clones[original.counter_client],
            )
        return self._clients[process]


def release_in_child(value: object) -> None:
    """Release what the value holds in forked children, if it is a client."""
    if is_client(value):
        forks.release_in_child(value, adapter_of(value).release)


_lock = forks.new_lock()
