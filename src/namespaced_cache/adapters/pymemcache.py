"""The adapter for pymemcache: HashClient, Client, PooledClient and their subclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from traceback import walk_tb
from typing import Any

# The clients are not imported from their modules, where a tracer puts its proxies.
from pymemcache import (
    Client,
    HashClient,
    MemcacheClientError,
    MemcacheError,
    PooledClient,
)
from pymemcache.client.base import check_key_helper
from pymemcache.client.retrying import RetryingClient
from pymemcache.exceptions import (
    MemcacheIllegalInputError,
    MemcacheUnexpectedCloseError,
)

from namespaced_cache.adapters import broken_off, hash_client, pipelined
from namespaced_cache.adapters.adapter import Adapter, CounterServer, NoConnectionError
from namespaced_cache.adapters.commands import (
    CALLERS_DEFAULT,
    CALLERS_KEYS,
    Command,
    Effect,
    Shape,
    keyless,
    many_keys,
    mapping,
    one_key,
    refused,
    table,
)
from namespaced_cache.adapters.counter_read import CounterReader
from namespaced_cache.adapters.parallel import ParallelReader
from namespaced_cache.adapters.raw_items import RawServers
from namespaced_cache.keys import MAX_KEY_BYTES, Key, as_bytes

_READS, _SETS, _CHANGES = Effect.READS, Effect.SETS, Effect.CHANGES
_TOUCHES, _DELETES = Effect.TOUCHES, Effect.DELETES

#: Reasons why commands are refused.
_FOR_EVERYBODY = "it changes the server for everybody"
_COUNTER_SERVER = "the counter is stored on one of the servers of LOCATION"

# The outage defaults are the answers of HashClient while the server of a key is in its
# retry window. `append` and `prepend` also take an expiry, but memcached ignores it.
COMMANDS = table(
    one_key("get", _READS, CALLERS_DEFAULT),
    one_key("gets", _READS, None),
    one_key("set", _SETS, False, expiry=("expire", 1)),
    one_key("add", _CHANGES, False, expiry=("expire", 1)),
    one_key("replace", _CHANGES, False, expiry=("expire", 1)),
    one_key("append", _CHANGES, False),
    one_key("prepend", _CHANGES, False),
    one_key("cas", _CHANGES, False, expiry=("expire", 2)),
    one_key("touch", _TOUCHES, False, expiry=("expire", 0)),
    one_key("delete", _DELETES, False),
    one_key("incr", _CHANGES, False),
    one_key("decr", _CHANGES, False),
    many_keys("get_many", _READS, {}, parameters="gets"),
    many_keys("get_multi", _READS, {}, parameters="gets"),
    many_keys("gets_many", _READS, {}),
    many_keys("gets_multi", _READS, {}),
    many_keys("delete_many", _DELETES, True),
    many_keys("delete_multi", _DELETES, True),
    mapping("set_many", _SETS, CALLERS_KEYS, expiry=("expire", 0)),
    mapping("set_multi", _SETS, CALLERS_KEYS, expiry=("expire", 0)),
    keyless("stats version check_key"),
    keyless("close disconnect_all quit", Shape.DISCONNECT),
    refused("raw_command", "its text may name any key"),
    refused("shutdown", "it stops the server for everybody"),
    refused("cache_memlimit", _FOR_EVERYBODY),
    refused("add_server", _COUNTER_SERVER),
    refused("remove_server", _COUNTER_SERVER),
)


class PyMemcacheAdapter(Adapter):
    """What this package knows about pymemcache."""

    commands = COMMANDS
    client_classes = (Client, PooledClient, HashClient)
    fetches_many_keys = False
    places_text = True
    not_found = ()
    not_a_number = (MemcacheClientError,)

    def is_outage(self, error: Exception, command: Command | None) -> bool:
        """Tell whether a server is down."""
        return isinstance(error, (OSError, MemcacheUnexpectedCloseError))

    def is_undecodable(self, error: Exception) -> bool:
        """Tell whether a command failed because of the value alone."""
        if type(error) is RuntimeError and str(error).startswith("Too many objects"):
            return False  # all connections of a pool are in use
        if isinstance(error, (OSError, MemcacheError)):
            return False
        # A guard such as pytest-socket's raises errors of its own.
        frames = (frame for frame, _ in walk_tb(error.__traceback__))
        return all(frame.f_code is not Client._connect.__code__ for frame in frames)

    def key_limit(self, client: Any, options: Mapping[str, Any]) -> int:
        """Return how many bytes the client leaves for a key."""
        return MAX_KEY_BYTES - len(client.key_prefix)

    def checks_keys(self, client: Any) -> bool:
        """Tell whether the client refuses a key with a space: always."""
        return True

    def check_key(self, client: Any, key: Key) -> None:
        """Raise what the client raises for a key that it does not accept."""
        check_key_helper(key, client.allow_unicode_keys, client.key_prefix)

    def counter_reader(
        self, client: Any, counter_client: Any, server: CounterServer
    ) -> CounterReader:
        """Return a reader that reads the counter in the packets of commands.

        With several servers, or if the client's sockets cannot be wrapped, it reads the
        counter at the same time as the command.
        """
        if client is counter_client:
            reader = pipelined.counter_reader(client, server.key)
            if reader is not None:
                return reader
        pipelined.end_records_with_commands(client)
        return _parallel_reader(counter_client, server.key)

    def raw_servers(self, client: Any, server: CounterServer) -> RawServers:
        """Return the servers of the client, for RawItems."""
        members = _members(client)
        if len(members) != len(server.all_locations):
            raise NoConnectionError("the client has other servers than LOCATION")
        if len(members) > 1 and not hash_client.places_keys_as_usual(client):
            raise NoConnectionError("the client places keys in a way of its own")
        names = list(getattr(client, "clients", {}))
        prefix: bytes = members[0].key_prefix
        return RawServers(
            connect=[_connector(member) for member in members],
            server_of=lambda key: names.index(client.hasher.get_node(key)),
            counter_server=list(server.all_locations).index(server.location),
            on_wire=lambda key: prefix + as_bytes(key),
            decode=partial(_decoded, members[0]),
        )

    call = staticmethod(hash_client.call)  # saves one function call

    def compare_and_swap(self, client: Any, key: Key, old: object, new: int) -> None:
        """Store `new` if the key still holds `old`: two round trips."""
        found, token = client.gets(key) or (None, None)
        if token is not None and found == old:
            client.cas(key, new, token)

    def guard(self, client: Any) -> bool:
        """Let no command of the client receive the reply to a broken-off one."""
        return broken_off.guard(client)

    def close(self, client: Any) -> None:
        """Close all connections of a client."""
        client.close()

    disconnect = close

    def release(self, client: Any) -> bool:
        """Release a client that a fork inherited. Tell whether it can be used again.

        `close()` closes only this process's end of a connection. `quit()` would end the
        parent's connection too. The connections of a pool are closed one by one. A pool
        cannot be used again, because another thread of the parent may have held its
        lock.
        """
        usable = True
        for member in getattr(client, "clients", {"": client}).values():
            pool = getattr(member, "client_pool", None)
            if pool is None:
                member.close()
            else:
                usable = False
                for connection in (*pool.used, *pool.free):
                    connection.close()
        return usable


def _parallel_reader(counter_client: Any, key: str) -> ParallelReader:
    """Return a reader whose connections are made with the client's own options."""
    member, *others = _members(counter_client)
    if others:
        raise NoConnectionError("the client has several servers")
    connect, decode = _connector(member), partial(_decoded, member)
    return ParallelReader(_on_wire(member, key), connect, decode)


def _members(client: Any) -> list[Any]:
    """Return the client of each server."""
    return list(getattr(client, "clients", {"": client}).values())


def _connector(member: Any) -> Callable[[], Any]:
    """Return a function that connects to a server with the client's own options."""
    client_class = getattr(member, "client_class", type(member))
    if getattr(client_class, "_connect", Client._connect) is not Client._connect:
        raise NoConnectionError("the client connects in a way of its own")

    def connect() -> Any:
        # A client of the library connects, and only its socket is used.
        connecting = Client(
            member.server,
            connect_timeout=member.connect_timeout,
            timeout=member.timeout,
            no_delay=True,
            socket_module=member.socket_module,
            socket_keepalive=member.socket_keepalive,
            tls_context=member.tls_context,
        )
        connecting._connect()
        return connecting.sock

    return connect


def _on_wire(member: Any, key: Key) -> bytes:
    try:
        wire_key: bytes = check_key_helper(
            key, member.allow_unicode_keys, member.key_prefix
        )
    except MemcacheIllegalInputError as error:  # the client's key_prefix is invalid
        raise NoConnectionError(str(error)) from error
    return wire_key


def _decoded(member: Any, value: bytes, flags: int) -> Any:
    return member.serde.deserialize("", value, flags)


ADAPTER = PyMemcacheAdapter()


class RetryingAdapter(PyMemcacheAdapter):
    """What this package knows about pymemcache's RetryingClient.

    It calls each command of the client that it wraps, and again after an error. It
    has no attributes of its own: whatever is read from it is a function.
    """

    # As HashClient's own methods, without shortcuts: it repeats them as a whole.
    def call(
        self,
        client: Any,
        command: Command,
        outage_default: object,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a command of the client with wire keys."""
        return getattr(client, command.name)(*args, **kwargs)

    def key_limit(self, client: Any, options: Mapping[str, Any]) -> int:
        """Return how many bytes the client leaves for a key."""
        return super().key_limit(_retried(client), options)

    def check_key(self, client: Any, key: Key) -> None:
        """Raise what the client raises for a key that it does not accept."""
        super().check_key(_retried(client), key)

    def counter_reader(
        self, client: Any, counter_client: Any, server: CounterServer
    ) -> CounterReader:
        """Return a reader that reads the counter during commands."""
        return super().counter_reader(
            _retried(client), _retried(counter_client), server
        )

    def raw_servers(self, client: Any, server: CounterServer) -> RawServers:
        """Return the servers of the client, for RawItems."""
        return super().raw_servers(_retried(client), server)

    def guard(self, client: Any) -> bool:
        """Let no command of the client receive the reply to a broken-off one."""
        return super().guard(_retried(client))

    def release(self, client: Any) -> bool:
        """Release a client that a fork inherited. Tell whether it can be used again."""
        return super().release(_retried(client))


def _retried(client: Any) -> Any:
    return client._client if isinstance(client, RetryingClient) else client


RETRYING_ADAPTER = RetryingAdapter()


def find(client_class: type) -> Adapter | None:
    """Return the adapter for a class, or None if it is not a client's."""
    if issubclass(client_class, RetryingClient):
        return RETRYING_ADAPTER
    # All clients have this method. The library has other classes, such as serializers.
    return ADAPTER if hasattr(client_class, "disconnect_all") else None
