"""Raw items: reads and stores many items at once, as memcached holds them.

Each server has a connection of its own here, and is asked in memcached's text protocol.
No serializer is involved, so an item keeps its bytes, its client flags and its timeout.
The commands are described in memcached's protocol.txt: "mg" and "ms" are among the
"Meta commands", which memcached has since 1.6.
"""

from __future__ import annotations

import re
import socket
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

from namespaced_cache import forks
from namespaced_cache.keys import KEY_ENDS, Key, has_name, name_of

#: How many bytes of requests, or how many items, are sent before their replies are
#: read. More could fill all buffers, and then both sides would wait for each other.
_REQUEST_BYTES = 32 * 1024
_ITEMS_AT_ONCE = 1000

_RECEIVED_BYTES = 256 * 1024

_VERSION = re.compile(rb"VERSION (\d+)\.(\d+)")
_FIRST_WITH_META = 1, 6
_META_ITEM = re.compile(rb"VA (\d+) f(\d+) t(-?\d+)$")
_ITEM = re.compile(rb"VALUE (\S+) (\d+) (\d+)$")
_STORED = b"STORED\r\n"


@dataclass(frozen=True)
class RawItem:
    """An item: its bytes, its client flags, and the seconds until it expires.

    `timeout` is None if it never expires. From a server older than memcached 1.6, which
    does not tell, it is UNKNOWN. When an item is stored, a number above
    LONGEST_RELATIVE is a moment, in seconds since 1970.
    """

    value: bytes
    flags: int
    timeout: int | None

    @cached_property
    def request(self) -> bytes:
        """The part behind the key of the command `set` that stores it."""
        numbers = self.flags, expiry(self.timeout), len(self.value)
        return b" %d %d %d\r\n%b\r\n" % (*numbers, self.value)


UNKNOWN = -1

#: Memcached reads a larger number as a point in time, in seconds since 1970 (its
#: protocol.txt, "Expiration times").
LONGEST_RELATIVE = 30 * 24 * 60 * 60


def expiry(timeout: int | None) -> int:
    """Return a timeout as memcached takes it."""
    # It was rounded down, and 0 would mean never.
    return 0 if timeout is None else max(timeout, 1)


_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class RawServers:
    """The servers of a client, by their positions in LOCATION.

    `connect` opens a connection to each. `server_of` returns the one on which the
    client keeps a wire key, and `counter_server` is the one of the counter. `on_wire`
    returns a wire key as the client sends it, with a prefix of the client's own.
    `decode` makes a value of an item's bytes and flags.
    """

    connect: Sequence[Callable[[], socket.socket]]
    server_of: Callable[[Key], int]
    counter_server: int
    on_wire: Callable[[Key], bytes]
    decode: Callable[[bytes, int], object]


class RawItems:
    """Reads and stores items on the servers of a client.

    The connections are opened when they are needed, and closed with this object and in
    a forked child. The methods raise OSError if a server cannot be asked, and
    ValueError for a reply that is not understood, or a key that the protocol cannot
    name.
    """

    def __init__(self, servers: RawServers) -> None:
        self._servers = servers
        self._connections: dict[int, _Connection] = {}
        #: The servers without meta commands.
        self._old: set[int] = set()
        weakref.finalize(self, _close, self._connections)
        forks.release_in_child(self, RawItems._release)

    def read(
        self, wire_keys: Sequence[Key], counter_key: str
    ) -> tuple[dict[Key, RawItem], object]:
        """Return the items that exist, and the counter's value or None.

        One round trip for each server, if the requests have no more than 32 KiB.
        """
        placed = self._placed(wire_keys)
        placed.setdefault(self._servers.counter_server, []).append(counter_key)
        found: dict[Key, RawItem] = {}
        for server, keys in placed.items():
            sent = {self._servers.on_wire(key): key for key in keys}
            for key, item in self._read_from(server, list(sent)).items():
                found[sent[key]] = item
        counter = found.pop(counter_key, None)
        return found, counter and self._servers.decode(counter.value, counter.flags)

    def write(self, items: Mapping[Key, RawItem]) -> None:
        """Store items under wire keys: one round trip for each server.

        There is one for each 1,000 items.
        """
        on_wire = self._servers.on_wire
        for server, keys in self._placed(items).items():
            pairs = [(on_wire(key), items[key]) for key in keys]
            self._ask(server, partial(_Connection.write, items=pairs))

    def close(self) -> None:
        """Close the connections."""
        _close(self._connections)

    def _placed(self, wire_keys: Iterable[Key]) -> dict[int, list[Key]]:
        if len(self._servers.connect) == 1:
            return {0: list(wire_keys)}
        placed: dict[int, list[Key]] = {}
        for key in wire_keys:
            placed.setdefault(self._servers.server_of(key), []).append(key)
        return placed

    def _read_from(self, server: int, keys: list[bytes]) -> dict[bytes, RawItem]:
        if server not in self._old:
            try:
                return self._ask(server, partial(_Connection.read, keys=keys))
            except _NoMetaCommandsError:
                self._old.add(server)
        return self._ask(server, partial(_Connection.read_as_of_old, keys=keys))

    def _ask(self, server: int, ask: Callable[[_Connection], _Answer]) -> _Answer:
        """Ask on a connection. If it was open before, ask once more on a new one.

        The server, or a proxy, may have closed it because it was idle for long.
        """
        try:
            if server in self._connections:
                return self._answer(server, self._connections.pop(server), ask)
        except TimeoutError:
            raise
        except OSError:
            pass
        opened = _Connection(self._servers.connect[server]())
        return self._answer(server, opened, ask)

    def _answer(
        self,
        server: int,
        connection: _Connection,
        ask: Callable[[_Connection], _Answer],
    ) -> _Answer:
        try:
            answer = ask(connection)
        except BaseException:  # also what a signal handler raises
            connection.close()
            raise
        self._connections[server] = connection
        return answer

    def _release(self) -> bool:
        """Close the connections of the parent process."""
        self.close()
        return True


class _NoMetaCommandsError(Exception):
    """The server is older than memcached 1.6."""


class _Connection:
    """A connection to one server. It has to be closed after an error."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._received = bytearray()
        self._taken = 0

    def read(self, keys: Sequence[bytes]) -> dict[bytes, RawItem]:
        """Return the items that exist."""
        found = {}
        first = b"version\r\n"
        for some in _parts(keys):
            requests = (b"mg %b f t v\r\n" % _named(key) for key in some)
            self._socket.sendall(first + b"".join(requests))
            if first and not self._has_meta_commands(self._line()):
                raise _NoMetaCommandsError
            first = b""
            for key in some:
                line = self._line()
                if line == b"EN":
                    continue
                size, flags, seconds = map(int, _matched(_META_ITEM, line).groups())
                timeout = None if seconds < 0 else seconds
                found[key] = RawItem(self._value(size), flags, timeout)
        return found

    def read_as_of_old(self, keys: Sequence[bytes]) -> dict[bytes, RawItem]:
        """Return the items that exist, from a server without meta commands."""
        found = {}
        for some in _parts(keys):
            if any(map(KEY_ENDS.search, some)):
                raise ValueError(f"a key among {some!r} needs the meta commands")
            self._socket.sendall(b"get " + b" ".join(some) + b"\r\n")
            while (line := self._line()) != b"END":
                key, flags, size = _matched(_ITEM, line).groups()
                found[key] = RawItem(self._value(int(size)), int(flags), UNKNOWN)
        return found

    def write(self, items: Sequence[tuple[bytes, RawItem]]) -> None:
        """Store items."""
        awaited = 0
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            some = items[start : start + _ITEMS_AT_ONCE]
            parts: list[bytes] = []
            for key, item in some:
                if KEY_ENDS.search(key):
                    parts.append(_storing_by_name(key, item))
                else:
                    parts += b"set ", key, item.request
            self._socket.sendall(b"".join(parts))
            # The replies to one part are received when the next part has been sent, so
            # that the server is never idle.
            self._take_stored(awaited)
            awaited = len(some)
        self._take_stored(awaited)

    def _take_stored(self, count: int) -> None:
        """Receive the replies for items that were stored."""
        all_stored = _STORED * count
        while len(self._received) - self._taken < len(all_stored):
            if not all_stored.startswith(self._received[self._taken :]):
                break  # a reply is shorter
            self._receive()
        if self._received.startswith(all_stored, self._taken):  # the fast path
            self._taken += len(all_stored)
            return
        for _ in range(count):
            line = self._line()
            if line not in (b"STORED", b"HD"):
                raise ValueError(f"the server answers {line[:80]!r}")

    def close(self) -> None:
        self._socket.close()

    def _has_meta_commands(self, version: bytes) -> bool:
        found = _VERSION.match(version)
        if found is None:
            return False
        return tuple(map(int, found.groups())) >= _FIRST_WITH_META

    def _line(self) -> bytes:
        while (end := self._received.find(b"\r\n", self._taken)) < 0:
            self._receive()
        line = bytes(self._received[self._taken : end])
        self._taken = end + 2
        return line

    def _value(self, size: int) -> bytes:
        """Receive the value of an item, and the end of its line."""
        while len(self._received) < self._taken + size + 2:
            self._receive()
        value = bytes(self._received[self._taken : self._taken + size])
        self._taken += size + 2
        return value

    def _receive(self) -> None:
        del self._received[: self._taken]
        self._taken = 0
        more = self._socket.recv(_RECEIVED_BYTES)
        if not more:
            raise ConnectionResetError("the server has closed the connection")
        self._received += more


def _storing_by_name(key: bytes, item: RawItem) -> bytes:
    """Return the request that stores an item under a key that `set` cannot name."""
    name = _named(key).removesuffix(b" b")
    numbers = item.flags, expiry(item.timeout)
    head = b"ms %b %d b F%d T%d\r\n" % (name, len(item.value), *numbers)
    return head + item.value + b"\r\n"


def _parts(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Divide keys so that the requests for each part are short enough."""
    part: list[bytes] = []
    room = _REQUEST_BYTES
    for key in keys:
        part.append(key)
        room -= len(key) + len(b"mg  f t v\r\n")
        if room < 0:
            yield part
            part, room = [], _REQUEST_BYTES
    if part:
        yield part


def _named(key: bytes) -> bytes:
    if not has_name(key):
        raise ValueError(f"no command of the text protocol can name the key {key!r}")
    return name_of(key)


def _matched(pattern: re.Pattern[bytes], line: bytes) -> re.Match[bytes]:
    found = pattern.match(line)
    if found is None:
        raise ValueError(f"the server answers {line[:80]!r}")
    return found


def _close(connections: dict[int, _Connection]) -> None:
    while connections:
        _, connection = connections.popitem()
        with suppress(OSError):
            connection.close()
