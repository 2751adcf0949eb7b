"""MAX_STALENESS: how long the counter is not read, and what each process sees then."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import time
from itertools import pairwise
from operator import methodcaller

import pytest

from namespaced_cache import NamespaceUnavailable
from namespaced_cache.core import clock as clock_module
from namespaced_cache.core.counter import Counter
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.uses import (
    EACH_READ,
    EACH_WAY_TO_INVALIDATE,
    EACH_WRITE,
    READS,
    WRITES,
    Clock,
    as_another_process,
    in_a_thread,
    overtake,
)

#: Seconds for which the bounded aliases of these tests trust the latest generation.
WINDOW = 60


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(clock_module, "monotonic", clock.monotonic)
    return clock


@pytest.fixture
def bounded(build, clock):  # noqa: ARG001  # the clock stands still
    """A bounded alias of this test's namespace."""
    return build(OPTIONS={"MAX_STALENESS": WINDOW})


@pytest.fixture
def other(build):
    """A strict alias of the test's namespace, as in another process."""
    return as_another_process(build())


def run_script(code, *arguments):
    """Run code in a process of its own, and return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_operation_within_the_window_reads_the_counter(bounded, clock):
    """A counter read would find the counter lost, and seed it."""
    bounded.set_many({"k": "v", "n": 1})
    real, key = bounded._cache.wrapped, bounded._cache.counter.key
    real.delete(key)
    clock.now += WINDOW - 0.001
    assert [read(bounded) for read in READS.values()] == ["v"] * len(READS)
    for write in WRITES.values():
        write(bounded)
    assert bounded.incr("n") == 2
    assert bounded.touch("n") is True
    assert bounded.delete("n") is True
    assert bounded.get("n") is None
    assert real.get(key) is None
    clock.now += 0.001
    assert bounded.get("k") is None
    bounded.set("k", "v")
    assert real.get(key) == bounded._cache.counter.latest


@EACH_READ
def test_a_read_sees_another_process_invalidation_when_the_window_ends(
    bounded, other, clock, read
):
    bounded.set("k", "old")
    other.invalidate_namespace()
    other.set("k", "new")
    clock.now += WINDOW - 0.001
    assert read(bounded) == "old"
    clock.now += 0.001
    assert read(bounded) == "new"


@EACH_WRITE
def test_a_write_follows_another_process_invalidation_when_the_window_ends(
    bounded, other, clock, write
):
    assert bounded.get("k") is None
    other.invalidate_namespace()
    clock.now += WINDOW - 0.001
    write(bounded)
    assert other.get("w") is None
    clock.now += 0.001
    write(bounded)
    assert other.get("w") == "written"


def after_a_loss(ask):
    """Return a function that deletes the counter before it calls `ask`."""

    def lose_and_ask(cache):
        cache._cache.wrapped.delete(cache._cache.counter.key)
        ask(cache)

    return lose_and_ask


ASKING = {
    "generation": lambda cache: cache.generation,
    "get": methodcaller("get", "k"),
    "set": methodcaller("set", "k", "v"),
    "invalidate_namespace": methodcaller("invalidate_namespace"),
    "pinned_generation": lambda cache: cache.pinned_generation().__enter__(),
}
ASKING |= {
    f"{name}, lost": after_a_loss(ask)
    for name, ask in ASKING.items()
    if name != "get"  # without a counter, it need not read again
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_the_window_begins_when_the_counter_read_is_sent(
    bounded, other, clock, monkeypatch, ask
):
    """The answer may be as old as its request. Here each answer takes 50 seconds."""
    assert bounded.generation
    clock.now += WINDOW
    real = bounded._cache.wrapped
    asked = []

    def slow(method):
        def asking(*args):
            asked.append(clock.now)
            answer = method(*args)
            clock.now += 50
            return answer

        return asking

    with monkeypatch.context() as patch:
        methods = {"get", "get_many", "get_multi", "incr"} & set(dir(real))
        if ask is ASKING["set"]:
            methods.add("set")  # the counter is read at the same time
        for name in methods:
            patch.setattr(real, name, slow(getattr(real, name)))
        contextvars.copy_context().run(ask, bounded)
    assert clock.now == asked[-1] + 50
    other.invalidate_namespace()
    other.set("k", "new")
    clock.now = asked[-1] + WINDOW - 0.001
    assert bounded.get("k") != "new"
    clock.now = asked[-1] + WINDOW
    assert bounded.get("k") == "new"


@pytest.mark.parametrize("how", ["get", "set"])
def test_one_counter_read_begins_the_next_window(client, build, proxy, clock, how):
    # pymemcache's counter read is pipelined, and pylibmc's is parallel.
    with_read = {"pymemcache": 1, "pylibmc": 2}[client]
    cache = build(proxy.location, OPTIONS={"MAX_STALENESS": WINDOW})
    cache.set("k", "v")

    def trips():
        """Return the requests of each of three writes."""
        sent = [proxy.count + proxy.parallel]
        for _ in range(3):
            cache.set("k", "v")
            sent.append(proxy.count + proxy.parallel)
        return [after - before for before, after in pairwise(sent)]

    assert trips() == [1, 1, 1]
    clock.now += WINDOW
    if how == "get":
        assert proxy.during(lambda: cache.get("k")) == 1
        assert trips() == [1, 1, 1]
    else:
        assert trips() == [with_read, 1, 1]
    clock.now += WINDOW - 0.001
    assert trips() == [1, 1, 1]
    clock.now += 0.001
    assert trips() == [with_read, 1, 1]


@EACH_WAY_TO_INVALIDATE
@EACH_READ
def test_this_process_sees_its_own_invalidation_at_once_everywhere(
    build, server, clock, invalidate, read
):
    """Each alias with this counter sees it, of either client and in each thread."""
    options = {"MAX_STALENESS": WINDOW}
    aliases = [
        our_cache(path, server.location, OPTIONS=options) for path in BACKENDS.values()
    ]
    for cache in aliases:
        cache.set("k", b"old")
        assert read(cache) == b"old"
        invalidate(build(OPTIONS=options))
        for alias in aliases:
            assert read(alias) is None
            assert in_a_thread(lambda alias=alias: read(alias)) is None
    assert clock.now == Clock.now
    for cache in aliases:
        cache.close()


@pytest.fixture(params=[{}, {"MAX_STALENESS": WINDOW}], ids=["strict", "bounded"])
def invalidator(build, request):
    """An alias with the same counter, for another thread."""
    return build(OPTIONS=request.param)


@EACH_WRITE
def test_a_write_during_this_process_invalidation_is_not_lost(
    bounded, invalidator, other, monkeypatch, write
):
    """Another thread's invalidation returns before the write does."""
    bounded.get("warm")
    invalidated = overtake(
        monkeypatch,
        bounded._cache.wrapped,
        ["set", "add", "set_multi"],
        lambda: in_a_thread(invalidator.invalidate_namespace),
    )
    write(bounded)
    assert invalidated
    assert bounded.get("w") == "written"
    assert other.get("w") == "written"


def test_an_error_during_this_process_invalidation_is_not_the_callers(
    bounded, invalidator, monkeypatch
):
    """`incr` finds nothing in a generation that is dead when it returns."""

    def renew():
        invalidator.invalidate_namespace()
        invalidator.set("n", 5)

    bounded.get("warm")
    overtake(monkeypatch, bounded._cache.wrapped, ["incr"], lambda: in_a_thread(renew))
    assert bounded.incr("n") == 6


def test_a_strict_alias_beside_a_bounded_one_stays_strict(bounded, cache, other):
    """The bounded alias shares the generation that the strict one reads."""
    bounded.set("k", "old")
    for number in range(3):
        other.invalidate_namespace()
        other.set("k", number)
        assert bounded.get("k") != number
        assert cache.get("k") == number
        cache.set("w", number)
        assert other.get("w") == number
        assert bounded.get("k") == number


@pytest.mark.parametrize("zero", [0, 0.0])
def test_a_max_staleness_of_zero_is_strict(build, other, clock, zero):
    cache = build(OPTIONS={"MAX_STALENESS": zero})
    cache.set("k", "old")
    other.invalidate_namespace()
    assert cache.get("k") is None
    other.invalidate_namespace()
    cache.set("w", "written")
    assert other.get("w") == "written"
    assert clock.now == Clock.now


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_clone_has_the_same_window(bounded, other, clock):
    clone = bounded._cache.clone()
    clone.set("raw", "old")
    other.invalidate_namespace()
    assert clone.get("raw") == "old"
    clock.now += WINDOW
    assert clone.get("raw") is None


def test_an_outage_within_the_window_is_as_on_the_bare_backend(
    build, client, start, clock
):
    """Reads and writes behave as on the bare backend, and the window ends on time."""
    server = start()
    options = {"MAX_STALENESS": WINDOW}
    cache = build(server.location, OPTIONS=options)
    bare = bare_cache(BACKENDS[client], server.location)
    for each in (cache, bare):
        each.set("k", "old")
    number = cache.generation
    server.kill()
    clock.now += WINDOW - 2

    def outcomes(cache):
        """Twice, because first a connection breaks, and then no other can be opened."""
        for act in (lambda: cache.set("k", 1), lambda: cache.get("k", "miss")) * 2:
            try:
                yield act()
            except Exception as error:  # noqa: BLE001  # the test compares any error
                yield type(error)

    assert list(outcomes(cache)) == list(outcomes(bare))
    for act in (cache.invalidate_namespace, lambda: cache.generation):
        with pytest.raises(NamespaceUnavailable):
            act()
    server.start()
    # This client has not seen the outage, and shares the process's counter.
    again = build(server.location, OPTIONS=options)
    clock.now += 1
    assert again.get("k") is None
    again.set("k", "new")
    assert again.get("k") == "new"
    clock.now += 1
    assert again.get("k") is None
    assert again.generation > number
    bare.close()


def test_a_counter_that_another_process_seeds_is_used_after_the_window(
    bounded, other, clock, monkeypatch
):
    """No old item comes back, and both use the same generation."""
    bounded.set("k", "old")
    # Seeds of the same second are in no order.
    later = clock_module.wall() + 2
    monkeypatch.setattr(clock_module, "wall", lambda: later)
    bounded._cache.wrapped.delete(bounded._cache.counter.key)
    other.set("k", "new")
    assert bounded.get("k") == "old"
    clock.now += WINDOW
    # A seed below what this process knows is repaired, and all is lost.
    assert bounded.get("k") in ("new", None)
    assert bounded.generation == other.generation
    assert bounded.get("k") == other.get("k")


INVALIDATING = """
import sys
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache

cache = NamespacedCache(sys.argv[2], {"OPTIONS": {"WRAPPED_BACKEND": sys.argv[1]}})
print(cache.invalidate_namespace())
"""


def test_another_real_process_invalidation_is_seen_in_real_time(build, backend, server):
    cache = build(OPTIONS={"MAX_STALENESS": 0.2})
    cache.set("k", "old")
    number = int(run_script(INVALIDATING, backend, server.location))
    time.sleep(0.2)
    assert cache.get("k") is None
    assert cache.generation == number


FORKING = """
import os, sys
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache
from namespaced_cache.core import clock

class time:
    now = 1000

clock.monotonic = lambda: time.now
options = {"WRAPPED_BACKEND": sys.argv[1], "MAX_STALENESS": 60}
cache = NamespacedCache(sys.argv[2], {"OPTIONS": options})

def forked(act):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.close(writer)
        os.read(reader, 1)
        act()
        os._exit(0)
    os.close(reader)
    return child, writer

def ends(child, writer):
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0

def sees_it_a_window_later():
    assert cache.get("k") == "old"
    time.now += 60
    assert cache.get("k") is None

cache.set("k", "old")
child = forked(sees_it_a_window_later)
cache.invalidate_namespace()
assert cache.get("k") is None
ends(*child)
cache.set("k", "old")
ends(*forked(cache.invalidate_namespace))
sees_it_a_window_later()
print("ok")
"""


def test_parent_and_child_see_each_others_invalidation_when_the_window_ends(
    backend, server
):
    assert run_script(FORKING, backend, server.location) == "ok\n"


# Other threads may change the latest generation while this one checks it.


def test_the_latest_generation_is_never_newer_than_its_read(clock):
    """`trusted` takes no lock, so each state between two steps must be right."""
    seen = []

    class Watched(Counter):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if vars(self).keys() >= {"latest", "_read_at"}:
                seen.append(self.trusted(WINDOW))

    counter = Watched("shop", "127.0.0.1:1")
    counter._note_latest(101, clock.now)
    clock.now += WINDOW
    seen.clear()
    counter._note_latest(102, clock.now)
    assert 101 not in seen
    assert seen[-1] == 102


def test_a_generation_that_is_replaced_meanwhile_is_not_trusted(clock):
    class Overtaken(Counter):
        todo = True

        @property
        def latest(self):
            number = vars(self)["latest"]
            if clock.now == later and self.todo:
                self.todo = False
                self._note_latest(102, later)
            return number

        @latest.setter
        def latest(self, number):
            vars(self)["latest"] = number

    later = clock.now + WINDOW
    counter = Overtaken("shop", "127.0.0.1:1")
    counter._note_latest(101, clock.now)
    assert counter.trusted(WINDOW) == 101
    clock.now = later
    assert counter.trusted(WINDOW) is None
