"""Traffic: processes that carry out all commands at once in one namespace.

`record()` and `record_restarts()` start the processes and return what they did, as
calls for `history.History`. They are forked from a process that has only imported what
they need, so they share nothing with the process that starts them. One of them joins
when the others have worked for a while, so it begins without a latest generation.
"""

from __future__ import annotations

import multiprocessing
import pickle
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.disturbances import BROKEN_OFF, Disturbance
from tests.support.history import KILL, Call, Part
from tests.support.recorder import KEYS, Hand

#: What the threads of each process do. The last process joins late.
PROCESSES = [
    ("writer", "writer"),
    ("reader", "reader"),
    ("invalidator", "reader"),
    ("reader", "writer"),
    ("writer", "reader"),
]
THREADS = 2

#: Imported once for all processes.
PRELOADED = [
    __name__,
    "django.core.cache.backends.memcached",
    "namespaced_cache.core.wrapped_backend",
    "pylibmc",
    "pymemcache",
]

NAMESPACE = "history"


@dataclass(frozen=True)
class Plan:
    """The configuration of the processes.

    `blind` says which commands are not validated: "reads", or "writes" for the others.
    """

    backend: str
    location: str | list[str]
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    blind: str = ""
    disturbances: tuple[Disturbance, ...] = ()
    threads: int = THREADS
    #: Whether the threads of a process share one cache. `caches` has one for each.
    is_shared: bool = False

    @property
    def caches(self) -> dict[str, dict[str, Any]]:
        """The CACHES of Django's settings."""
        ours = {"WRAPPED_BACKEND": self.backend, "NAMESPACE": NAMESPACE}
        return {
            "default": {
                "BACKEND": "namespaced_cache.NamespacedCache",
                "LOCATION": self.location,
                "OPTIONS": {**ours, **self.options},
            }
        }


def take_out_validation(blind: str) -> None:
    """Remove validation from commands that read, or from the others."""
    from namespaced_cache.adapters.commands import Effect
    from namespaced_cache.core.operation import _REPEAT, Operation

    validated = Operation.run

    def run(operation: Operation, binding: Any) -> Any:
        command = operation.command
        reads = command is not None and command.effect is Effect.READS
        if reads != (blind == "reads"):
            return validated(operation, binding)
        counter = binding.counter
        answer = _REPEAT
        while answer is _REPEAT:
            latest = counter.latest or counter.read(binding.access)
            answer = operation._trusting(binding, latest)
        return answer

    Operation.run = run


class Shared:
    """What the processes share with the process that started them."""

    def __init__(self, context: Any, threads: int) -> None:
        self.ready = context.Semaphore(0)
        # Not events: setting one waits for each process that waits for it, even if that
        # was killed.
        self.go = context.Semaphore(0)
        self.join = context.Semaphore(0)
        self.stop = context.RawValue("b", 0)
        #: For each thread: how many calls it has made, and when its last but one
        #: successful call began.
        self.done = context.RawArray("q", threads)
        self.worked = context.RawArray("q", threads)


def _work(plan: Plan, shared: Shared, index: int) -> None:
    """Run one of the processes."""
    from django.conf import settings

    settings.configure(CACHES=plan.caches)
    from django.core.cache import caches

    if plan.blind:
        take_out_validation(plan.blind)
    for disturbance in plan.disturbances:
        disturbance.begin(index)
    shared_cache = caches["default"] if plan.is_shared else None

    def work(thread: int) -> list[Call]:
        slot = index * plan.threads + thread
        role = PROCESSES[index][thread % THREADS]
        # `caches` has a cache for each thread.
        cache = shared_cache or caches["default"]
        hand = Hand(cache, role, f"{role}{index}.{thread}", slot)
        for disturbance in plan.disturbances:
            disturbance.take(hand, thread)
        worked = 0
        try:
            while not shared.stop.value:
                call = hand.do()
                shared.done[slot] += 1
                if call.error and not call.error.startswith(BROKEN_OFF):
                    time.sleep(0.005)
                # Two in a row: the first may be a miss that no server answered.
                elif worked:
                    shared.worked[slot] = worked
                worked = 0 if call.error else call.begin
        finally:
            shared.stop.value = 1  # also when this thread fails, so that all stop
        return hand.calls

    shared.ready.release()
    (shared.join if index == len(PROCESSES) - 1 else shared.go).acquire()
    try:
        with ThreadPoolExecutor(plan.threads) as threads:
            others = threads.map(work, range(1, plan.threads))
            calls = work(0)  # in the main thread, where signal handlers run
            calls += [call for its in others for call in its]
    finally:
        for disturbance in plan.disturbances:
            disturbance.end()
    (plan.folder / f"{index}.history").write_bytes(pickle.dumps(calls))


class Traffic:
    """The running processes. `calls` is what they did, once they have stopped."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._shared = Shared(context, len(PROCESSES) * plan.threads)
        self._joined = (len(PROCESSES) - 1) * plan.threads
        self.processes = [
            context.Process(target=_work, args=(plan, self._shared, index))
            for index in range(len(PROCESSES))
        ]
        self.calls: list[Call] = []

    def joined(self) -> range:
        """Return the processes that have begun to work."""
        return range(self._joined // self._plan.threads)

    def done_by_thread(self) -> list[int]:
        """Return how many calls each thread has made."""
        return list(self._shared.done[: self._joined])

    def done(self, calls: float) -> bool:
        """Tell whether there were so many calls, and enough of each thread."""
        done = self._shared.done[: self._joined]
        return sum(done) > calls and min(done) > calls / 3 / len(done)

    def let_join(self) -> None:
        """Let the last process begin."""
        self._joined = len(PROCESSES) * self._plan.threads
        self._shared.join.release()

    def all_worked_since(self, moment: int, among: Iterable[int] = ()) -> bool:
        """Tell whether each thread has since begun two calls that succeeded.

        `among` are the processes to look at, if not all.
        """
        worked = self._shared.worked[: self._joined]
        threads = self._plan.threads
        return all(
            begin > moment
            for slot, begin in enumerate(worked)
            if not among or slot // threads in among
        )

    def wait_until(self, condition: Callable[[], bool], patience: float = 60) -> None:
        """Wait for the condition.

        Raise an error if it takes too long or a process has ended.
        """
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{list(self._shared.done)} calls, and no more")
            if any(process.exitcode is not None for process in self.processes):
                raise RuntimeError(f"ended too early: {self.processes}")
            time.sleep(0.002)

    def __enter__(self) -> Self:
        for process in self.processes:
            process.start()
        for _ in self.processes:
            if not self._shared.ready.acquire(timeout=60):
                raise TimeoutError("the processes do not start")
        self._let_go()
        return self

    def _let_go(self) -> None:
        for _ in self.processes:
            self._shared.go.release()

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._shared.stop.value = 1
        self._let_go()
        self._shared.join.release()
        for process in self.processes:
            process.join(600)  # writing down what it did takes long
            if process.exitcode is None:
                process.kill()
                process.join()
        if failed:
            return
        assert not any(process.exitcode for process in self.processes)
        for path in self._plan.folder.glob("*.history"):
            self.calls += pickle.loads(path.read_bytes())
            path.unlink()


def record(plan: Plan, operations: int) -> list[Call]:
    """Return a history of at least so many calls, with some of each thread."""
    with Traffic(plan) as traffic:
        for enough in (operations / 3, operations):
            traffic.wait_until(lambda n=enough: traffic.done(n), 60 + operations / 50)
            traffic.let_join()
    return traffic.calls


def record_restarts(
    plan: Plan, server: Any, cycles: int, *, has_counter: bool = True
) -> list[Call]:
    """Return a history in which a server is killed so often, and restarts empty.

    It is killed at a random moment after every thread has worked again. `has_counter`
    tells whether it is the counter server.
    """
    lost = () if has_counter else tuple(Part(key, did="drop") for key in KEYS)
    dice = random.Random(cycles)
    kills = []
    with Traffic(plan) as traffic:
        for cycle in range(cycles):
            if cycle == cycles // 3:
                traffic.let_join()
            begin = time.monotonic_ns()
            server.restart()
            end = time.monotonic_ns()
            kills.append(Call(begin, end, "server", KILL, lost, wipes=has_counter))
            traffic.wait_until(lambda end=end: traffic.all_worked_since(end))
            time.sleep(dice.random() / 10)
    return [*traffic.calls, *kills]
