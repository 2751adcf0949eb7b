"""Server: asks a memcached which items it holds.

The client libraries have no commands for that. The commands here are described in
memcached's protocol.txt: "LRU_Crawler", which lists all items, and "Meta commands",
which need memcached 1.6.
"""

from __future__ import annotations

import re
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from io import BufferedRWPair
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from namespaced_cache.adapters import locations
from namespaced_cache.errors import NamespaceError
from namespaced_cache.keys import KEY_ENDS, MAX_KEY_BYTES

#: How long to wait for an answer, in seconds.
_PATIENCE = 30

#: How long to wait, in seconds, before a busy server is asked again.
_PAUSE = 0.2

_WALK = b"lru_crawler metadump hash"
_ITEM = re.compile(rb"key=(\S+) .*?la=(\d+) .*?size=(\d+)")


class Item(NamedTuple):
    """An item on a server: its key, bytes of memory, and seconds since its last use."""

    key: bytes
    size: int
    idle: int


class Server(AbstractContextManager["Server", None]):
    """A connection to one memcached. It is opened when needed, and closed by `with`.

    `location` is an entry of LOCATION. `on_busy` is called each time the server answers
    that it is listing its items for another program. All methods raise NamespaceError
    if the server does not answer, or if its reply is not understood. The error names
    the server.
    """

    def __init__(
        self, location: Any, on_busy: Callable[[Server], object] = lambda _: None
    ) -> None:
        self._on_busy = on_busy
        #: How many items the server has listed.
        self.walked = 0
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
        return self._connect()

    def count(self) -> int:
        """Return how many items the server holds: one round trip."""
        return int(self._stats()[b"curr_items"])

    def items(self, beginning: bytes) -> Iterator[Item]:
        """Yield the items whose keys begin with `beginning`, in no order.

        An item that is stored or deleted meanwhile may be missed. No item is yielded
        twice.
        """
        # In seconds of the server's own clock.
        now = int(self._stats()[b"time"])
        with TemporaryFile() as spool:
            # The whole list is read before the first item is yielded. While the list is
            # not read, the server holds locks, and other commands wait for these.
            self._dump(b"key=" + quote_from_bytes(beginning, safe="").encode(), spool)
            spool.seek(0)
            for line in spool:
                found = _ITEM.match(line)
                if found is None:
                    raise self._misunderstood(line)
                key, used, size = found.groups()
                self.walked += 1
                yield Item(unquote_to_bytes(key), int(size), max(0, now - int(used)))

    def idle(self, key: bytes) -> int | None:
        """Return the seconds since an item was last used, or None if it is not there.

        One round trip. This does not count as a use. Memcached notes at most one use of
        an item a minute.
        """
        line = self._ask(b"me " + key)
        if line == b"EN":
            return None
        found = re.search(rb" la=(\d+)", line)
        if found is None:
            raise self._misunderstood(line)
        return int(found[1])

    def value(self, key: bytes) -> bytes | None:
        """Return the bytes of an item, or None if it is not there: one round trip."""
        line = self._ask(b"mg %b v" % key)
        if line == b"EN":
            return None
        kind, _, size = line.partition(b" ")
        if kind != b"VA":
            raise self._misunderstood(line)
        return self._read(int(size) + 2)[:-2]

    def increment(self, key: bytes) -> int | None:
        """Add 1 to a number and return it, or None if it is missing: one round trip."""
        line = self._ask(b"incr %b 1" % key)
        if line == b"NOT_FOUND":
            return None
        if not line.isdigit():
            raise self._misunderstood(line)
        return int(line)

    def delete(self, keys: Iterable[bytes]) -> None:
        """Delete items if they are there: one round trip for all of them."""
        line = self._ask(b"".join(map(_quiet_delete, keys)) + b"mn")
        while line != b"MN":
            if line != b"NF":
                raise self._misunderstood(line)
            line = self._line()

    def _dump(self, beginning: bytes, spool: IO[bytes]) -> None:
        """Write the lines that begin with `beginning` into a file."""
        line = self._ask(_WALK)
        while line.startswith(b"BUSY"):
            self._on_busy(self)
            time.sleep(_PAUSE)
            line = self._ask(_WALK)
        while line != b"END":
            if line.startswith(beginning):
                spool.write(line + b"\n")
            elif line.startswith(b"key="):
                self.walked += 1
            else:
                raise self._misunderstood(line)
            line = self._line()

    def _stats(self) -> dict[bytes, bytes]:
        stats: dict[bytes, bytes] = {}
        line = self._ask(b"stats")
        while line != b"END":
            kind, _, stat = line.partition(b" ")
            if kind != b"STAT":
                raise self._misunderstood(line)
            name, _, value = stat.partition(b" ")
            stats[name] = value
            line = self._line()
        return stats

    def _connect(self) -> BufferedRWPair:
        try:
            if isinstance(self._address, str):
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(_PATIENCE)
                connection.connect(self._address)
            else:
                connection = socket.create_connection(self._address, _PATIENCE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise self._silent(error) from error
        with connection:  # the stream keeps the socket open
            return connection.makefile("rwb")

    def _ask(self, command: bytes) -> bytes:
        try:
            self._stream.write(command + b"\r\n")
            self._stream.flush()
        except OSError as error:
            raise self._silent(error) from error
        return self._line()

    def _line(self) -> bytes:
        try:
            line = self._stream.readline()
        except OSError as error:
            raise self._silent(error) from error
        if not line.endswith(b"\n"):
            raise self._silent("it ended the connection")
        return line.rstrip(b"\r\n")

    def _read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise self._silent(error) from error
        if len(data) < size:
            raise self._silent("it ended the connection")
        return data

    def _silent(self, reason: object) -> NamespaceError:
        return NamespaceError(f"No answer from memcached at {self.name}: {reason}.")

    def _misunderstood(self, line: bytes) -> NamespaceError:
        return NamespaceError(
            f"memcached at {self.name} answers {line[:200]!r}: this takes a memcached "
            f"1.6 that is reached directly, without a proxy, TLS or SASL, and has its "
            f"LRU crawler on."
        )


def has_name(key: bytes) -> bool:
    """Tell whether a command of the text protocol can name a key.

    Clients with the binary protocol may store keys that contain a space or a control
    character. A command names such a key in base64. If the key has more than 187 bytes,
    its base64 is longer than memcached's limit.
    """
    return len(_name_of(key).split()[0]) <= MAX_KEY_BYTES


def _name_of(key: bytes) -> bytes:
    return b64encode(key) + b" b" if KEY_ENDS.search(key) else key


def _quiet_delete(key: bytes) -> bytes:
    return b"md %b q\r\n" % _name_of(key)
