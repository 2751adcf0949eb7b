"""Bindings: a real client, bound to the counter of its namespace.

A backend may replace its client, and a process may fork or become a test worker. So
each operation asks for the current binding. It gets the same binding until something
has changed.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.exceptions import ImproperlyConfigured

from namespaced_cache import forks
from namespaced_cache.adapters import locations
from namespaced_cache.adapters.adapter import (
    CounterServer,
    NoConnectionError,
    adapter_of,
    is_client,
)
from namespaced_cache.adapters.counter_access import CounterAccess
from namespaced_cache.adapters.counter_read import CounterReader
from namespaced_cache.adapters.parallel import ParallelReader
from namespaced_cache.core import identity, registry
from namespaced_cache.core.counter import Counter
from namespaced_cache.core.options import Options
from namespaced_cache.errors import NamespaceError
from namespaced_cache.keys import GenerationKeys, Key, as_bytes

_log = logging.getLogger(__name__)


class Binding:
    """The real client, the counter client and the counter, as they are at the moment.

    The counter client reaches the counter server. With one server, it is the real
    client. `options` are the alias's. `max_staleness`, which is one of them, is how
    many seconds the latest generation is trusted.
    """

    counter_client: Any

    def __init__(
        self,
        client: Any,
        counter_client: Any,
        counter: Counter,
        server: CounterServer,
        options: Options,
    ) -> None:
        self.client = client
        self.options = options
        if counter_client is not None:
            self.counter_client = counter_client
        self.counter = counter
        self.max_staleness = options.max_staleness
        self.server = server
        if options.max_staleness:
            counter.is_timed = True
        self.adapter = adapter_of(client)
        clients = {client, self.counter_client}
        self._is_guarded = all([*map(self.adapter.guard, clients)])
        #: The binding is valid in this epoch only, because it uses the epoch's names.
        self.epoch = identity.epoch
        #: Reads the counter during a command; None if that is impossible.
        self.counter_reader: CounterReader | None = None
        try:
            self.counter_reader = self.adapter.counter_reader(
                client, self.counter_client, server
            )
        except NoConnectionError as reason:
            _log.debug(
                "Namespace %r: the counter is read after each command: %s",
                counter.namespace,
                reason,
            )
        # With one server, the counter is asked as any command is.
        reader, is_alone = self.counter_reader, self.counter_client is client
        #: Reaches the counter outside of commands.
        self.access = CounterAccess(
            self.adapter,
            self._find_counter_client,
            reader if isinstance(reader, ParallelReader) and not is_alone else None,
        )
        #: Whether a command that reads can fetch the counter as one more key.
        self.fetches_counter = (
            self.adapter.fetches_many_keys and self.counter_client is client
        )
        #: The keys of the generation that was used last.
        self.last_keys: GenerationKeys | None = None

    def keys(self, generation: int) -> GenerationKeys:
        """Return the keys of a generation. No round trip."""
        keys = self.last_keys
        if keys is None or keys.number != generation:
            self.last_keys = keys = GenerationKeys(
                self.counter.namespace,
                generation,
                limit=self.adapter.key_limit(self.client, self.server.options),
                refuse_key_ends=not self.adapter.checks_keys(self.client),
                check=self._check_key,
            )
        return keys

    def accepts(self, key: Key) -> bool:
        """Tell whether an item can have this key. No round trip."""
        try:
            wire_key = self.keys(self.counter.latest).wire_key(key)
            self.adapter.check_key(self.client, wire_key)
        except Exception:  # noqa: BLE001  # whatever the client raises for a key
            return False
        limit = self.adapter.key_limit(self.client, self.server.options)
        return len(as_bytes(wire_key)) <= limit

    def same_key(self, key: Key) -> Key:
        """Return the same key for a text and its UTF-8 bytes, if both are one item."""
        if type(key) is str and key.isascii():  # the fast path
            return key
        if len(self.server.all_locations) > 1 and self.adapter.places_text:
            return key
        raw = as_bytes(key)
        # Text has the faster way to a wire key.
        return raw.decode() if raw.isascii() else raw

    def ask_counter(self, question: Callable[[Counter, CounterAccess], int]) -> int:
        """Call a method of the counter, such as `Counter.current`."""
        try:
            return question(self.counter, self.access)
        except Exception:
            raise
        except BaseException:  # Ctrl-C, a test's time limit
            self.abandon()
            raise

    def abandon(self) -> None:
        """Make sure that no later command reads the reply to a broken-off one."""
        if not self._is_guarded:
            for client in {self.client, self.counter_client}:
                self.adapter.close(client)

    def _find_counter_client(self) -> Any:
        return self.counter_client

    def _check_key(self, key: Key) -> None:
        self.adapter.check_key(self.client, key)


class SeveralServersBinding(Binding):
    """A binding on several servers, with a counter client for each thread.

    A backend may share one real client among threads, because it has a pool or a lock.
    The counter client is this package's own, and is never used by two threads at once.
    """

    def __init__(
        self,
        client: Any,
        counter_clients: ThreadsClients,
        counter: Counter,
        server: CounterServer,
        options: Options,
    ) -> None:
        self._counter_clients = counter_clients
        super().__init__(client, None, counter, server, options)

    @property
    def counter_client(self) -> Any:
        """The client of this thread on the counter server alone."""
        return self._counter_clients.client


class _Held:
    """Holds the client of one thread, and closes it when the thread ends."""

    def __init__(self, client: Any) -> None:
        self.client = client
        weakref.finalize(self, adapter_of(client).close, client)


class ThreadsClients(threading.local):
    """A client for each thread that asks for one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._held: _Held | None = None

    @property
    def client(self) -> Any:
        """The client of this thread, which is made when it is first needed."""
        held = self._held
        if held is None:
            self._held = held = _Held(self._make())
        return held.client


class Binder(Protocol):
    """Finds the current binding for a NamespacedClient."""

    def client(self) -> Any:
        """Return the real client."""

    def counter(self) -> Counter:
        """Return the counter."""

    def binding(self) -> Binding:
        """Return the binding of the real client and the counter."""


class BackendBinder:
    """Finds the real client of a wrapped backend, and binds it to its counter.

    `connect` gets the client in the backend's own way: by Django's cached property, or
    by a property that reconnects. `rebuild` makes a new backend of this kind, after a
    fork.
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
        #: The clients on the counter server alone, if there are several servers.
        self._counter_clients = ThreadsClients(self._new_counter_client)

    def binding(self) -> Binding:
        """Return the current binding. No round trip."""
        binding = self._binding
        # The fast path, for nearly every operation.
        if (
            binding is not None
            and binding.client is self._attributes.get("_cache")
            and binding.epoch is identity.epoch
        ):
            return binding
        if binding is None and self._options.namespace is None:
            identity.warn_outside_of_tests(self._options.find_alias())
        client = self.client()
        counter = self.counter()
        if (
            binding is None
            or binding.client is not client
            or binding.counter is not counter
            or binding.epoch is not identity.epoch
        ):
            self._binding = binding = self._bound(client, counter)
        return binding

    def client(self) -> Any:
        """Return the real client, in the backend's own way. No round trip."""
        if self._process != os.getpid():
            self._replace_inherited_clients()
        # Django's cached property, or an assignment, stores the client here. If the
        # backend has a property of its own, that is read each time.
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
            # The backend may have other clients too.
            for value in (client, *list(self._attributes.values())):
                release_in_child(value)
            self._client = client
        return client

    def counter(self) -> Counter:
        """Return the counter of the namespace in this process. No round trip."""
        namespace = identity.resolve(self._options.namespace)
        counter = self._counter
        if counter is None or counter.namespace != namespace:
            # The client itself may put a prefix before each key.
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

    # Of several servers, the first by name is the counter server. While a server is
    # down, its items move to another server, but the counter does not. Otherwise, two
    # processes that disagree on which server is down would each use their own counter.

    def _servers(self) -> list[Any]:
        # The list is read once, because a backend may discover its servers over a
        # network.
        if self._sorted_servers is None:
            servers = self._backend.client_servers
            if not servers:
                raise ImproperlyConfigured("LOCATION names no server.")
            try:
                for server in servers:
                    locations.check_system(server)
            except ValueError as error:
                raise ImproperlyConfigured(str(error)) from None
            self._sorted_servers = sorted(servers, key=locations.name)
        return self._sorted_servers

    def _bound(self, client: Any, counter: Counter) -> Binding:
        servers = self._servers()
        server = CounterServer(
            counter.key,
            servers[0],
            self._backend._options,
            self._backend.client_servers,
        )
        if len(servers) == 1:
            return Binding(client, client, counter, server, self._options)
        return SeveralServersBinding(
            client, self._counter_clients, counter, server, self._options
        )

    def _new_counter_client(self) -> Any:
        backend = self._backend
        client = backend._class([self._servers()[0]], **backend._options)
        release_in_child(client)
        adapter_of(client).guard(client)
        return client

    def replace_clients(self) -> list[Any]:
        """Replace the backend's clients, and return them. No round trip.

        Each client among the backend's attributes is replaced by the client of a new
        backend.
        """
        fresh = vars(self._rebuild())
        replaced = []
        for name, value in list(self._attributes.items()):
            if is_client(value):
                replaced.append(value)
                del self._attributes[name]
                if name in fresh:
                    self._attributes[name] = fresh[name]
        self._counter_clients = ThreadsClients(self._new_counter_client)
        self._client = self._binding = None
        return replaced

    def _replace_inherited_clients(self) -> None:
        """Replace the clients in a forked process, so that it shares no socket.

        A client that is stored elsewhere is refused when it is used.
        """
        with _lock:  # several threads of the child may call this at the same time
            if self._process == os.getpid():
                return
            self.replace_clients()
            self._connect()  # now, so that only one thread does it
            self._process = os.getpid()


class CloneBinder:
    """Binds clones of a binder's clients (pylibmc), for use in another thread."""

    def __init__(self, original: Binder) -> None:
        self._original = original
        #: For each process its own clones, because a forked child needs new ones.
        self._clients: dict[int, tuple[Any, Any]] = {}
        self._binding: Binding | None = None
        self._clone()  # now, because the other thread must not use the original

    def client(self) -> Any:
        """Return the clone of the real client. No round trip."""
        return self._clone()[0]

    def counter(self) -> Counter:
        """Return the counter, which is the original's. No round trip."""
        return self._original.counter()

    def binding(self) -> Binding:
        """Return a binding of the clones. No round trip."""
        original = self._original.binding()
        client, counter_client = self._clone()
        binding = self._binding
        if (
            binding is None
            or binding.client is not client
            or binding.counter is not original.counter
            or binding.epoch is not identity.epoch
        ):
            self._binding = binding = Binding(
                client,
                counter_client,
                original.counter,
                original.server,
                original.options,
            )
        return binding

    def _clone(self) -> tuple[Any, Any]:
        process = os.getpid()
        if process not in self._clients:
            original = self._original.binding()
            # With one server, the real client and the counter client are the same.
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
    """If the value is a client, release it in forked children."""
    if is_client(value):
        forks.release_in_child(value, adapter_of(value).release)


_lock = forks.new_lock()
