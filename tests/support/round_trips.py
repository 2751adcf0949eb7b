"""A proxy in front of memcached that counts round trips."""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time
from contextlib import suppress

#: A request that reads a counter and nothing else.
_COUNTER_READ = re.compile(rb"get nsc:[\w.-]+\r\n")

#: Seconds within which a parallel counter read is followed by its command.
_SOON = 0.15


class CountingProxy:
    """Passes bytes between clients and one memcached, and counts the round trips.

    A round trip begins with bytes from the client and ends with bytes from the server.
    Requests that are sent together, before the first answer arrives, count as one.

    A counter read is parallel if a command is sent before the read is answered. To find
    this out, the proxy keeps the read until then. `parallel` counts these reads, and
    `count` counts all other round trips. The command may go through a proxy `beside`.
    """

    def __init__(self, port: int, beside: CountingProxy | None = None) -> None:
        self.group: object = beside.group if beside else self
        self.server = ("127.0.0.1", port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.location = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.count = self.parallel = 0
        _relay().serve(self)

    def during(self, act) -> int:
        """Return how many round trips `act()` takes."""
        before = self.count
        act()
        return self.count - before

    def close(self) -> None:
        """Accept no further connections. Open ones stay until their client closes."""
        _relay().stop(self)


class _Connection:
    """A client's connection to a proxy, and the proxy's to its server."""

    def __init__(self, proxy: CountingProxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = socket.create_connection(proxy.server)
        self.is_waiting = False
        for end in (client, self.server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Relay:
    """Passes the bytes of all proxies on, in one thread.

    A client sends a parallel counter read before its command. Of the requests that
    have arrived, counter reads come first. So none is overtaken by its command.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._stopped: list[CountingProxy] = []
        #: The counter reads that wait for a command, and until when.
        self._held: dict[_Connection, tuple[bytes, float]] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def serve(self, proxy: CountingProxy) -> None:
        self._selector.register(proxy.listener, selectors.EVENT_READ, proxy)
        self._wake.send(b"\0")

    def stop(self, proxy: CountingProxy) -> None:
        self._stopped.append(proxy)
        self._wake.send(b"\0")

    def _run(self) -> None:
        while True:
            patience = None
            if self._held:
                due = min(due for _, due in self._held.values())
                patience = max(0, due - time.monotonic())
            self._selector.select(patience)
            # Again, because a counter read may have come just before its command,
            # perhaps on a new connection.
            while self._accept(ready := self._selector.select(0)):
                pass
            requests: list[tuple[_Connection, bytes]] = []
            for key, _ in ready:
                if key.data is None:
                    self._woken.recv(4096)
                else:
                    self._receive(key.fileobj, key.data, requests)
            requests.sort(key=lambda request: not _COUNTER_READ.fullmatch(request[1]))
            for connection, request in requests:
                self._pass_request(connection, request)
            for connection, (request, due) in list(self._held.items()):
                if time.monotonic() >= due:
                    del self._held[connection]
                    self._begin(connection, request)
            while self._stopped:
                proxy = self._stopped.pop()
                self._selector.unregister(proxy.listener)
                proxy.listener.close()

    def _accept(self, ready) -> bool:
        """Accept new connections. Tell whether there were any."""
        proxies = [key.data for key, _ in ready if isinstance(key.data, CountingProxy)]
        for proxy in proxies:
            client, _ = proxy.listener.accept()
            try:
                connection = _Connection(proxy, client)
            except OSError:  # the server is down
                client.close()
                continue
            for end in (client, connection.server):
                self._selector.register(end, selectors.EVENT_READ, connection)
        return bool(proxies)

    def _receive(self, source, connection, requests) -> None:
        chunk = b""
        with suppress(OSError):
            chunk = source.recv(65536)
        if not chunk:
            self._close(connection)
        elif source is connection.client:
            requests.append((connection, chunk))
        else:
            connection.is_waiting = False
            with suppress(OSError):
                connection.client.sendall(chunk)

    def _pass_request(self, connection: _Connection, request: bytes) -> None:
        if connection.is_waiting:
            with suppress(OSError):
                connection.server.sendall(request)
        elif _COUNTER_READ.fullmatch(request):
            self._held[connection] = request, time.monotonic() + _SOON
        else:
            self._begin(connection, request)
            for reading, (read, _) in list(self._held.items()):
                if reading.proxy.group is connection.proxy.group:
                    del self._held[reading]
                    reading.proxy.parallel += 1
                    self._send(reading, read)

    def _begin(self, connection: _Connection, request: bytes) -> None:
        connection.proxy.count += 1
        self._send(connection, request)

    def _send(self, connection: _Connection, request: bytes) -> None:
        connection.is_waiting = True
        with suppress(OSError):
            connection.server.sendall(request)

    def _close(self, connection: _Connection) -> None:
        self._held.pop(connection, None)
        for end in (connection.client, connection.server):
            with suppress(KeyError, ValueError):  # closed by the other end before
                self._selector.unregister(end)
            end.close()


_relays: list[_Relay] = []


def _relay() -> _Relay:
    """Return the relay of this process, and start it first if there is none."""
    if not _relays:
        _relays.append(_Relay())
    return _relays[0]
