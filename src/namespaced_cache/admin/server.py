"""Server: asks a memcached which items it holds.

The client libraries have no commands for that. The commands here are described in
memcached's protocol.txt: "LRU_Crawler", which lists all items, and "Meta commands".
"""

from __future__ import annotations

import re
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from io import BufferedRWPair
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from namespaced_cache.adapters import locations
from namespaced_cache.errors import NamespaceError
from namespaced_cache.keys import name_of

#: How long to wait, in seconds, for a connection and its first answer.
_FIRST_PATIENCE = 3

#: How long to wait for any other answer, in seconds.
_PATIENCE = 30

#: The first memcached whose meta commands can name any key, and delete it quietly.
_FIRST_VERSION = 1, 6, 9

#: How long to wait, in seconds, before a busy server is asked again.
_PAUSE = 0.2

_WALK = b"lru_crawler metadump hash"
#: Ends a walk, since memcached 1.6.28, if the hash table grows meanwhile.
_LOCKED = b"ERROR locked"
#: Comes before the items since memcached 1.6.43.
_BEGUN = b"OK"
_VALUE = re.compile(rb"VALUE \S+ \d+ (\d+)$")
_VERSION = re.compile(rb"VERSION (\d+)\.(\d+)\.(\d+)")
#: memcached before 1.6.10 answers "OK".
_STATE = re.compile(rb"(?:HD|OK) l(\d+) c(\d+)$")
_ITEM = re.compile(rb"key=(\S+) .*?la=(\d+) .*?size=(\d+)")


@dataclass(frozen=True)
class Access:
    """How a server is reached, if not by a connection of one's own without a login.

    `connect` opens a connection, such as one with TLS. `login` is a name and a
    password, for a memcached with a file of them (its option `-Y`).
    """

    connect: Callable[[], socket.socket] | None = None
    login: tuple[str, str] | None = None


class Item(NamedTuple):
    """An item on a server: its key, bytes of memory, and seconds since its last use."""

    key: bytes
    size: int
    idle: int


class ItemState(NamedTuple):
    """The seconds since an item was last used, and the number of its last change."""

    idle: int
    cas: int


class Items:
    """The items that a server has listed. They can be walked over repeatedly."""

    def __init__(self, server: Server, now: int) -> None:
        self.server = server
        spool = TemporaryFile()  # noqa: SIM115  # closed when this object is freed
        self.spool: IO[bytes] = spool
        self._now = now
        self._is_counted = False
        weakref.finalize(self, spool.close)

    def __iter__(self) -> Iterator[Item]:
        self.spool.seek(0)
        for line in self.spool:
            found = _ITEM.match(line)
            if found is None:
                raise self.server.misunderstood(line)
            key, used, size = found.groups()
            self.server.walked += not self._is_counted
            idle = max(0, self._now - int(used))
            yield Item(unquote_to_bytes(key), int(size), idle)
        self._is_counted = True


class Server(AbstractContextManager["Server", None]):
    """A connection to one memcached. It is opened when needed, and closed by `with`.

    `location` is an entry of LOCATION. `access` says how to connect and to log in.
    `on_busy` is called each time the server cannot list its items yet, with the reason.
    All methods raise NamespaceError if the server does not answer, or if its reply is
    not understood. The error names the server.
    """

    def __init__(
        self,
        location: Any,
        on_busy: Callable[[Server, str], object] = lambda *_: None,
        access: Access = Access(),
    ) -> None:
        self._on_busy = on_busy
        self._access = access
        #: How many items the server has listed.
        self.walked = 0
        self._version: tuple[int, ...] = ()
        self.name = locations.name(location)
        try:
            self._address = locations.address(location)
        except ValueError as error:
            raise NamespaceError(str(error)) from None

    def __exit__(self, *_: object) -> None:
        if stream := vars(self).pop("_stream", None):
            with suppress(OSError):  # if the last bytes cannot be sent
                stream.close()

    @cached_property
    def _stream(self) -> BufferedRWPair:
        connection = self._connect()
        connection.settimeout(_FIRST_PATIENCE)
        with connection:  # the stream keeps the socket open
            stream = connection.makefile("rwb")
            try:
                self._begin(stream)
            except BaseException:
                stream.close()
                raise
            connection.settimeout(_PATIENCE)
        return stream

    def _begin(self, stream: BufferedRWPair) -> None:
        """Log in if there is a password, and ask which memcached this is."""
        asked = [b"version"]
        if self._access.login is not None:
            # memcached's protocol.txt, "Authentication".
            asked.insert(0, b"set auth 0 0 %d\r\n%b" % _sized(self._access.login))
        try:
            for request in asked:
                stream.write(request + b"\r\n")
                stream.flush()
                line = stream.readline().rstrip(b"\r\n")
        except OSError as error:
            raise self._no_memcached(error) from error
        found = _VERSION.match(line)
        if found is None:
            raise self._no_memcached(f"it answers {line[:200]!r}")
        self._version = tuple(map(int, found.groups()))

    def count(self) -> int:
        """Return how many items the server holds: one round trip."""
        return int(self._stats()[b"curr_items"])

    def items(self, beginning: bytes) -> Items:
        """Return the items whose keys begin with `beginning`, in no order.

        An item that is stored or deleted meanwhile may be missed.
        """
        # In seconds of the server's own clock.
        now = int(self._stats()[b"time"])
        if self._version < _FIRST_VERSION:
            is_version, needed = (
                ".".join(map(str, version))
                for version in (self._version, _FIRST_VERSION)
            )
            raise NamespaceError(
                f"memcached at {self.name} is version {is_version}: its items can be "
                f"listed from {needed} on."
            )
        items = Items(self, now)
        # The whole list is read before the first item is yielded. While the list is not
        # read, the server holds locks, and other commands wait for these.
        start = b"key=" + quote_from_bytes(beginning, safe="").encode()
        self._dump(start, items.spool)
        return items

    def states(self, keys: Sequence[bytes]) -> list[ItemState | None]:
        """Return the state of each item, or None if it is not there: one round trip.

        This does not count as a use: the flag `u` says so. Memcached notes at most one
        use of an item a minute.
        """
        self._send(b"\r\n".join(b"mg %b l c u" % name_of(key) for key in keys))
        return [self._read_state() for _ in keys]

    def _read_state(self) -> ItemState | None:
        line = self._line()
        if line == b"EN":
            return None
        found = _STATE.match(line)
        if found is None:
            raise self.misunderstood(line)
        idle, cas = found.groups()
        return ItemState(int(idle), int(cas))

    def idle(self, key: bytes) -> int | None:
        """Return the seconds since an item was last used: see `states`."""
        (state,) = self.states([key])
        return None if state is None else state.idle

    def get(self, key: bytes) -> bytes | None:
        """Return the bytes of an item, or None if it is not there: one round trip.

        This counts as a use. Any memcached knows the command.
        """
        line = self._ask(b"get %b" % key)
        if line == b"END":
            return None
        found = _VALUE.match(line)
        if found is None:
            raise self.misunderstood(line)
        value = self._read(int(found[1]) + 2)[:-2]
        self._line()  # END
        return value

    def value(self, key: bytes) -> bytes | None:
        """Return the bytes of an item, or None if it is not there: one round trip.

        This does not count as a use: the flag `u` says so.
        """
        line = self._ask(b"mg %b v u" % key)
        if line == b"EN":
            return None
        kind, _, size = line.partition(b" ")
        if kind != b"VA":
            raise self.misunderstood(line)
        return self._read(int(size) + 2)[:-2]

    def increment(self, key: bytes) -> int | None:
        """Add 1 to a number and return it, or None if it is missing: one round trip."""
        line = self._ask(b"incr %b 1" % key)
        if line == b"NOT_FOUND":
            return None
        if not line.isdigit():
            raise self.misunderstood(line)
        return int(line)

    def delete(self, items: Iterable[tuple[bytes, int]]) -> None:
        """Delete items by their keys and `cas`: one round trip for all of them.

        An item that is missing, or was stored again, is left alone.
        """
        line = self._ask(b"".join(_quiet_delete(*item) for item in items) + b"mn")
        while line != b"MN":
            if line not in (b"NF", b"EX"):
                raise self.misunderstood(line)
            line = self._line()

    def _dump(self, beginning: bytes, spool: IO[bytes]) -> None:
        """Write the lines that begin with `beginning` into a file."""
        walked = self.walked
        while reason := self._try_to_dump(beginning, spool):
            self._on_busy(self, reason)
            time.sleep(_PAUSE)
            self.walked = walked
            spool.seek(0)
            spool.truncate()

    def _try_to_dump(self, beginning: bytes, spool: IO[bytes]) -> str:
        """Do so if the server lists all of its items. Otherwise return the reason."""
        line = self._ask(_WALK)
        if line.startswith(b"BUSY"):
            return "is busy with another walk"
        if line == _BEGUN:
            line = self._line()
        while line != b"END":
            if line.startswith(beginning):
                spool.write(line + b"\n")
            elif line.startswith(b"key="):
                self.walked += 1
            elif line.startswith(_LOCKED):
                return "is making its hash table larger"
            else:
                raise self.misunderstood(line)
            line = self._line()
        return ""

    def _stats(self) -> dict[bytes, bytes]:
        stats: dict[bytes, bytes] = {}
        line = self._ask(b"stats")
        while line != b"END":
            kind, _, stat = line.partition(b" ")
            if kind != b"STAT":
                raise self.misunderstood(line)
            name, _, value = stat.partition(b" ")
            stats[name] = value
            line = self._line()
        return stats

    def _connect(self) -> socket.socket:
        try:
            if self._access.connect is not None:
                return self._access.connect()
            if isinstance(self._address, str):
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(_FIRST_PATIENCE)
                connection.connect(self._address)
            else:
                connection = socket.create_connection(self._address, _FIRST_PATIENCE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise self._silent(error) from error
        return connection

    def _ask(self, command: bytes) -> bytes:
        self._send(command)
        return self._line()

    def _send(self, commands: bytes) -> None:
        try:
            self._stream.write(commands + b"\r\n")
            self._stream.flush()
        except OSError as error:
            raise self._silent(error) from error

    def _line(self) -> bytes:
        try:
            line = self._stream.readline()
        except OSError as error:
            raise self._silent(error) from error
        if not line.endswith(b"\n"):
            raise self._no_memcached("it ended the connection")
        return line.rstrip(b"\r\n")

    def _read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise self._silent(error) from error
        if len(data) < size:
            raise self._no_memcached("it ended the connection")
        return data

    def _silent(self, reason: object) -> NamespaceError:
        return NamespaceError(f"No answer from memcached at {self.name}: {reason}.")

    def _no_memcached(self, reason: object) -> NamespaceError:
        return NamespaceError(
            f"No answer from memcached at {self.name}: {reason}. It may be a proxy, or "
            f"need TLS or a login that the OPTIONS of the alias do not have. A server "
            f"with SASL takes no text protocol, so it cannot be asked."
        )

    def misunderstood(self, line: bytes) -> NamespaceError:
        """Make the error for a reply that is not understood."""
        return NamespaceError(
            f"memcached at {self.name} answers {line[:200]!r}: this takes a memcached "
            f"that is reached directly, without a proxy, and has its LRU crawler on."
        )


def _sized(login: tuple[str, str]) -> tuple[int, bytes]:
    value = " ".join(login).encode()
    return len(value), value


def _quiet_delete(key: bytes, cas: int) -> bytes:
    return b"md %b q C%d\r\n" % (name_of(key), cas)
