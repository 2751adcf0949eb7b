"""Real memcached processes, on free ports or unix sockets, to be killed at will."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

START_SECONDS = 10


class Memcached:
    """A memcached of the tests' own on the loopback; started when made.

    `location` is what Django's LOCATION takes. It stays the same over a restart.
    """

    def __init__(self, *arguments: str, unix: bool = False) -> None:
        binary = shutil.which("memcached")
        if binary is None:
            raise RuntimeError(
                "The tests start real memcached processes, and there is no `memcached` "
                "on PATH: `make test` installs one."
            )
        self._binary = binary
        self._arguments = arguments
        self._folder = Path(tempfile.mkdtemp(prefix="memcached-"))
        # memcached gives up root before it writes its port or makes its socket.
        self._folder.chmod(0o777)
        self.unix = unix
        self.port = -1  # memcached's word for "any that is free"
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
        if os.geteuid() == 0:
            where += ["-u", "nobody"]
        self.process = subprocess.Popen(
            [self._binary, *where, *self._arguments],
            env={**os.environ, "MEMCACHED_PORT_FILENAME": str(port_file)},
        )
        deadline = time.monotonic() + START_SECONDS
        while not (self._socket.exists() if self.unix else port_file.exists()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"memcached did not start: {self.process.args}")
            time.sleep(0.005)
        if not self.unix:
            self.port = int(port_file.read_text().split()[-1])

    def kill(self) -> None:
        """End it at once, as a crash would; a paused one, too."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._socket.unlink(missing_ok=True)

    def restart(self) -> None:
        """Kill it and start it again, empty, at the same place."""
        self.kill()
        self.start()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)
