"""The verbs where the server is farther away than on the same machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import verbs
from borrowed import Memcached
from scale import Scale
from subjects import BACKENDS, opened

LINK = Path(__file__).with_name("link.py")

NAMES = "bare", "strict", "naive"


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare by every verb on values of 100 bytes."""
    share = seconds / len(BACKENDS)
    with (
        closing(Memcached(*verbs.ONE_THREAD)) as server,
        _link(server.port, scale.delay) as location,
    ):
        for client in BACKENDS:
            with opened(client, location, *NAMES) as subjects:
                for row in verbs.compare(subjects, 100, scale, share):
                    yield {"client": client, "delay_ms": scale.delay, **row}


@contextmanager
def _link(port: int, delay: float) -> Iterator[str]:
    """Start the link in a process of its own, and give its location."""
    with subprocess.Popen(
        [sys.executable, LINK, str(port), str(delay)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()
