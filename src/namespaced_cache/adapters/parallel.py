"""Parallel counter reads: the counter is read at the same time as a command.

The read has a connection of its own to the counter server. It is sent before the client
sends its command, and its reply is received after the command's. So both take one round
trip together, with any client and any number of servers.

This is as strict as a counter read after the command, although the two may reach their
servers in any order. If the read returns a generation, the operation began before that
generation ended, and it is as if the command had been carried out right then. See
`docs/how-it-works.md`.
"""

from __future__ import annotations

import logging
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from namespaced_cache import forks
from namespaced_cache.adapters.counter_read import ABSENT, UNREAD, CounterRead

_log = logging.getLogger(__name__)

_EOL = b"\r\n"
_END = b"END\r\n"

#: After a failure that would probably come again, so many operations do without.
#: It doubles with each failure. It is no time, because an operation reads no clock.
_PAUSE = 100
_LONGEST_PAUSE = 10_000

#: What a connection or a reply raises.
_FAILURES = OSError, ValueError, IndexError

#: More bytes than the reply for a counter has.
_SIZE = 4096


class ParallelReader:
    """Reads a counter on connections of its own.

    A connection is used by one operation at a time. There are as many as there were
    operations at the same time. A failure leaves a read UNREAD, so that the counter is
    read after the command. The connection is closed then, because a later reply on it
    would be the reply to an earlier read.

    `connect` opens a connection. `decode` makes a value of an item's bytes and flags.
    """

    def __init__(
        self,
        wire_key: bytes,
        connect: Callable[[], socket.socket],
        decode: Callable[[bytes, int], object],
    ) -> None:
        self._request = b"get " + wire_key + _EOL
        self._increment = b"incr " + wire_key + b" 1" + _EOL
        self._head = b"VALUE " + wire_key + b" "
        self._connect = connect
        self._decode = decode
        self._idle: list[socket.socket] = []
        #: All connections, those in use included.
        self._connections: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        #: Whether it has read what the client itself had read. Until then, it may have
        #: another server or key than the client, which may have ways of its own.
        self.is_verified = False
        #: How many further operations do without a connection, and how many the next
        #: failure adds.
        self._pause, self._next_pause = 0, _PAUSE
        self._has_logged = False
        #: The reply that was last received, and its value. A counter seldom moves.
        self._last: tuple[bytes | None, object] = (None, None)
        weakref.finalize(self, _close, self._idle)
        forks.release_in_child(self, ParallelReader._release)

    def begin(self, read: CounterRead, request: bytes | None = None) -> None:
        """Send a request, on a connection that no other operation uses."""
        try:
            connection = self._idle.pop()
        except IndexError:
            opened = self._open()
            if opened is None:
                return
            connection = opened
            read.is_first = True
        read.connection = connection
        try:
            connection.sendall(request or self._request)
        except OSError as error:  # the server, or a proxy, has closed it
            self._drop(read, error)
        except BaseException:
            self._drop(read)
            raise

    def end(
        self, read: CounterRead, parse: Callable[[bytes], object] | None = None
    ) -> None:
        """Receive the reply."""
        connection: Any = read.connection
        if connection is None:
            return
        last = self._last
        try:
            reply = connection.recv(_SIZE)
            if reply == last[0]:  # the fast path
                read.value = last[1]
            elif parse is not None:
                read.value = parse(self._whole(connection, reply))
            else:
                read.value = self._verified(read, self._whole(connection, reply))
        except _FAILURES as error:  # the command must not fail for it
            self._drop(read, error)
        except BaseException:  # also what a signal handler raises
            self._drop(read)
            raise
        else:
            read.connection = None
            if read.is_first:
                self._next_pause = _PAUSE
            self._idle.append(connection)

    def abandon(self, read: CounterRead) -> None:
        """Receive no reply, and close the connection, on which it may still come."""
        if read.connection is not None:
            self._drop(read)

    def get(self) -> object:
        """Return the counter's value: one round trip. UNREAD after a failure."""
        return self._ask(self._request, None)

    def increment(self) -> object:
        """Increment the counter, and return its number: one round trip.

        None if there is no counter, and UNREAD after a failure. The counter may have
        been incremented even then.
        """
        return self._ask(self._increment, _number)

    def compare(self, ask: Callable[[], object]) -> object:
        """Return what the client answers, and verify this reader by it.

        `ask` lets the client read the counter. Both read it in one round trip.
        """
        read = CounterRead(0, 0, reached=False)
        try:
            self.begin(read)
            answer = ask()
            if isinstance(answer, int):  # a missing counter proves nothing
                read.floor = answer
            self.end(read)
        except BaseException:
            self.abandon(read)
            raise
        return answer

    def _ask(self, request: bytes, parse: Callable[[bytes], object] | None) -> object:
        read = CounterRead(0, 0, reached=False)
        try:
            self.begin(read, request)
            self.end(read, parse)
        except BaseException:
            self.abandon(read)
            raise
        return read.value

    def close(self) -> None:
        """Close the connections that no operation uses."""
        _close(self._idle)

    def _release(self) -> bool:
        """Close the connections of the parent process. The reader can be used again."""
        self._idle.clear()
        for connection in list(self._connections):
            connection.close()
        return True

    def _open(self) -> socket.socket | None:
        if self._pause:
            self._pause -= 1
            return None
        try:
            connection = self._connect()
        except (*_FAILURES, RuntimeError) as error:  # the last is a guard's of a test
            self._pause_after(error)
            return None
        self._connections.add(connection)
        return connection

    def _drop(self, read: CounterRead, error: Exception | None = None) -> None:
        connection, read.connection = read.connection, None
        connection.close()
        if error and (read.is_first or isinstance(error, TimeoutError)):
            self._pause_after(error)
        elif error:
            # It worked before, so it may only have been idle for too long. Then the
            # others have been, too.
            self.close()

    def _pause_after(self, error: Exception) -> None:
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
        if not self._has_logged:
            self._has_logged = True
            _log.debug("The counter is read after the commands for now: %r", error)

    def _whole(self, connection: socket.socket, begun: bytes) -> bytes:
        """Receive the rest of a reply."""
        reply = begun
        while not self._is_whole(reply):
            more = connection.recv(_SIZE)
            if not more:
                raise ConnectionResetError("the server has closed the connection")
            reply += more
        return reply

    def _is_whole(self, reply: bytes) -> bool:
        line, end_of_line, rest = reply.partition(_EOL)
        if not end_of_line:
            return False
        if not line.startswith(b"VALUE "):
            return True
        return len(rest) >= int(line.split()[3]) + len(_EOL) + len(_END)

    def _verified(self, read: CounterRead, reply: bytes) -> object:
        """Return the counter's value, or UNREAD if it may be that of another item."""
        value = self._value(reply)
        if not self.is_verified and value != read.floor:
            return UNREAD
        self.is_verified = True
        if value is not ABSENT:
            self._last = reply, value
        return value

    def _value(self, reply: bytes) -> object:
        """Return the counter's value. Raises ValueError for any other reply."""
        if reply == _END:
            return ABSENT
        line, _, rest = reply.partition(_EOL)
        if not line.startswith(self._head):
            raise ValueError(reply[:80])
        flags, size = map(int, line[len(self._head) :].split())
        if rest[size:] != _EOL + _END:
            raise ValueError(reply[:80])
        try:
            return self._decode(rest[:size], flags)
        except Exception as error:
            raise ValueError(f"cannot be decoded ({error})") from error


def _number(reply: bytes) -> int | None:
    """Return the number in the reply to `incr`, or None if there is no such key."""
    return None if reply == b"NOT_FOUND\r\n" else int(reply)


def _close(connections: list[socket.socket]) -> None:
    while connections:
        with suppress(OSError):
            connections.pop().close()
