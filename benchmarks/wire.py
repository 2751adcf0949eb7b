"""Memcached's protocol without a client library, many commands at a time, for speed."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Self

#: Items that are sent together.
BATCH = 1_000


class Wire:
    """A connection to a server on the loopback."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        # Without it, a short last packet waits for the reply to the one before.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._replies.close()
        self._socket.close()

    def ask(self, command: bytes) -> bytes:
        """Return the reply to a command whose reply is one line."""
        self._socket.sendall(command + b"\r\n")
        return self._replies.readline()[:-2]

    def store(self, keys: Iterable[bytes], value: bytes) -> None:
        """Store the value under each key, and wait until all of it is stored."""
        commands = (self.storing(key, value) for key in keys)
        while batch := b"".join(islice(commands, BATCH)):
            self._socket.sendall(batch)
        self.ask(b"version")

    @staticmethod
    def storing(key: bytes, value: bytes) -> bytes:
        """Return the command that stores an item, and that has no reply."""
        return b"set %b 0 0 %d noreply\r\n%b\r\n" % (key, len(value), value)

    def get(self, keys: Sequence[bytes]) -> int:
        """Return how many of the keys exist."""
        self._socket.sendall(b"get " + b" ".join(keys) + b"\r\n")
        hits = 0
        while (line := self._replies.readline()) != b"END\r\n":
            hits += line.startswith(b"VALUE ")
        return hits

    def increment(self, counter: bytes, items: Sequence[bytes]) -> int:
        """Increment a counter once before each item is stored; return its last number.

        An item is the command that stores it, or is empty.
        """
        command = b"incr %b 1\r\n" % counter
        self._socket.sendall(b"".join(command + item for item in items))
        return [int(self._replies.readline()) for _ in items][-1]

    def stats(self) -> dict[str, str]:
        """Return the server's statistics."""
        self._socket.sendall(b"stats\r\n")
        stats = {}
        while (line := self._replies.readline()) != b"END\r\n":
            _, name, value = line.decode().split(" ", 2)
            stats[name] = value.strip()
        return stats
