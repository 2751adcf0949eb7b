"""Paired measurement: every subject in every round, in random order.

What else the machine does changes from second to second, but little within a round. So
a subject is compared with the first one of its own round, and the median and quartiles
of those ratios are what is reported.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar

#: Does something once and returns a number of it: seconds, or operations a second.
Act = Callable[[], float]

#: What tells the acts of one comparison apart.
Name = TypeVar("Name", bound=Hashable)

#: Linux alone has a priority below all others.
CAN_KEEP_AWAKE = hasattr(os, "SCHED_IDLE")


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and the quartiles on both sides of it."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        # It takes two at the least.
        numbers = numbers if len(numbers) > 1 else [*numbers, *numbers]
        q1, median, q3 = statistics.quantiles(numbers, n=4, method="inclusive")
        # Five digits are more than is known.
        return cls(*(float(f"{number:.5g}") for number in (median, q1, q3)))


@dataclass(frozen=True)
class Measured:
    """What an act's numbers were, and how they compare with the first act's."""

    rounds: int
    value: Spread
    ratio: Spread

    def row(self, **labels: object) -> dict[str, object]:
        """Return it as a row of the results, under what tells it from others."""
        return {**labels, **asdict(self)}


def paired(
    acts: Mapping[Name, Act], seconds: float, *, least: int, warm: bool = True
) -> dict[Name, Measured]:
    """Measure all acts in each of as many rounds as fit, but in `least` at the least.

    The first act is what the others are compared with. Before the first round each is
    done once, to connect and to fill what is kept, unless it begins anew anyway.
    """
    names = list(acts)
    numbers: dict[Name, list[float]] = {name: [] for name in names}
    deadline = perf_counter() + seconds
    if warm:
        for act in acts.values():
            act()
    rounds = 0
    while rounds < least or perf_counter() < deadline:
        for name in random.sample(names, len(names)):
            numbers[name].append(acts[name]())
        rounds += 1
    first = numbers[names[0]]
    return {
        name: Measured(
            rounds,
            Spread.of(own),
            Spread.of([a / b for a, b in zip(own, first, strict=True)]),
        )
        for name, own in numbers.items()
    }


def clock(do: Callable[[], object], times: int = 1) -> float:
    """Return the seconds that each of some calls takes, without garbage collection."""
    gc.disable()
    try:
        start = perf_counter()
        for _ in range(times):
            do()
        return (perf_counter() - start) / times
    finally:
        gc.enable()


@contextmanager
def awake() -> Iterator[None]:
    """Keep the cores awake, by work that gives way to any other.

    A core that idles takes longer to wake than memcached takes to answer, and how long
    depends on how deep it sleeps.
    """
    spinner = Path(__file__).with_name("spinner.py")
    cores = sorted(os.sched_getaffinity(0)) if CAN_KEEP_AWAKE else []
    spinners = [
        subprocess.Popen([sys.executable, spinner, str(core), str(os.getpid())])
        for core in cores
    ]
    try:
        yield
    finally:
        for process in spinners:
            process.kill()
            process.wait()
