"""Other processes, which use a namespaced cache and run the code that they are sent.

All are forked from one process that has imported everything and has used no cache. A
fork takes milliseconds. Starting Django in each process would take much longer.
"""

from __future__ import annotations

import ast
import asyncio  # noqa: F401  # for the code that processes are sent
import contextlib
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor  # noqa: F401  # the same

from django.core.cache import cache as default_cache
from django.core.cache import caches
from django.test import override_settings, runner  # noqa: F401  # the same

from tests.support import django_settings
from tests.support.uses import outcome  # noqa: F401  # the same

#: Seconds after which a process that hangs is a failure.
LIMIT = 20

#: The first operation of a process after something has happened to the counter.
FIRST_OPERATIONS = [
    "cache.get('k')",
    "cache.invalidate_namespace()",
    "cache.set('l', 1)",
]


class Process:
    """Another process, whose `cache` is a namespaced alias.

    Call it with code to run.
    """

    def __init__(self, door: socket.socket) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(door, [b"."], [theirs.fileno()])
        self._connection.settimeout(LIMIT)
        self._lines = self._connection.makefile("rw")

    def begin(self, code: str) -> None:
        print(repr(code), file=self._lines, flush=True)

    def end(self):
        line = self._lines.readline() or repr((None, "it has ended"))
        value, error = ast.literal_eval(line)
        if error is not None:
            raise RuntimeError(error)
        return value

    def __call__(self, code: str):
        self.begin(code)
        return self.end()

    def close(self) -> None:
        self._lines.close()
        self._connection.close()


@contextlib.contextmanager
def begun():
    """Give a connection to the process that forks others with this module's names."""
    ours, theirs = socket.socketpair()
    with theirs:
        parent = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    yield ours
    ours.close()
    assert parent.wait(LIMIT) == 0


def serve(door: socket.socket, names: dict) -> None:
    """Fork a process for each connection that is received from `door`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        _, connections, *_ = socket.recv_fds(door, 1, 1)
        if not connections:
            return
        if not os.fork():
            door.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.alarm(3 * LIMIT)  # ends a process whose test is over
            obey(socket.socket(fileno=connections[0]), names)
            os._exit(0)
        os.close(connections[0])


def obey(connection: socket.socket, names: dict) -> None:
    """Run each line of code that is received, and send back its value or its error."""
    with contextlib.suppress(ConnectionError), connection.makefile("rw") as lines:
        for line in lines:
            try:
                answer = eval(ast.literal_eval(line), names), None
            except Exception as error:  # noqa: BLE001  # the test gets any error
                answer = None, f"{type(error).__name__}: {error}"
            print(repr(answer), file=lines, flush=True)


# More names for the code that processes are sent.


def use(backend, location, options) -> None:
    """Make the default alias a namespaced one, as settings do."""
    alias = namespaced_alias(backend, location, options)
    override_settings(CACHES={"default": alias}).enable()


def reconnect() -> None:
    """Make Django build the default alias again at its next use."""
    with contextlib.suppress(AttributeError):
        del caches["default"]


def in_a_fork(act, beside=lambda: None):
    """Return what `act()` returns in a child, while this process calls `beside()`."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, repr(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    beside()
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return ast.literal_eval(text)


def namespaced_alias(backend, location, options) -> dict:
    return {
        "BACKEND": "namespaced_cache.NamespacedCache",
        "LOCATION": location,
        "OPTIONS": {"WRAPPED_BACKEND": backend, **options},
    }


if __name__ == "__main__":
    django_settings.configure()
    with socket.socket(fileno=int(sys.argv[1])) as way_in:
        serve(way_in, {**globals(), "cache": default_cache})
