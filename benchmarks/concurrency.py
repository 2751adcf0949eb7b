"""How many commands per second threads, or processes, complete in one namespace.

As in `commands.py`, the figures are taken over several placements: the speed depends on
which of memcached's threads the workers' connections are assigned to.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import product
from multiprocessing.connection import Connection

from borrowed import Memcached
from measure import Measured, clock, over_placements, paired
from scale import Scale
from subjects import BACKENDS, THREADS, Subject, opened

WORKER_THREADS = 8
WORKER_PROCESSES = 4

#: Gets for each set. Applications read a cache more often than they write to it.
GETS = 9

VALUE = "x" * 100

NAMES = "bare", "strict", "bounded", "pinned"

#: Has each worker do a number of commands with a subject, all at the same time.
Together = Callable[[str, int], object]


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare with threads and with processes."""
    kinds = {
        "threads": (WORKER_THREADS, _threads),
        "processes": (WORKER_PROCESSES, _processes),
    }
    cases = list(product(kinds, BACKENDS, THREADS))
    share = seconds / scale.placements / len(cases)
    found: dict[tuple[str, str, str], list[dict[str, Measured]]] = defaultdict(list)
    with ExitStack() as stack:
        locations = {
            threads: stack.enter_context(closing(Memcached(*arguments))).location
            for threads, arguments in THREADS.items()
        }
        for _, case in product(range(scale.placements), cases):
            kind, client, threads = case
            workers, begin = kinds[kind]
            commands = scale.parallel_commands // workers
            with begin(client, locations[threads]) as together:
                acts = {
                    name: partial(_rate, together, name, commands, workers)
                    for name in NAMES
                }
                # The workers have connected.
                measured = paired(acts, share, least=scale.rounds, warm=False)
            found[case].append(measured)
    for (kind, client, threads), placements in found.items():
        for subject, figures in over_placements(placements).items():
            yield figures.row(
                kind=kind,
                workers=kinds[kind][0],
                client=client,
                threads=threads,
                subject=subject,
            )


def _rate(together: Together, name: str, commands: int, workers: int) -> float:
    return workers * commands / clock(lambda: together(name, commands))


@contextmanager
def _threads(client: str, location: str) -> Iterator[Together]:
    """Start threads. Each has caches of its own, as in Django."""
    with ExitStack() as stack:
        caches = [
            stack.enter_context(opened(client, location, *NAMES))
            for _ in range(WORKER_THREADS)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(WORKER_THREADS))

        def together(name: str, commands: int) -> None:
            # `list` takes every result, and so raises the error of a worker.
            list(pool.map(lambda own: _work(own[name], commands), caches))

        yield together


@contextmanager
def _processes(client: str, location: str) -> Iterator[Together]:
    """Start processes. Each has caches of its own."""
    # A fork takes milliseconds. It is safe, because no other thread is alive now.
    context = multiprocessing.get_context("fork")
    with ExitStack() as stack:
        connections = []
        for _ in range(WORKER_PROCESSES):
            connection, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, client, location), daemon=True
            )
            process.start()
            stack.callback(process.join)
            stack.callback(process.terminate)
            connections.append(connection)
        _wait_for_all(connections)  # They have connected.

        def together(name: str, commands: int) -> None:
            for connection in connections:
                connection.send((name, commands))
            _wait_for_all(connections)

        yield together


def _wait_for_all(connections: list[Connection]) -> None:
    for connection in connections:
        error = connection.recv()
        if error is not None:
            raise error


def _serve(connection: Connection, client: str, location: str) -> None:
    with opened(client, location, *NAMES) as subjects:
        connection.send(None)
        while True:
            name, commands = connection.recv()
            try:
                _work(subjects[name], commands)
            except Exception as error:  # noqa: BLE001  # the parent raises it
                connection.send(error)
            else:
                connection.send(None)


def _work(subject: Subject, commands: int) -> None:
    cache = subject.cache
    with subject.block():
        for _ in range(commands // (GETS + 1)):
            cache.set("key", VALUE)
            for _ in range(GETS):
                if cache.get("key") != VALUE:
                    raise RuntimeError(f"{cache!r} has lost what it stored")
