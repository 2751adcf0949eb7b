"""Each verb of Django's cache API, by each subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from borrowed import Memcached
from measure import Act, Measured, clock, paired
from scale import Scale
from subjects import BACKENDS, SUBJECTS, Subject, opened

#: Bytes of a value.
SIZES = 100, 10_000

KEYS = [f"key:{number}" for number in range(100)]

#: A connection stays with one of memcached's threads, and a thread mostly on one core.
#: With several, who has the one on the client's own core looks twice as quick.
ONE_THREAD = "-t", "1"

#: Operations are timed together until they take so many seconds.
TIMED_SECONDS = 0.0005


class Load:
    """Items of one size: the first 1, 10 or 100 of 100 keys."""

    def __init__(self, size: int) -> None:
        self.value = "x" * size
        self.items = {n: dict.fromkeys(KEYS[:n], self.value) for n in (1, 10, 100)}


@dataclass(frozen=True)
class Verb:
    """An operation, and what must be done before each, outside of the clock."""

    do: Callable[[Any, Load], object]
    before: Callable[[Any, Load], object] | None = None


def _get_many(n: int) -> Verb:
    keys = KEYS[:n]
    return Verb(lambda cache, _: cache.get_many(keys))


def _set_many(n: int) -> Verb:
    return Verb(lambda cache, load: cache.set_many(load.items[n]))


VERBS = {
    "get, hit": Verb(lambda cache, _: cache.get("key:0")),
    "get, miss": Verb(lambda cache, _: cache.get("missing")),
    "set": Verb(lambda cache, load: cache.set("key:0", load.value)),
    "add, of a key that exists": Verb(
        lambda cache, load: cache.add("key:0", load.value)
    ),
    "add, of a new key": Verb(
        lambda cache, load: cache.add("new", load.value),
        before=lambda cache, _: cache.delete("new"),
    ),
    "delete": Verb(
        lambda cache, _: cache.delete("doomed"),
        before=lambda cache, load: cache.set("doomed", load.value),
    ),
    "touch": Verb(lambda cache, _: cache.touch("key:0")),
    "incr": Verb(lambda cache, _: cache.incr("number")),
    "get_many of 1": _get_many(1),
    "get_many of 10": _get_many(10),
    "get_many of 100": _get_many(100),
    "set_many of 1": _set_many(1),
    "set_many of 10": _set_many(10),
    "set_many of 100": _set_many(100),
    "delete_many of 10": Verb(
        lambda cache, _: cache.delete_many(KEYS[:10]),
        before=lambda cache, load: cache.set_many(load.items[10]),
    ),
}


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Compare over TCP and a unix socket, with small values and larger ones."""
    with (
        closing(Memcached(*ONE_THREAD)) as tcp,
        closing(Memcached(*ONE_THREAD, unix=True)) as unix,
    ):
        locations = {"TCP": tcp.location, "unix socket": unix.location}
        cases = list(product(BACKENDS, locations, SIZES))
        for client, transport, size in cases:
            with opened(client, locations[transport], *SUBJECTS) as subjects:
                for row in compare(subjects, size, scale, seconds / len(cases)):
                    yield {"client": client, "transport": transport, **row}


def compare(
    subjects: dict[str, Subject], size: int, scale: Scale, seconds: float
) -> Iterator[dict[str, object]]:
    """Compare subjects by every verb, with values of so many bytes."""
    load = Load(size)
    for subject in subjects.values():
        subject.cache.set_many(load.items[100])
        subject.cache.set("number", 0)
    for name, verb in VERBS.items():
        measured = _measured(subjects, verb, load, scale, seconds / len(VERBS))
        for subject, figures in measured.items():
            yield figures.row(bytes=size, verb=name, subject=subject)


def _measured(
    subjects: dict[str, Subject], verb: Verb, load: Load, scale: Scale, seconds: float
) -> dict[str, Measured]:
    _check(subjects, verb, load)
    times = 1
    if verb.before is None:
        once = clock(partial(verb.do, subjects["bare"].cache, load))
        times = min(scale.operations, max(1, round(TIMED_SECONDS / once)))
    acts = {
        name: _act(subject, verb, load, times) for name, subject in subjects.items()
    }
    return paired(acts, seconds, least=scale.rounds)


def _act(subject: Subject, verb: Verb, load: Load, times: int) -> Act:
    cache = subject.cache

    def act() -> float:
        with subject.block():
            if verb.before is not None:
                verb.before(cache, load)
            return clock(lambda: verb.do(cache, load), times)

    return act


def _check(subjects: dict[str, Subject], verb: Verb, load: Load) -> None:
    """See that all answer alike: who misses is not quick, but wrong."""
    answers = {}
    for name, subject in subjects.items():
        if verb.before is not None:
            verb.before(subject.cache, load)
        answers[name] = verb.do(subject.cache, load)
    if any(answer != answers["bare"] for answer in answers.values()):
        raise RuntimeError(f"The subjects differ in what they answer: {answers}")
