"""A proxy in front of memcached that counts round trips."""

from __future__ import annotations

import re
import socket
import threading

#: A request that reads a counter and nothing else.
_COUNTER_READ = re.compile(rb"get nsc:[\w.-]+\r\n")

#: Seconds within which a parallel counter read is followed by its command.
_SOON = 0.3


class _Begun:
    """How many round trips have begun, at all proxies together."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def note(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def another(self) -> bool:
        """Wait for another round trip to begin. Tell whether one has."""
        with self._changed:
            count = self._count
            return self._changed.wait_for(lambda: self._count > count, _SOON)


_begun = _Begun()


class CountingProxy:
    """Passes bytes between clients and one memcached, and counts the round trips.

    A round trip begins with bytes from the client and ends with bytes from the server.
    Requests that are sent together, before the first answer arrives, count as one.

    A counter read is parallel if a command is sent before the read is answered. To find
    this out, the proxy keeps the read until then. `parallel` counts these reads, and
    `count` counts all other round trips.
    """

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.location = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.count = self.parallel = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def during(self, act) -> int:
        """Return how many round trips `act()` takes."""
        before = self.count
        act()
        return self.count - before

    def close(self) -> None:
        # shutdown() wakes the thread in accept(); close() alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting = False

            def answer() -> None:
                nonlocal waiting
                while chunk := server.recv(65536):
                    waiting = False
                    client.sendall(chunk)

            threading.Thread(target=_until_closed, args=(answer,), daemon=True).start()

            def ask() -> None:
                nonlocal waiting
                while chunk := client.recv(65536):
                    if not waiting:
                        waiting = True
                        if _COUNTER_READ.fullmatch(chunk) and _begun.another():
                            self.parallel += 1
                        else:
                            self.count += 1
                            _begun.note()
                    server.sendall(chunk)

            _until_closed(ask)
            # This wakes the thread that waits for an answer. Closing alone does not.
            _until_closed(lambda: server.shutdown(socket.SHUT_RDWR))


def _until_closed(act) -> None:
    try:
        act()
    except OSError:
        return
