"""How much is measured: enough for figures, or just enough to see that all of it works.

Times are shared out among the sections in `run.py`; these are the numbers of things.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The numbers of a run."""

    #: Seconds for all sections together.
    seconds: float
    #: Rounds of each comparison, if there is no time for more.
    rounds: int
    #: Operations that are timed together.
    operations: int
    #: Milliseconds that the delayed link takes, one way.
    delay: float
    #: Numbers of keys that a namespace has when it is invalidated.
    sizes: tuple[int, ...]
    #: The largest of them at which `delete_many` is measured: each key takes it a trip.
    delete_up_to: int
    #: Operations of all threads, or of all processes, that are timed together.
    parallel_operations: int
    #: Tests in a suite.
    tests: int
    #: Bumps beside a neighbour, on a server of so many megabytes.
    bumps: int
    megabytes: int


FULL = Scale(
    seconds=250,
    rounds=3,
    operations=10,
    delay=1,
    sizes=(10**2, 10**3, 10**4, 10**5, 10**6),
    delete_up_to=10**4,
    parallel_operations=4_000,
    tests=1_000,
    bumps=100_000,
    megabytes=64,
)

TINY = Scale(
    seconds=0,
    rounds=1,
    operations=2,
    delay=0.1,
    sizes=(10**2, 10**3),
    delete_up_to=10**2,
    parallel_operations=160,
    tests=50,
    bumps=1_000,
    megabytes=8,
)
