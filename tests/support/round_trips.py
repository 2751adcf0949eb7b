"""A proxy in front of memcached that counts round trips."""

from __future__ import annotations

import socket
import threading


class CountingProxy:
    """Passes bytes between clients and one memcached, and counts the round trips.

    A round trip begins with bytes from the client and ends with bytes from the server.
    Requests that are sent together, before the first answer arrives, count as one.
    """

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.location = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.count = 0
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
                        self.count += 1
                    server.sendall(chunk)

            _until_closed(ask)
            # This wakes the thread that waits for an answer. Closing alone does not.
            _until_closed(lambda: server.shutdown(socket.SHUT_RDWR))


def _until_closed(act) -> None:
    try:
        act()
    except OSError:
        return
