"""Makes a server seem farther away: delays all bytes to it and from it.

python link.py PORT MILLISECONDS

MILLISECONDS is the delay in one direction. Prints the location to connect to, and ends
when its standard input is closed, that is, when its parent process ends.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from contextlib import suppress


def serve(port: int, delay: float) -> None:
    """Accept connections until standard input is closed."""
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
        # The time at which it is due, so that one delay does not add to the next.
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
