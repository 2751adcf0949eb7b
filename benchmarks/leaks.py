"""How much longer a command takes while a test run looks for leaks.

Each key was cached by another test, so each command that asks for one finds a leak.
That is the most that a command can have to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle

from borrowed import Memcached
from commands import COMMANDS, KEYS, NUMBERS, SMALL, Command
from measure import clock, paired
from scale import Scale
from subjects import BACKENDS, THREADS, ours

from namespaced_cache import NamespacedCache
from namespaced_cache.test.actors import Actor
from namespaced_cache.test.leaks import Leaks

#: The commands that are measured.
MEASURED = ("get, hit", "set", "incr", "get_many of 100", "set_many of 100")

ONE_THREAD = "1"


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare with both clients. Both ways use the same connection."""
    cases = [(client, command) for client in BACKENDS for command in MEASURED]
    with ExitStack() as stack:
        memcached = Memcached(*THREADS[ONE_THREAD])
        server = stack.enter_context(closing(memcached))
        for client, command in cases:
            cache = stack.enter_context(closing(ours(client, server.location, "n")))
            leaks = _of_another_test(cache)
            act = partial(_timed, cache, COMMANDS[command], scale.repeats)
            acts = {"off": act, "on": partial(_watched, leaks, act)}
            measured = paired(acts, seconds / len(cases), least=scale.rounds)
            for way, figures in measured.items():
                yield figures.row(
                    client=client, threads=ONE_THREAD, command=command, way=way
                )


def _of_another_test(cache: NamespacedCache) -> Leaks:
    """Cache all keys in one test, and begin another."""
    leaks = Leaks()
    leaks.start()
    leaks.begin_test(Actor("first"))
    cache.set_many(dict.fromkeys(KEYS, "x" * SMALL))
    cache.set_many(dict.fromkeys(NUMBERS, 0))
    leaks.stop()
    leaks.begin_test(Actor("second"))
    return leaks


def _timed(cache: NamespacedCache, command: Command, times: int) -> float:
    arguments = cycle(command.arguments)
    value = "x" * SMALL
    return clock(lambda: command.call(cache, next(arguments), value), times)


def _watched(leaks: Leaks, act: partial[float]) -> float:
    leaks.start()
    try:
        return act()
    finally:
        leaks.stop()
