"""Adapter: what this package knows about one client library.

There is one adapter for each library. It is imported when a client of its library is
first used, so that neither library has to be installed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

from namespaced_cache.adapters.commands import Command
from namespaced_cache.adapters.counter_read import CounterReader
from namespaced_cache.adapters.raw_items import RawServers
from namespaced_cache.errors import UnsupportedClientError
from namespaced_cache.keys import Key


@dataclass(frozen=True)
class CounterServer:
    """Where a counter is: its key, and the server's entry in LOCATION.

    `options` are those that the backend makes clients with. `all_locations` are the
    entries of all servers, in the order of LOCATION.
    """

    key: str
    location: Any
    options: Mapping[str, Any]
    all_locations: Sequence[Any] = ()


class NoConnectionError(Exception):
    """No connection of this package's own is possible. The message is the reason."""


class Adapter(ABC):
    """The differences of one client library. `client` is a client of that library."""

    #: The library's commands, by their names.
    commands: ClassVar[Mapping[str, Command]]

    #: The classes whose `flush_all()` empties a server.
    client_classes: ClassVar[tuple[type, ...]]

    #: Whether a command that reads can fetch the counter too, as one more key.
    fetches_many_keys: ClassVar[bool]

    #: The exceptions that mean "no such key". A command may return None instead.
    not_found: ClassVar[tuple[type[Exception], ...]]

    #: Whether a client of several servers may keep a text and its UTF-8 bytes, used as
    #: keys, on different servers.
    places_text: ClassVar[bool]

    #: The exceptions of `incr` that mean "that is not a number".
    not_a_number: ClassVar[tuple[type[Exception], ...]]

    @abstractmethod
    def is_outage(self, error: Exception, command: Command | None) -> bool:
        """Tell whether an error means that a server is down.

        The operation is not repeated then, because it would only wait again.
        """

    @abstractmethod
    def is_undecodable(self, error: Exception) -> bool:
        """Tell whether a command failed because of the value alone."""

    @abstractmethod
    def key_limit(self, client: Any, options: Mapping[str, Any]) -> int:
        """Return how many bytes the client leaves for a key.

        `options` are those that the backend has made it with.
        """

    @abstractmethod
    def checks_keys(self, client: Any) -> bool:
        """Tell whether the client refuses a key with a space or control character."""

    @abstractmethod
    def check_key(self, client: Any, key: Key) -> None:
        """Raise what the client raises for a key that it does not accept."""

    @abstractmethod
    def counter_reader(
        self, client: Any, counter_client: Any, server: CounterServer
    ) -> CounterReader:
        """Return a reader for the counter, which reads it during a command.

        `counter_client` is the client that reaches the counter server. Raises
        NoConnectionError if the counter read can only follow the command.
        """

    @abstractmethod
    def raw_servers(self, client: Any, server: CounterServer) -> RawServers:
        """Return the servers of the client, for RawItems.

        Raises NoConnectionError if they cannot be asked without the client.
        """

    @abstractmethod
    def call(
        self,
        client: Any,
        command: Command,
        outage_default: object,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a command of the client with wire keys.

        `outage_default` is the answer while the client hides that a server is down.
        """

    @abstractmethod
    def compare_and_swap(self, client: Any, key: Key, old: object, new: int) -> None:
        """Store `new` if the key still holds `old`: two round trips."""

    @abstractmethod
    def guard(self, client: Any) -> bool:
        """Let no command of the client receive the reply to a broken-off one.

        Tell whether that is possible. If not, `close` has to be called after each
        command that was broken off.
        """

    @abstractmethod
    def close(self, client: Any) -> None:
        """Close all connections of a client, unless the library does it by itself."""

    @abstractmethod
    def disconnect(self, client: Any) -> None:
        """Close all connections of a client. It opens them again when it is used."""

    @abstractmethod
    def release(self, client: Any) -> bool:
        """Release a client that a fork inherited. Tell whether it can be used again."""


#: The libraries that have an adapter. Each adapter is in the module of that name.
LIBRARIES = ("pymemcache", "pylibmc")


def missing_library(error: ImportError) -> str | None:
    """Return the library that is not installed, and the remedy, or None."""
    library = (error.name or "").partition(".")[0]
    if library not in LIBRARIES or not isinstance(error, ModuleNotFoundError):
        return None
    return (
        f"{library} is not installed: pip install 'django-namespaced-cache[{library}]'"
    )


def adapter_of(client: object) -> Adapter:
    """Return the adapter of the client's library.

    Raises UnsupportedClientError for a client of any other library, because this
    package does not know which of its commands take keys.
    """
    adapter = _find(_client_class(client))
    if adapter is None:
        raise UnsupportedClientError(
            f"The wrapped backend's client is a "
            f"{type(client).__module__}.{type(client).__qualname__}: only clients made "
            f"from pymemcache's and pylibmc's can be namespaced. To use this one bare, "
            f"exclude its alias: cache_namespace_exclude."
        )
    return adapter


def is_client(value: object) -> bool:
    """Tell whether this is a client of a library that has an adapter."""
    return _find(_client_class(value)) is not None


def adapter_for(library: str) -> Adapter:
    """Return the adapter of one of LIBRARIES, and import the library."""
    adapter: Adapter = _module(library).ADAPTER
    return adapter


@cache
def _find(client_class: Any) -> Adapter | None:
    for base in client_class.__mro__:
        library = base.__module__.partition(".")[0]
        if library in LIBRARIES:
            found: Adapter | None = _module(library).find(client_class)
            return found
    return None


def _module(library: str) -> ModuleType:
    return import_module(f"namespaced_cache.adapters.{library}")


def _client_class(value: object) -> Any:
    real_class = type(value)
    # A tracer's proxy has the __class__ of the client that it wraps. The __class__ of
    # other objects is not read, because that would evaluate a lazy object.
    return value.__class__ if hasattr(real_class, "__wrapped__") else real_class
