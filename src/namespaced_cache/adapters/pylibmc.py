"""The adapter for pylibmc: its Client and subclasses of it."""

from __future__ import annotations

import _socket
import ctypes
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pylibmc
from pylibmc.client import Client  # a tracer puts its proxy into `pylibmc`

from namespaced_cache.adapters import locations
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
    table,
)
from namespaced_cache.adapters.parallel import ParallelReader
from namespaced_cache.adapters.raw_items import RawServers
from namespaced_cache.keys import MAX_KEY_BYTES, Key, as_bytes

_READS, _SETS, _CHANGES = Effect.READS, Effect.SETS, Effect.CHANGES
_TOUCHES, _DELETES = Effect.TOUCHES, Effect.DELETES

#: The parameters of `set_multi` and `add_multi` after the mapping.
_STORING = "time key_prefix min_compress_len compress_level"

#: The expiry of commands whose first parameter it is.
_TIME = "time", 0

# During an outage, nearly all commands of libmemcached raise an error. For the others,
# the outage defaults are those of pymemcache, for which Django's backends are written.
COMMANDS = table(
    one_key("get", _READS, CALLERS_DEFAULT),
    one_key("gets", _READS, None),
    one_key("set", _SETS, False, expiry=("time", 1)),
    one_key("add", _CHANGES, False, expiry=("time", 1)),
    one_key("replace", _CHANGES, False, expiry=("time", 1)),
    one_key("append", _CHANGES, False),
    one_key("prepend", _CHANGES, False),
    one_key("cas", _CHANGES, False, expiry=("time", 2)),
    one_key("touch", _TOUCHES, False, expiry=_TIME),
    one_key("delete", _DELETES, False),
    one_key("incr", _CHANGES, False),
    one_key("decr", _CHANGES, False),
    many_keys("get_multi", _READS, {}, parameters="key_prefix"),
    many_keys("delete_multi", _DELETES, True, parameters="key_prefix"),
    many_keys("incr_multi", _CHANGES, CALLERS_KEYS, parameters="key_prefix delta"),
    mapping("set_multi", _SETS, CALLERS_KEYS, expiry=_TIME, parameters=_STORING),
    mapping("add_multi", _CHANGES, CALLERS_KEYS, expiry=_TIME, parameters=_STORING),
    keyless("get_stats hash serialize deserialize get_behaviors set_behaviors"),
    keyless("clone", Shape.CLONE),
    keyless("disconnect_all", Shape.DISCONNECT),
)

#: libmemcached's defaults, in milliseconds.
_CONNECT_TIMEOUT = 4000
_POLL_TIMEOUT = 5000

#: pylibmc's flag for a compressed value, which only its `get` decompresses.
_COMPRESSED = 1 << 3

#: The errors that mean that a server is down. A timeout has no class of its own. It is
#: raised as their common base class.
_OUTAGES = (
    pylibmc.ConnectionError,
    pylibmc.HostLookupError,
    pylibmc.NoServers,
    pylibmc.ReadError,
    pylibmc.ServerDead,
    pylibmc.ServerDown,
    pylibmc.SocketCreateError,
    pylibmc.UnixSocketError,
    pylibmc.UnknownReadFailure,
    pylibmc.WriteError,
)


class PyLibMCAdapter(Adapter):
    """What this package knows about pylibmc."""

    commands = COMMANDS
    client_classes = (Client,)
    fetches_many_keys = True
    places_text = False
    not_found = (pylibmc.NotFound,)
    #: With the binary protocol, libmemcached reports it as an outage, and so does this
    #: package.
    not_a_number = (pylibmc.ClientError,)

    def is_outage(self, error: Exception, command: Command | None) -> bool:
        """Tell whether a server is down.

        `incr_multi` raises the common base class also for a value that is not a number.
        """
        if type(error) is pylibmc.Error:
            increments = command is not None and command.name == "incr_multi"
            return not increments and not self.is_undecodable(error)
        return isinstance(error, _OUTAGES)

    def is_undecodable(self, error: Exception) -> bool:
        """Tell whether a command failed because of the value alone."""
        return not isinstance(error, pylibmc.Error) or str(error).startswith(
            ("Failed to decompress value", "unknown memcached key flags")
        )

    def key_limit(self, client: Any, options: Mapping[str, Any]) -> int:
        """Return how many bytes the client leaves for a key."""
        # libmemcached puts it before each key, and does not tell what it is.
        namespace = (options.get("behaviors") or {}).get("namespace") or b""
        return MAX_KEY_BYTES - len(namespace)

    def checks_keys(self, client: Any) -> bool:
        """Tell whether the client refuses a key with a space or control character.

        The binary protocol sends a key's length, so any key is safe. With the text
        protocol, pylibmc sends any key unchanged: `get("a b")` asks for two keys, and
        may return the value of `b`, which is in no namespace.
        """
        return bool(client.binary)

    def check_key(self, client: Any, key: Key) -> None:
        """Accept every key: see `checks_keys`."""

    def counter_reader(
        self, client: Any, counter_client: Any, server: CounterServer
    ) -> ParallelReader:
        """Return a reader that reads the counter at the same time as a command.

        libmemcached itself sends one command and awaits its reply.
        """
        if _behaviors(server).get("namespace"):
            raise NoConnectionError(
                "libmemcached puts its own namespace before each key"
            )
        connect = _connector(server, server.location)
        return ParallelReader(server.key.encode(), connect, partial(_decoded, client))

    def raw_servers(self, client: Any, server: CounterServer) -> RawServers:
        """Return the servers of the client, for RawItems."""
        behaviors = _behaviors(server)
        if len(server.all_locations) > 1 and behaviors.get("_sort_hosts"):
            raise NoConnectionError("libmemcached has its servers in another order")
        prefix = behaviors.get("namespace") or b""
        return RawServers(
            connect=[_connector(server, each) for each in server.all_locations],
            server_of=lambda key: client.hash(as_bytes(key)),
            counter_server=list(server.all_locations).index(server.location),
            on_wire=lambda key: as_bytes(prefix) + as_bytes(key),
            decode=partial(_decoded, client),
        )

    def call(
        self,
        client: Any,
        command: Command,
        outage_default: object,
        key: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a command of the client with wire keys."""
        if command.name == "gets" and isinstance(key, str):
            # pylibmc 1.6.3 encodes text, and frees the bytes before it sends them. So
            # it may ask for the key of another thread instead. See
            # https://github.com/lericson/pylibmc/issues/300
            key = key.encode()
        return getattr(client, command.name)(key, *args, **kwargs)

    def compare_and_swap(self, client: Any, key: Key, old: object, new: int) -> None:
        """Store `new` if the key still holds `old`: two round trips.

        This uses a clone with its own connection, because a client that was made
        without `cas` has no tokens.
        """
        swapping = client.clone()
        vars(swapping).update(vars(client))  # attributes of a subclass's serializer
        swapping.behaviors = {"cas": True}
        # The key is encoded for the reason given in `call`.
        found, token = swapping.gets(key.encode() if isinstance(key, str) else key)
        if token is not None and found == old:
            with suppress(pylibmc.NotFound):  # the counter was deleted meanwhile
                swapping.cas(key, new, token)

    def guard(self, client: Any) -> bool:
        """Return True: libmemcached completes a command that Python breaks off."""
        return True

    def close(self, client: Any) -> None:
        """Do nothing: a client closes its connections when it is freed."""

    def disconnect(self, client: Any) -> None:
        """Close all connections of a client."""
        client.disconnect_all()

    def release(self, client: Any) -> bool:
        """Keep a client that a fork inherited for ever. It cannot be used again.

        If it were freed, libmemcached would send `quit` on the socket that it shares
        with the parent, and would end the parent's connection. One extra reference
        prevents that the client is freed, at exit too.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
        return False


class _Socket(_socket.socket):
    """A socket below Python's module `socket`, like libmemcached's own.

    What guards, tracers and gevent put into that module does not concern either.
    """


def _behaviors(server: CounterServer) -> Mapping[str, Any]:
    # Not the client's: libmemcached connects when it is asked for them.
    return server.options.get("behaviors") or {}


def _connector(server: CounterServer, location: Any) -> Callable[[], Any]:
    """Return a function that connects to a server."""
    if server.options.get("username"):
        raise NoConnectionError("the connection needs SASL")
    try:
        address = locations.address(location)
    except ValueError as error:
        raise NoConnectionError(str(error)) from error
    return partial(_connected, address, _behaviors(server))


def _decoded(client: Any, value: bytes, flags: int) -> Any:
    if flags & _COMPRESSED:
        raise ValueError("the counter is compressed")
    return client.deserialize(value, flags)


def _connected(address: str | tuple[str, int], behaviors: Mapping[str, int]) -> _Socket:
    """Connect as libmemcached does with these behaviors, which are in milliseconds."""
    patience = max(behaviors.get("connect_timeout", _CONNECT_TIMEOUT), 1) / 1000
    if isinstance(address, str):
        connection = _opened(socket.AF_UNIX, address, patience)
    else:
        found = _socket.getaddrinfo(*address, 0, socket.SOCK_STREAM)
        connection = _first_of(found, patience)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if behaviors.get("tcp_keepalive"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    poll_timeout = behaviors.get("_poll_timeout", _POLL_TIMEOUT)
    connection.settimeout(None if poll_timeout < 0 else poll_timeout / 1000)
    return connection


def _first_of(found: list[Any], patience: float) -> _Socket:
    """Connect to the first of a host's addresses that accepts."""
    *others, (family, _, _, _, last) = found
    for another, _, _, _, address in others:
        with suppress(OSError):
            return _opened(another, address, patience)
    return _opened(family, last, patience)


def _opened(family: int, address: Any, patience: float) -> _Socket:
    connection = _Socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(patience)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


ADAPTER = PyLibMCAdapter()


def find(client_class: type) -> Adapter | None:
    """Return the adapter for a class, or None if it is not a client's."""
    return ADAPTER if issubclass(client_class, Client) else None
