"""Wires: proxies that record, delay or cut what clients and a server send."""

from __future__ import annotations

import contextlib
import re
import socket
import threading

from tests.support.proxies import Proxy


class Wire(Proxy):
    """Passes bytes on and records the requests.

    While a wire is cut, its clients cannot reach the server, and the server keeps its
    items. `before(request)` is called before a request is passed on, and
    `after(answer)` before an answer is.
    """

    def __init__(self, server) -> None:
        self.server = server
        #: Requests, each with the port of its client's connection.
        self.requests: list[tuple[int, bytes]] = []
        self.before = self.after = lambda _: None
        self._open: set[socket.socket] = set()
        super().__init__(server.port)

    def sent_keys(self) -> list[str]:
        """Return the keys that clients sent, in order, without the keys of counters."""
        text = b"".join(request for _, request in self.requests)
        found = []
        for command, rest in re.findall(rb"(?m)^([a-z]+) ([^\r\n]+)\r$", text):
            words = rest.decode().split(" ")
            found += words if command in (b"get", b"gets") else words[:1]
        return [key for key in found if not re.fullmatch(r"nsc:[^:]*", key)]

    def cut(self) -> None:
        self.close()
        for connection in list(self._open):
            _shut(connection)

    def mend(self) -> None:
        host, port = self.location.split(":")
        self._listener = socket.create_server((host, int(port)))
        threading.Thread(target=self._accept, daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        def ask(request: bytes) -> None:
            self.requests.append((port, request))
            self.before(request)

        def answer(chunk: bytes) -> None:
            self.after(chunk)

        with client, socket.create_connection(self._server) as server:
            self._open |= {client, server}
            port = client.getpeername()[1]
            way_back = (server, client, answer)
            back = threading.Thread(target=_pass, args=way_back, daemon=True)
            back.start()
            _pass(client, server, ask)
            back.join()
            self._open -= {client, server}


def once(pattern: bytes, act):
    """Make a function for `before` or `after` that calls `act` at the first match."""
    todo = [act]

    def observe(chunk: bytes) -> None:
        if todo and re.search(pattern, chunk):
            todo.pop()()

    return observe


def _pass(source: socket.socket, target: socket.socket, observe) -> None:
    target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while chunk := source.recv(65536):
            observe(chunk)
            target.sendall(chunk)
    except OSError:
        return
    finally:
        _shut(source)
        _shut(target)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def answering(*answers, before_it_hangs_up=lambda: None, version=b"1.6.18"):
    """Give the address of a server that sends the next answer after each line.

    Before, it says which version of memcached it is.
    """

    def serve():
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            for answer in (b"VERSION %b\r\n" % version, *answers):
                lines.readline()
                connection.sendall(answer)
            before_it_hangs_up()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()
        thread.join()
