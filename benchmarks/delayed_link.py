"""Commands on one server and on three servers that are farther away.

Each server is behind a link that delays every byte. The delay is so much longer than
anything else that the times show how many round trips a command takes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path

from borrowed import Memcached
from commands import SMALL, compare
from scale import Scale
from subjects import BACKENDS, THREADS, opened

LINK = Path(__file__).with_name("link.py")

SUBJECTS = "bare", "strict", "naive"

#: Other numbers of keys take the same round trips, except that bare pylibmc would take
#: 200 ms for each `set_many` of 100.
COMMANDS = (
    "get, hit",
    "get, miss",
    "has_key",
    "set",
    "add, of a key that exists",
    "add, of a new key",
    "delete",
    "touch",
    "incr",
    "get_many of 10",
    "set_many of 10",
    "delete_many of 10",
)

#: Numbers of servers.
SERVERS = 1, 3

#: One thread will do: the delay hides which thread a connection is assigned to.
ONE_THREAD = "1"


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare by every command on values of 100 bytes."""
    cases = list(product(BACKENDS, SERVERS))
    share = seconds / len(cases) / len(COMMANDS)
    with ExitStack() as stack:
        links = [_start(stack, scale.delay) for _ in range(max(SERVERS))]
        for client, servers in cases:
            labels = {
                "client": client,
                "servers": servers,
                "threads": ONE_THREAD,
                "delay_ms": scale.delay,
                "bytes": SMALL,
            }
            with opened(client, links[:servers], *SUBJECTS) as subjects:
                for command, figures in compare(
                    subjects, COMMANDS, SMALL, scale, share
                ):
                    for subject, own in figures.items():
                        yield own.row(**labels, command=command, subject=subject)


def _start(stack: ExitStack, delay: float) -> str:
    """Start a server and its link, which is a process, and return the link's location.

    The process has no threads in common with the client that is measured.
    """
    server = stack.enter_context(closing(Memcached(*THREADS[ONE_THREAD])))
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, LINK, str(server.port), str(delay)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(process.kill)
    return process.stdout.readline().strip()
