"""How many operations a second threads, or processes, do in one namespace together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from multiprocessing.connection import Connection

from borrowed import Memcached
from measure import clock, paired
from scale import Scale
from subjects import BACKENDS, Subject, opened

THREADS = 8
PROCESSES = 4

#: As many gets for each set as a cache is for.
GETS = 9

VALUE = "x" * 100

NAMES = "bare", "strict", "bounded", "pinned"

#: Has each worker do so many operations with a subject, all at the same time.
Together = Callable[[str, int], object]


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare with threads and with processes."""
    ways = {"threads": (THREADS, _threads), "processes": (PROCESSES, _processes)}
    share = seconds / len(ways) / len(BACKENDS)
    with closing(Memcached()) as server:
        for kind, (workers, begin) in ways.items():
            operations = scale.parallel_operations // workers
            for client in BACKENDS:
                with begin(client, server.location) as together:
                    acts = {
                        name: partial(_rate, together, name, operations, workers)
                        for name in NAMES
                    }
                    measured = paired(acts, share, least=scale.rounds)
                for subject, figures in measured.items():
                    yield figures.row(
                        kind=kind, workers=workers, client=client, subject=subject
                    )


def _rate(together: Together, name: str, operations: int, workers: int) -> float:
    return workers * operations / clock(lambda: together(name, operations))


@contextmanager
def _threads(client: str, location: str) -> Iterator[Together]:
    """Begin threads, each with caches of its own, as Django has it."""
    with ExitStack() as stack:
        everybodys = [
            stack.enter_context(opened(client, location, *NAMES))
            for _ in range(THREADS)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))

        def together(name: str, operations: int) -> None:
            # As a list, for errors: those of results that nobody takes are not seen.
            list(pool.map(lambda own: _work(own[name], operations), everybodys))

        yield together


@contextmanager
def _processes(client: str, location: str) -> Iterator[Together]:
    """Begin processes, each with caches of its own."""
    # Forked, because that takes milliseconds, and none of our threads lives now.
    context = multiprocessing.get_context("fork")
    with ExitStack() as stack:
        connections = []
        for _ in range(PROCESSES):
            connection, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, client, location), daemon=True
            )
            process.start()
            stack.callback(process.join)
            stack.callback(process.terminate)
            connections.append(connection)

        def together(name: str, operations: int) -> None:
            for connection in connections:
                connection.send((name, operations))
            for connection in connections:
                error = connection.recv()
                if error is not None:
                    raise error

        yield together


def _serve(connection: Connection, client: str, location: str) -> None:
    with opened(client, location, *NAMES) as subjects:
        while True:
            name, operations = connection.recv()
            try:
                _work(subjects[name], operations)
            except Exception as error:  # noqa: BLE001  # the parent raises it
                connection.send(error)
            else:
                connection.send(None)


def _work(subject: Subject, operations: int) -> None:
    cache = subject.cache
    with subject.block():
        for _ in range(operations // (GETS + 1)):
            cache.set("key", VALUE)
            for _ in range(GETS):
                if cache.get("key") != VALUE:
                    raise RuntimeError(f"{cache!r} has lost what it has just stored")
