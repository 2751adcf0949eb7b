"""A link to a server that is farther away: passes bytes on, each way after a while.

python link.py PORT MILLISECONDS

Prints its location, and ends with its input, that is, with whoever started it.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from contextlib import suppress


def serve(port: int, delay: float) -> None:
    """Be the link."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
    threading.Thread(target=_accept, args=(listener, port, delay), daemon=True).start()
    sys.stdin.read()


def _accept(listener: socket.socket, port: int, delay: float) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            for work, sock in ((_receive, one), (_send, other)):
                threading.Thread(
                    target=work, args=(sock, under_way, delay), daemon=True
                ).start()


def _receive(sock: socket.socket, under_way: queue.SimpleQueue, delay: float) -> None:
    chunk = b"more"
    while chunk:
        try:
            chunk = sock.recv(65536)
        except OSError:
            chunk = b""
        # When it is due, not a pause: what comes soon after is not held up by it.
        under_way.put((time.monotonic() + delay, chunk))


def _send(sock: socket.socket, under_way: queue.SimpleQueue, _: float) -> None:
    with suppress(OSError):
        while True:
            due, chunk = under_way.get()
            time.sleep(max(0, due - time.monotonic()))
            if not chunk:
                sock.shutdown(socket.SHUT_RDWR)
            sock.sendall(chunk)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]) / 1000)
