"""How much is measured: enough for figures, or just enough to see that it works.

`run.py` divides the time among the sections.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The amounts of a run."""

    #: Seconds for all sections together.
    seconds: float
    #: Sets of fresh connections over which a figure of the commands, and of threads and
    #: processes, is taken.
    placements: int
    #: Least number of rounds of each comparison.
    rounds: int
    #: Commands that are timed together, at most.
    repeats: int
    #: Milliseconds that the delayed link takes in one direction.
    delay: float
    #: Numbers of keys that a namespace has when it is invalidated.
    sizes: tuple[int, ...]
    #: The largest of them at which `delete_many` is measured: it takes a round trip for
    #: each key.
    delete_up_to: int
    #: Numbers of items that a set-up has cached.
    cached: tuple[int, ...]
    #: Commands of all threads, or of all processes, that are timed together.
    parallel_commands: int
    #: Tests in a suite.
    tests: int
    #: Writes beside a neighbour.
    writes: int
    #: Megabytes of the neighbour's server.
    megabytes: int


FULL = Scale(
    seconds=400,
    placements=8,
    rounds=3,
    repeats=10,
    delay=1,
    sizes=(10**2, 10**3, 10**4, 10**5, 10**6),
    delete_up_to=10**4,
    cached=(10, 10**4),
    parallel_commands=1_200,
    tests=1_000,
    writes=100_000,
    megabytes=64,
)

TINY = Scale(
    seconds=0,
    placements=2,
    rounds=1,
    repeats=2,
    delay=0.1,
    sizes=(10**2, 10**3),
    delete_up_to=10**2,
    cached=(10, 20),
    parallel_commands=160,
    tests=50,
    writes=1_000,
    megabytes=8,
)
