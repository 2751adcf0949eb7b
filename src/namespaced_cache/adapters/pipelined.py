"""Pipelined counter reads: the counter is read in the packet of a pymemcache command.

pymemcache's clients send a command with `sock.sendall()` and read its reply with
`sock.recv()`. This module wraps their sockets. It adds a request for the counter to the
packet of the next command, and removes the counter's reply before the client reads the
command's reply. It does not change how clients connect, hash, fail and retry.

This needs only those two calls, and each `sendall()` must be one or several whole
commands. If a client uses other calls, no counter read is sent, and the operation finds
its read UNREAD.

In a `get`, the counter is the first of the keys. Any other command is followed by a
`get` of the counter. The `get` does not come first, because memcached sends the result
of a `get` at once. It would send the command's reply in a packet of its own.
"""

from __future__ import annotations

import ssl
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any, cast

from pymemcache import Client  # not from its module, where a tracer puts its proxy
from pymemcache.client.base import check_key_helper
from pymemcache.exceptions import MemcacheIllegalInputError, MemcacheUnknownError

from namespaced_cache.adapters.base_classes import add_base
from namespaced_cache.adapters.counter_read import ABSENT, UNREAD, CounterRead

_EOL = b"\r\n"
_END = b"END\r\n"

#: The beginnings of commands whose second line is the value.
_STORING = b"set ", b"add ", b"replace ", b"append ", b"prepend ", b"cas "

#: The beginnings of replies that are errors.
_ERRORS = b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR"

#: If a reply comes in pieces, the rest is received with a buffer of this size or more.
_MUCH = 2**20

#: The bytes that a TLS record can hold. memcached reads as many at once.
_RECORD = 2**14

#: Bytes that are part of no reply.
_NONE = b"\r\n\r\n"

#: The value of a counter read, and the rest of the bytes: the command's own reply.
Reply = tuple[object, bytearray]


class _Waiting(threading.local):
    """The counter read that this thread's next command sends, and its request.

    They are passed in a thread-local, because the client between the operation and the
    socket has no argument for them.
    """

    request: Any = None
    read: Any = None


_waiting = _Waiting()


class CounterRequest:
    """The request for a counter. It reads the counter with a client's commands."""

    def __init__(self, key: str, client: Any, server: Any) -> None:
        wire_key = check_key_helper(key, client.allow_unicode_keys, client.key_prefix)
        self.server = server
        #: The request among the keys of a `get`, and behind any other command.
        self.among = b" " + wire_key + b" "
        self.behind = b"get " + wire_key + _EOL
        self._key = key
        self._head = b"VALUE " + wire_key + b" "
        #: The counter's item as it was last received, the same item as the end of a
        #: reply, and its value. They are kept because a counter seldom moves.
        self.last: tuple[bytes, bytes, object] = (_NONE, _NONE, None)

    def begin(self, read: CounterRead) -> None:
        """Let this thread's next command send the counter read."""
        _waiting.request, _waiting.read = self, read

    def end(self, _: CounterRead) -> None:
        """Let no further command send the counter read."""
        _waiting.read = None

    abandon = end

    def close(self) -> None:
        """Do nothing: the connections are the client's."""

    def read_among(self, received: bytearray, serde: Any) -> Reply | None:
        """Read the reply to a `get` that has the counter among its keys.

        Returns None if the reply is not complete. The counter is normally the first
        item of the reply, because it is the first key. But the protocol does not
        guarantee this, and a proxy combines the items of several servers.
        """
        start = 0
        while (end := received.find(_EOL, start)) >= 0:
            line = received[start:end]
            if line.startswith(self._head):
                reply = self._read_item(received[start:], serde)
                return reply and (reply[0], received[:start] + reply[1])
            if not line.startswith(b"VALUE "):  # END, or an error
                return (ABSENT if line == b"END" else UNREAD), received
            start = end + len(_EOL) + int(line.split()[3]) + len(_EOL)
        return None

    def read_behind(self, received: bytearray, serde: Any) -> Reply | None:
        """Read the replies to other commands, and the reply to the `get` behind them.

        Returns None if the replies are not complete. After an error, either no reply
        follows, or the client closes the connection.
        """
        # Do not parse before the end may be there, because there may be very many
        # replies.
        if not received.endswith(_END) and b"ERROR" not in received:
            return None
        start = 0
        while (end := received.find(_EOL, start)) >= 0:
            if received.startswith(_ERRORS, start):
                return UNREAD, received
            if received.startswith((b"VALUE ", _END), start):
                rest = received[start:]
                if start == 0:
                    # This is the reply to an earlier command, which was not read.
                    raise MemcacheUnknownError(f"An earlier reply: {rest[:80]!r}")
                if rest == _END:
                    return ABSENT, received[:start]
                self._expect(self._head, rest[: len(self._head)])
                reply = self._read_item(rest, serde)
                if reply is None or len(reply[1]) < len(_END):
                    return None
                self._expect(_END, reply[1])
                return reply[0], received[:start]
            start = end + len(_EOL)
        return None

    def read_alone(self, received: bytearray, serde: Any) -> Reply | None:
        """Read the reply to the `get` behind commands without a reply.

        Returns None if the reply is not complete.
        """
        if not received.endswith(_EOL):
            return None
        if received == _END:
            return ABSENT, bytearray()
        self._expect(self._head, received[: len(self._head)])
        reply = self._read_item(received, serde)
        if reply is None or len(reply[1]) < len(_END):
            return None
        self._expect(_END, reply[1])
        return reply[0], bytearray()

    def _read_item(self, received: bytearray, serde: Any) -> Reply | None:
        line, end_of_line, rest = received.partition(_EOL)
        flags, size, *_ = line[len(self._head) :].split() if end_of_line else (0, 0)
        value, tail = rest[: int(size)], rest[int(size) :]
        if not end_of_line or len(tail) < len(_EOL):
            return None
        self._expect(_EOL, tail[: len(_EOL)])
        found = serde.deserialize(self._key, bytes(value), int(flags))
        tail = tail[len(_EOL) :]
        item = bytes(received[: len(received) - len(tail)])
        self.last = (item, item + _END, found)
        return found, tail

    def _expect(self, expected: bytes, got: bytearray) -> None:
        if got != expected:
            raise MemcacheUnknownError(f"The counter {self._key!r}: {got[:80]!r}")


class Socket:
    """A client's socket, which sends counter reads with commands."""

    def __init__(self, sock: Any, member: Client) -> None:
        self._sock = sock
        self._member = weakref.ref(member)
        self._server = member.server
        self._serde = member.serde
        #: Whether commands are sent over TLS: see `_records`.
        self._is_encrypted = isinstance(sock, ssl.SSLSocket)
        self._send = (
            partial(_send_records, sock) if self._is_encrypted else sock.sendall
        )
        #: The counter read whose reply comes next, its request, and whether the counter
        #: is among the keys of a `get`.
        self._read: CounterRead | None = None
        self._request: Any = None
        self._among = False

    def sendall(self, data: bytes) -> None:
        """Send a command together with the waiting counter read, if there is one."""
        if self._read is not None:
            raise ConnectionAbortedError(
                "a counter read was left unanswered on this connection"
            )
        read = _waiting.read
        if read is None:
            self._send(data)
            return
        request: CounterRequest = _waiting.request
        if request.server != self._server:
            self._send(data)
        elif data.startswith((b"get ", b"gets ")):
            _waiting.read = None  # the client may send several commands
            self._read, self._request, self._among = read, request, True
            command, _, keys = data.partition(b" ")
            self._send(command + request.among + keys)
        else:
            self._send_before(data, read, request)

    def _send_before(
        self, data: bytes, read: CounterRead, request: CounterRequest
    ) -> None:
        """Send a command, and the request behind it."""
        end = data.find(_EOL)
        is_noreply = data.endswith(b" noreply", 0, end)
        if is_noreply:
            read.is_acknowledged = False
        # Behind the first line of a storing command, the request would be stored as a
        # part of the value.
        if end + len(_EOL) == len(data) and data.startswith(_STORING):
            self._send(data)
            return
        _waiting.read = None
        if is_noreply:
            self._send_without_reply(data, read, request)
            return
        self._read, self._request, self._among = read, request, False
        self._send_with(data, request)

    def _send_with(self, data: bytes, request: CounterRequest) -> None:
        if self._is_encrypted:
            self._send(data)
            self._send(request.behind)
        else:
            self._send(data + request.behind)

    def _send_without_reply(
        self, data: bytes, read: CounterRead, request: CounterRequest
    ) -> None:
        """Send commands without a reply, and read the counter at once.

        The client will not receive. In one packet with the command, the request does
        not wait for the delayed acknowledgement of the command's packet. An error ends
        the connection, and the counter is read after the command.
        """
        self._send_with(data, request)
        received = bytearray()
        try:
            while not (reply := request.read_alone(received, self._serde)):
                more = self._sock.recv(_MUCH)
                if not more:
                    raise ConnectionResetError  # noqa: TRY301  # handled like others
                received += more
        except Exception:  # noqa: BLE001  # the bare client would not know of it
            member: Any = self._member()
            member.close()
        else:
            read.value = reply[0]

    def recv(self, size: int) -> bytes:
        """Receive the bytes of a command's reply that have arrived."""
        received: bytes = self._sock.recv(size)
        read = self._read
        if read is None:
            return received
        # The fast path: a counter seldom moves.
        item, tail, found = self._request.last
        if self._among:
            if not received.startswith(item):
                return self._receive(read, received, size)
            rest = received[len(item) :]
        else:
            if not received.endswith(tail) or len(received) == len(tail):
                return self._receive(read, received, size)
            rest = received[: -len(tail)]
        self._read = None
        read.value = found
        return rest or self._sock.recv(size)

    def _receive(self, read: CounterRead, begun: bytes, size: int) -> bytes:
        request: CounterRequest = self._request
        take = request.read_among if self._among else request.read_behind
        received = bytearray(begun)
        while not (reply := take(received, self._serde)):
            more = self._sock.recv(max(size, _MUCH))
            if not more:
                self._read = None
                return bytes(received)  # the client notices that the connection ended
            received += more
        self._read = None
        read.value, rest = reply
        return bytes(rest or self._sock.recv(size))

    def __getattr__(self, name: str) -> Any:
        # No other method may return the counter's reply as the command's reply.
        if self._read is not None and name.startswith(("recv", "read", "makefile")):
            raise AttributeError(f"{name}() would read the reply to a counter read")
        return getattr(self._sock, name)


def _records(data: bytes) -> Iterator[bytes]:
    """Split commands such that each TLS record ends where a command ends.

    memcached 1.6.18 reads exactly the bytes that its buffer has room for, or that are
    missing of a value. It leaves the rest of the record in the buffer of OpenSSL, and
    waits until the socket has more.
    """
    begin = start = 0
    while (end := data.find(_EOL, start)) >= 0:
        line = data[start:end]
        end += len(_EOL)
        if line.startswith(_STORING):
            size = line.split()[4:5]
            if not size or not size[0].isdigit():
                break  # not a command, so nothing is known of its end
            end += int(size[0]) + len(_EOL)
        if end - begin > _RECORD and start > begin:
            yield data[begin:start]
            begin = start
        start = end
    yield data[begin:]


def _send_records(sock: Any, data: bytes) -> None:
    for part in _records(data):
        sock.sendall(part)


class _Carrier:
    """A base before a class of pymemcache's clients. It wraps their sockets."""

    server: Any
    _carrying_sock: Socket | None = None

    def _carry(self, sock: Any) -> None:
        carrying = None if sock is None else Socket(sock, cast("Client", self))
        self._carrying_sock = carrying

    # The client reads it six times for each command, so this is no function of Python.
    sock = property(attrgetter("_carrying_sock"), _carry)


def end_records_with_commands(client: Any) -> None:
    """Let each TLS record of a client end where a command ends: see `_records`."""
    members = getattr(client, "clients", {"": client}).values()
    if any(member.tls_context is not None for member in members):
        add_base(client, _Carrier)


def counter_reader(client: Any, key: str) -> CounterRequest | None:
    """Return a reader that reads a counter in the packets of a client's commands.

    Returns None for a client whose sockets cannot be wrapped, or that has several
    servers.
    """
    members = list(getattr(client, "clients", {"": client}).values())
    if len(members) != 1 or not add_base(client, _Carrier):
        return None
    with suppress(MemcacheIllegalInputError):  # the client's key_prefix is invalid
        return CounterRequest(key, client, members[0].server)
    return None
