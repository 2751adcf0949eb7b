"""Traffic whose counter is evicted, and which notices a thread that hangs."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pymemcache.client.base import Client

from namespaced_cache.keys import counter_key
from tests.support.history import EVICT, SETTLING, Call
from tests.support.traffic import NAMESPACE, Plan, Traffic

#: No call takes as long as this, in seconds.
LONGEST_CALL = 30


class _Watch:
    """Waits for traffic. Ends its processes if a thread of them hangs."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._done: list[int] = []
        self._moved: list[float] = []

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises TimeoutError if a thread does nothing."""
        self._done, self._moved = [], []
        self._traffic.wait_until(lambda: self._looked() and condition(), float("inf"))

    def _looked(self) -> bool:
        now = time.monotonic()
        done = self._traffic.done_by_thread()
        if len(done) != len(self._done):
            self._done, self._moved = done, [now] * len(done)
        for thread, calls in enumerate(done):
            if calls != self._done[thread]:
                self._done[thread], self._moved[thread] = calls, now
            elif now - self._moved[thread] > LONGEST_CALL:
                for process in self._traffic.processes:
                    process.kill()
                raise TimeoutError(f"thread {thread} hangs after {calls} calls")
        return True


def _states(pid: int) -> Iterator[str]:
    """Return the state of each thread of a process, such as T for stopped."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        # The name before the state is in brackets, and may contain anything.
        yield (thread / "stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def _stopped(process: Any) -> Iterator[None]:
    """Let a process do nothing meanwhile."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        # Until all its threads have stopped, each may still do something.
        while set(_states(process.pid)) != {"T"}:
            time.sleep(0.0005)
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def record_disturbed(plan: Plan, operations: int) -> list[Call]:
    """Return a history of at least so many calls, and some of each thread."""
    with Traffic(plan) as traffic:
        watch = _Watch(traffic)
        for enough in (operations / 3, operations):
            watch.wait_until(lambda n=enough: traffic.done(n))
            traffic.let_join()
    return traffic.calls


def record_evictions(plan: Plan, operations: int) -> list[Call]:
    """Return a history in which the counter is deleted again and again.

    It is deleted at any moment after every thread has seen the last one, often twice
    in quick succession, or while a process sleeps that knows an old number.
    """
    dice = random.Random(operations)
    evictions: list[Call] = []
    bare = Client(plan.location)

    def evict() -> int:
        begin = time.monotonic_ns()
        bare.delete(counter_key(NAMESPACE), noreply=False)
        end = time.monotonic_ns()
        evictions.append(Call(begin, end, "server", EVICT, wipes=True))
        return end

    def evict_in_quick_succession() -> int:
        for _ in range(dice.choice([1, 2, 2])):
            end = evict()
            time.sleep(dice.random() / 500)
        return end

    def evict_while_one_sleeps() -> int:
        """Let the sleeper alone seed the second counter, above the number it knows."""
        sleeper = dice.choice(traffic.joined())
        others = [index for index in traffic.joined() if index != sleeper]
        with ExitStack() as awake:
            with _stopped(traffic.processes[sleeper]):
                end = evict()
                watch.wait_until(lambda: traffic.all_worked_since(end, others))
                time.sleep(dice.random() / 100)
                for index in others:
                    awake.enter_context(_stopped(traffic.processes[index]))
                end = evict()
            watch.wait_until(lambda: traffic.all_worked_since(end, [sleeper]))
        return end

    def disturb() -> None:
        begin = time.monotonic_ns()
        ways = evict_in_quick_succession, evict_while_one_sleeps
        last = dice.choice(ways)()
        watch.wait_until(lambda: traffic.all_worked_since(last))
        end = time.monotonic_ns()
        evictions.append(Call(begin, end, "server", SETTLING, wipes=True))
        time.sleep(dice.random() / 20)

    with Traffic(plan) as traffic:
        watch = _Watch(traffic)
        for enough in (operations / 3, operations):
            while not traffic.done(enough):
                disturb()
            traffic.let_join()
    bare.close()
    return [*traffic.calls, *evictions]
