"""Real memcached processes, which tests may kill, and a twemproxy in front of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from base64 import b64encode
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote_to_bytes

START_SECONDS = 10

#: Since this version, `flush_all` leaves the items of the current second.
FLUSHES_BY_SECONDS = 1, 6, 25

#: More seconds than any server needs for an answer.
ANSWER_SECONDS = 20


def _listens(path: Path) -> bool:
    """Tell whether a process accepts connections at a socket that exists."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def ask(server: Memcached, request: bytes) -> bytes:
    """Return memcached's answer to a request in its text protocol."""
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, ANSWER_SECONDS) as connection:
        connection.sendall(request + b"\r\n")
        return connection.recv(65536)


def answer_of(server: Memcached, line: str) -> str:
    """Return memcached's answer to a line of text, as text."""
    return ask(server, line.encode()).decode().strip()


def stat(server: Memcached, name: str) -> int:
    """Return one of memcached's statistics."""
    return int(re.search(f"STAT {name} ([0-9]+)".encode(), ask(server, b"stats"))[1])


class Memcached:
    """A memcached process on the loopback. It starts when the object is made.

    The environment variable MEMCACHED_BINARY names a program to run instead of the
    `memcached` on PATH.

    `location` is a value for Django's LOCATION. It stays the same when the server
    restarts.
    """

    def __init__(self, *arguments: str, unix: bool = False) -> None:
        program = os.environ.get("MEMCACHED_BINARY", "memcached")
        binary = shutil.which(program)
        if binary is None:
            raise RuntimeError(
                f"The tests start real memcached processes, and there is no "
                f"{program!r}: `make test` installs one."
            )
        self._binary = binary
        self._arguments = arguments
        self._folder = Path(tempfile.mkdtemp(prefix="memcached-"))
        # memcached drops its root privileges before it writes its port or makes its
        # socket.
        self._folder.chmod(0o777)
        self.unix = unix
        self.port = -1  # for memcached, this means any free port
        self.start()

    @property
    def location(self) -> str:
        if self.unix:
            return f"unix:{self._socket}"
        return f"127.0.0.1:{self.port}"

    @property
    def _socket(self) -> Path:
        return self._folder / "socket"

    def start(self) -> None:
        port_file = self._folder / "port"
        port_file.unlink(missing_ok=True)
        if self.unix:
            where = ["-s", str(self._socket), "-a", "0777"]
        else:
            where = ["-l", "127.0.0.1", "-p", str(self.port), "-U", "0"]
        # More connections than by default, because tests share a server, and on Python
        # 3.13 pylibmc never closes a client.
        where += ["-c", "4096"]
        if os.geteuid() == 0:
            where += ["-u", "nobody"]
        self.process = subprocess.Popen(
            [self._binary, *where, *self._arguments],
            env={**os.environ, "MEMCACHED_PORT_FILENAME": str(port_file)},
        )
        deadline = time.monotonic() + START_SECONDS
        while not (_listens(self._socket) if self.unix else port_file.exists()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"memcached did not start: {self.process.args}")
            time.sleep(0.005)
        if not self.unix:
            self.port = int(port_file.read_text().split()[-1])

    def kill(self) -> None:
        """Kill the process at once, like a crash, even while it is frozen."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._socket.unlink(missing_ok=True)

    def restart(self) -> None:
        """Kill the process and start it again, empty, at the same location."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop the process. Until `thaw` it accepts requests and answers none."""
        self.process.send_signal(signal.SIGSTOP)
        # Wait until it has stopped. Before that, its threads may still answer.
        os.waitpid(self.process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        """Remove all items of all users."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"flush_all\r\n")
            assert connection.recv(4) == b"OK\r\n"
        if self.version >= FLUSHES_BY_SECONDS:
            self._delete_the_latest()

    def _delete_the_latest(self) -> None:
        """Delete the items that a flush leaves: those of the current second."""
        address = ("127.0.0.1", self.port)
        with (
            socket.create_connection(address, ANSWER_SECONDS) as connection,
            connection.makefile("rwb") as stream,
        ):
            line = b"BUSY"
            while line.startswith(b"BUSY"):
                stream.write(b"lru_crawler metadump all\r\n")
                stream.flush()
                line = stream.readline()
            left = []
            while not line.startswith(b"END"):
                left += re.findall(rb"^key=(\S+)", line)
                line = stream.readline()
            for key in map(unquote_to_bytes, left):
                stream.write(b"md %b b q\r\n" % b64encode(key))
            stream.write(b"mn\r\n")
            stream.flush()
            while stream.readline() != b"MN\r\n":
                pass

    @cached_property
    def version(self) -> tuple[int, ...]:
        """The version of the program."""
        answer = subprocess.check_output([self._binary, "-V"], text=True)
        return tuple(map(int, re.findall(r"\d+", answer)[:3]))

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)


class Twemproxy:
    """A twemproxy (`nutcracker`) process in front of memcached processes.

    `settings` are those of its pool. It listens on a unix socket, because twemproxy
    cannot choose a free port.
    """

    def __init__(self, *servers: Memcached, **settings: object) -> None:
        binary = shutil.which("nutcracker")
        if binary is None:
            raise RuntimeError(
                "The tests start a real twemproxy, and there is no `nutcracker` on "
                "PATH: `make test` installs one."
            )
        self.servers = servers
        self._folder = Path(tempfile.mkdtemp(prefix="twemproxy-"))
        self._socket = self._folder / "socket"
        self.location = f"unix:{self._socket}"
        pool = {"listen": self._socket, "hash": "md5", **settings}
        lines = [f"  {name}: {value}\n" for name, value in pool.items()]
        lines += ["  servers:\n"]
        lines += [f"    - {server.location}:1\n" for server in servers]
        (self._folder / "pool.yml").write_text("".join(["pool:\n", *lines]))
        deadline = time.monotonic() + START_SECONDS
        while not self._start(binary, deadline):
            if time.monotonic() > deadline:
                raise RuntimeError(f"twemproxy did not start: {self.process.args}")

    def _start(self, binary: str, deadline: float) -> bool:
        # It also needs a port for its statistics. Another process may take that port
        # first.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [binary, "-c", "pool.yml", "-o", "log", "-p", "pid"]
        self.process = subprocess.Popen(
            [*command, "-a", "127.0.0.1", "-s", str(port)], cwd=self._folder
        )
        while self.process.poll() is None and time.monotonic() < deadline:
            if _listens(self._socket):
                return True
            time.sleep(0.005)
        return False

    def empty(self) -> None:
        """Flush all servers. twemproxy has no command for that."""
        for server in self.servers:
            server.empty()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self._folder)
