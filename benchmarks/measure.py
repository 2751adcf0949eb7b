"""Paired measurement: every subject in every round, in random order.

What else the machine does changes from second to second, but little within a round. So
a subject is compared with the first subject in the same round. The median and quartiles
of those ratios are reported.
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

#: Does something once and returns the seconds, or the operations per second.
Act = Callable[[], float]

#: Names an act within one comparison.
Name = TypeVar("Name", bound=Hashable)

#: Only Linux has a priority below all others.
CAN_KEEP_AWAKE = hasattr(os, "SCHED_IDLE")


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and the quartiles on both sides of it."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        # `quantiles` needs two numbers at least.
        numbers = numbers if len(numbers) > 1 else [*numbers, *numbers]
        q1, median, q3 = statistics.quantiles(numbers, n=4, method="inclusive")
        # Five digits are more than the measurement can tell.
        return cls(*(float(f"{number:.5g}") for number in (median, q1, q3)))


@dataclass(frozen=True)
class Measured:
    """An act's numbers, and their ratios to the first act's numbers.

    The spreads are over the rounds of one placement. If there were several placements,
    they are over the medians of the placements, and `rounds` counts all rounds.
    """

    rounds: int
    value: Spread
    ratio: Spread
    placements: int = 1

    def row(self, **labels: object) -> dict[str, object]:
        """Return a row of the results, with the labels that identify it."""
        return {**labels, **asdict(self)}


def paired(
    acts: Mapping[Name, Act], seconds: float, *, least: int, warm: bool = True
) -> dict[Name, Measured]:
    """Measure every act once in each round, for `seconds` and at least `least` rounds.

    The other acts are compared with the first act. If `warm` is true, each act is done
    once before the first round, so that it has connected and filled its caches.
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


def over_placements(
    placements: Sequence[Mapping[Name, Measured]],
) -> dict[Name, Measured]:
    """Combine the figures that the same acts had in several placements.

    The quartiles are those of the placements' medians. They show how far a figure moves
    with the placement. The rounds within a placement would show much less.
    """
    return {
        name: Measured(
            sum(placement[name].rounds for placement in placements),
            Spread.of([placement[name].value.median for placement in placements]),
            Spread.of([placement[name].ratio.median for placement in placements]),
            len(placements),
        )
        for name in placements[0]
    }


def clock(do: Callable[[], object], times: int = 1) -> float:
    """Return the seconds per call of `times` calls, without garbage collection."""
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
    """Keep the cores awake with a process that gives way to any other process.

    An idle core takes longer to wake than memcached takes to answer, and the time
    depends on how deep the core sleeps.
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
