"""The time of each command, by each subject, in several placements.

A placement is one set of fresh connections. A connection stays with the memcached
thread that it was assigned to, and a thread stays mostly on one core. A connection to a
thread on the client's own core can be a third quicker than another. So one placement
says little, and the results give the median and quartiles over the placements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from typing import Any, NamedTuple

from borrowed import Memcached
from measure import Act, Measured, clock, over_placements, paired
from scale import Scale
from subjects import BACKENDS, SUBJECTS, THREADS, Subject, opened

#: Bytes of a value.
SMALL = 100
LARGE = 10_000

KEYS = [f"key:{number}" for number in range(100)]
MISSING = [f"missing:{number}" for number in range(100)]
NUMBERS = [f"number:{number}" for number in range(100)]

#: A short command is repeated for about this many seconds each time it is timed.
TIMED_SECONDS = 0.0005


@dataclass(frozen=True)
class Command:
    """A call of the cache API, and what has to be done before each call, untimed.

    Both get a cache, the next of the arguments, and a value. The argument changes with
    each call, so that the calls go to all servers if there are several.
    """

    call: Callable[[Any, Any, str], object]
    arguments: Sequence[Any]
    before: Callable[[Any, Any, str], object] | None = None


def _groups(n: int) -> list[list[str]]:
    return [KEYS[start : start + n] for start in range(0, len(KEYS), n)]


def _get_many(n: int) -> Command:
    return Command(lambda cache, keys, _: cache.get_many(keys), _groups(n))


def _set_many(n: int) -> Command:
    return Command(
        lambda cache, keys, value: cache.set_many(dict.fromkeys(keys, value)),
        _groups(n),
    )


COMMANDS = {
    "get, hit": Command(lambda cache, key, _: cache.get(key), KEYS),
    "get, miss": Command(lambda cache, key, _: cache.get(key), MISSING),
    "has_key": Command(lambda cache, key, _: cache.has_key(key), KEYS),
    "set": Command(lambda cache, key, value: cache.set(key, value), KEYS),
    "add, of a key that exists": Command(
        lambda cache, key, value: cache.add(key, value), KEYS
    ),
    "add, of a new key": Command(
        lambda cache, key, value: cache.add(key, value),
        KEYS,
        before=lambda cache, key, _: cache.delete(key),
    ),
    "delete": Command(
        lambda cache, key, _: cache.delete(key),
        KEYS,
        before=lambda cache, key, value: cache.set(key, value),
    ),
    "touch": Command(lambda cache, key, _: cache.touch(key), KEYS),
    "incr": Command(lambda cache, key, _: cache.incr(key), NUMBERS),
    "get_many of 1": _get_many(1),
    "get_many of 10": _get_many(10),
    "get_many of 100": _get_many(100),
    "set_many of 1": _set_many(1),
    "set_many of 10": _set_many(10),
    "set_many of 100": _set_many(100),
    "delete_many of 10": Command(
        lambda cache, keys, _: cache.delete_many(keys),
        _groups(10),
        before=lambda cache, keys, value: cache.set_many(dict.fromkeys(keys, value)),
    ),
}

#: The commands whose time depends on the size of the value.
SIZED = (
    "get, hit",
    "set",
    "get_many of 10",
    "get_many of 100",
    "set_many of 10",
    "set_many of 100",
)

TRANSPORTS = "TCP", "unix socket"


class Case(NamedTuple):
    """What one table of the report is about. The names are labels of the results."""

    client: str
    transport: str
    threads: str
    bytes: int

    @property
    def commands(self) -> Sequence[str]:
        return list(COMMANDS) if self.bytes == SMALL else SIZED


#: Large values are sent over TCP only. The unix socket shows the overhead of the Python
#: code most clearly with small values, and a large value adds the same to all subjects.
CASES = [
    *(Case(*case) for case in product(BACKENDS, TRANSPORTS, THREADS, [SMALL])),
    *(Case(*case) for case in product(BACKENDS, ["TCP"], THREADS, [LARGE])),
]

#: The subjects' figures for one command in one placement.
Figures = dict[str, Measured]


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare all subjects by all commands in all cases."""
    comparisons = scale.placements * sum(len(case.commands) for case in CASES)
    found: dict[tuple[Case, str], list[Figures]] = defaultdict(list)
    with ExitStack() as stack:
        locations = {
            (transport, threads): _start(stack, transport, threads)
            for transport, threads in product(TRANSPORTS, THREADS)
        }
        # The placements of a case are spread over the whole run. Whatever else the
        # machine does for some seconds affects one of them.
        for _, case in product(range(scale.placements), CASES):
            location = locations[case.transport, case.threads]
            with opened(case.client, location, *SUBJECTS) as subjects:
                for command, figures in compare(
                    subjects, case.commands, case.bytes, scale, seconds / comparisons
                ):
                    found[case, command].append(figures)
    for (case, command), placements in found.items():
        for subject, figures in over_placements(placements).items():
            yield figures.row(**case._asdict(), command=command, subject=subject)


def _start(stack: ExitStack, transport: str, threads: str) -> str:
    memcached = Memcached(*THREADS[threads], unix=transport == "unix socket")
    return stack.enter_context(closing(memcached)).location


def compare(
    subjects: dict[str, Subject],
    commands: Iterable[str],
    size: int,
    scale: Scale,
    seconds: float,
) -> Iterator[tuple[str, Figures]]:
    """Compare subjects by each command, with values of `size` bytes.

    `seconds` is the time for one command.
    """
    value = "x" * size
    for subject in subjects.values():
        subject.cache.set_many(dict.fromkeys(KEYS, value))
        subject.cache.set_many(dict.fromkeys(NUMBERS, 0))
    for name in commands:
        command = COMMANDS[name]
        _check(subjects, command, value)
        times = 1
        if command.before is None:
            call = partial(command.call, subjects["bare"].cache, command.arguments[0])
            once = clock(partial(call, value))
            times = min(scale.repeats, max(1, round(TIMED_SECONDS / once)))
        acts = {
            subject: _act(measured, command, value, times)
            for subject, measured in subjects.items()
        }
        yield name, paired(acts, seconds, least=scale.rounds)
        # A later command may need the keys that this one has deleted.
        if command.before is not None:
            for subject in subjects.values():
                subject.cache.set_many(dict.fromkeys(KEYS, value))


def _act(subject: Subject, command: Command, value: str, times: int) -> Act:
    cache = subject.cache
    # Each subject has its own, so all of them use the same argument in the same round.
    arguments = cycle(command.arguments)

    def act() -> float:
        with subject.block():
            if command.before is None:
                return clock(lambda: command.call(cache, next(arguments), value), times)
            argument = next(arguments)
            command.before(cache, argument, value)
            return clock(lambda: command.call(cache, argument, value))

    return act


def _check(subjects: dict[str, Subject], command: Command, value: str) -> None:
    """Check that all subjects return the same. A quick wrong answer is no use."""
    argument = command.arguments[0]
    answers = {}
    for name, subject in subjects.items():
        if command.before is not None:
            command.before(subject.cache, argument, value)
        answers[name] = command.call(subject.cache, argument, value)
    if any(answer != answers["bare"] for answer in answers.values()):
        raise RuntimeError(f"The subjects returned different answers: {answers}")
