"""Signal handlers that raise, as Ctrl-C and a test's time limit do, at any moment."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from pymemcache import HashClient
from pymemcache.client import base

from namespaced_cache.adapters.broken_off import guard
from tests.support.caches import BACKENDS, our_cache
from tests.support.servers import stat

#: Breaks operations off, each at a random moment. `others` run in threads meanwhile.
STORM = """
import random, signal, sys, threading
from tests.support import django_settings
django_settings.configure()
from tests.support.caches import our_cache

class TimeLimit({base}):
    pass

def raise_limit(*_):
    raise TimeLimit

def storm(act, times, shortest=0.00005, longest=0.002):
    hits = 0
    for _ in range(times):
        try:
            # The signal comes again after a second, because Python ignores what is
            # raised in a destructor.
            signal.setitimer(
                signal.ITIMER_REAL, random.uniform(shortest, longest), 1
            )
            while True:
                act()
        except Exception as error:
            hits += 1
            cause = error
            while cause and not isinstance(cause, TimeLimit):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
        except TimeLimit:
            hits += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    return hits

signal.signal(signal.SIGALRM, raise_limit)
backend, location = sys.argv[1:]
"""

HELD = """
from namespaced_cache.core import binding, counter, pins, registry
from namespaced_cache.test import isolation
from namespaced_cache import events

cache = our_cache(backend, location)
cache.set("k", "v")

def act():
    with cache.pinned_generation():
        cache.invalidate_namespace()
    registry.counter("a", "b", "c")
    events.counts()

print(storm(act, {times}))

def afterwards():
    for module in (binding, counter, events, isolation, pins, registry):
        assert module._lock.acquire(timeout=5), module
        module._lock.release()
    fresh = our_cache(backend, location)
    before = fresh.generation
    assert fresh.invalidate_namespace() == before + 1
    fresh.set("k", "w")
    assert fresh.get("k") == "w"
    fresh.close()
    print("free")

thread = threading.Thread(target=afterwards, daemon=True)
thread.start()
thread.join(20)
"""

SHARED = """
options = dict(use_pooling=True, max_pool_size=16, no_delay=True)
cache = our_cache(backend, location, OPTIONS=options)
cache.set("mine", 0)
errors, rounds, ended = [], [0] * 4, threading.Event()

def use(number):
    turn = 0
    while not ended.is_set():
        turn += 1
        try:
            cache.set(f"k{{number}}", turn)
            found = cache.get(f"k{{number}}")
            if found != turn:
                errors.append((number, turn, found))
        except Exception as error:
            errors.append((number, turn, repr(error)))
        rounds[number] = turn

threads = [
    threading.Thread(target=use, args=(number,), daemon=True) for number in range(4)
]
for thread in threads:
    thread.start()

def act():
    found = cache.get("mine")
    assert found == 0, found
    cache.set("mine", 0)
    assert cache.get_many(["mine"]) == {{"mine": 0}}

hits = storm(act, {times}, 0.0005, 0.004)
ended.set()
for thread in threads:
    thread.join(20)
assert not any(thread.is_alive() for thread in threads)
assert min(rounds) > 20, rounds
assert errors == [], errors[:5]
print(hits)
"""

BASES = pytest.mark.parametrize("base", ["BaseException", "Exception"])


def run(code, backend, location, **values):
    done = subprocess.run(
        [sys.executable, "-c", (STORM + code).format(**values), backend, location],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


@BASES
@pytest.mark.parametrize(
    "times", [1000, pytest.param(50_000, marks=pytest.mark.stress)]
)
def test_no_lock_stays_held(backend, server, base, times):
    """Other threads would wait for ever at their next invalidation."""
    hits, free = run(HELD, backend, server.location, base=base, times=times)
    assert int(hits) == times
    assert free == "free"


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
@pytest.mark.parametrize("times", [300, pytest.param(20_000, marks=pytest.mark.stress)])
def test_a_shared_pool_loses_the_connection_of_the_broken_off_command_alone(
    backend, start, times
):
    """The other threads see no error, and read what they wrote."""
    server = start()
    before = stat(server, "total_connections")
    (hits,) = run(SHARED, backend, server.location, base="BaseException", times=times)
    opened = stat(server, "total_connections") - before
    # For each thread its own, for each hit at most one, and what this test asks with.
    assert opened <= 5 + int(hits) + 5


# One command is broken off, between the sending and the receiving.


class TimeLimit(BaseException):
    """What a test's time limit, or Ctrl-C, raises anywhere."""


FIRST = {
    "get": lambda cache: cache.get("one"),
    "set": lambda cache: cache.set("other", 3),
    "incr": lambda cache: cache.incr("one"),
    "delete": lambda cache: cache.delete("other"),
    "get_many": lambda cache: cache.get_many(["one", "two"]),
    "set_many": lambda cache: cache.set_many({"x": 1, "y": 2}),
}
NEXT = {
    "get": (lambda cache: cache.get("two"), [2]),
    "get missing": (lambda cache: cache.get("none"), [None]),
    "set": (lambda cache: cache.set("two", 2), [None]),
    "incr": (lambda cache: cache.incr("ten"), [11]),
    "get_many": (lambda cache: cache.get_many(["two"]), [{"two": 2}]),
    "set_many": (lambda cache: cache.set_many({"two": 2}), [[]]),
}


@pytest.fixture
def client():
    return "pymemcache"


@pytest.fixture(params=["one server", "three servers"])
def location(request, server, start):
    if request.param == "one server":
        return server.location
    return [start().location for _ in range(3)]


def break_off(monkeypatch, act, cache):
    """Break a command off. Return the socket that it waited at."""
    receive, waited = base._recv, []

    def limited(sock, _):
        waited.append(sock)
        monkeypatch.setattr(base, "_recv", receive)
        raise TimeLimit

    monkeypatch.setattr(base, "_recv", limited)
    with pytest.raises(TimeLimit):
        act(cache)
    return waited[0]


@pytest.mark.parametrize("options", [{}, {"use_pooling": True}], ids=["", "pool"])
@pytest.mark.parametrize("first", FIRST)
def test_no_command_receives_the_reply_to_a_broken_off_one(
    build, monkeypatch, location, options, first
):
    """Whatever both are, and on any of the servers."""
    cache = build(location, OPTIONS={"no_delay": True, **options})
    for act, expected in NEXT.values():
        cache.set_many({"one": 1, "two": 2, "ten": 10})
        break_off(monkeypatch, FIRST[first], cache)
        assert [act(cache)] == expected
        assert cache.get_many(["two", "ten"])["two"] == 2
        assert cache.generation == cache.generation


def sockets(cache):
    """The open sockets of a client without pools, by their servers."""
    members = cache._cache.wrapped.clients
    return {name: member.sock for name, member in members.items()}


@pytest.mark.parametrize("key", [f"k{number}" for number in range(5)])
def test_of_several_servers_one_connection_is_closed(build, start, monkeypatch, key):
    cache = build([start().location for _ in range(3)])
    many = dict.fromkeys([f"k{number}" for number in range(50)], 1)
    cache.set_many(many)
    before = sockets(cache)
    assert None not in before.values()
    waited = break_off(monkeypatch, lambda cache: cache.get(key), cache)
    assert cache.get_many(many) == many
    after = sockets(cache)
    closed = [name for name, sock in before.items() if after[name] is not sock]
    assert [before[name] for name in closed] in ([waited], [])  # [] for the counter's


def test_a_pool_keeps_the_other_connections(build, monkeypatch):
    cache = build(OPTIONS={"use_pooling": True})
    barrier = threading.Barrier(4)

    def hold(_):
        (member,) = cache._cache.wrapped.clients.values()
        with member.client_pool.get_and_release() as lent:
            lent.set("k", "v")
            barrier.wait(10)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(4)))
    (member,) = cache._cache.wrapped.clients.values()
    before = {*member.client_pool.free}
    assert len(before) == 4
    break_off(monkeypatch, lambda cache: cache.get("k"), cache)
    assert len({*member.client_pool.free} & before) == 3
    assert not member.client_pool.used
    assert cache.set("k", 1) is None
    assert cache.get("k") == 1


def is_kept(pool, error, **how):
    """Tell whether a pool keeps a connection that an error has interrupted."""
    lent = []
    with suppress(error), pool.get_and_release(**how) as connection:
        lent.append(connection)
        raise error
    return lent[0] in pool.free


def test_a_bare_pool_of_a_guarded_client_keeps_what_fails_without_a_need(server):
    """An Exception that is no error of the connection leaves it in the pool."""
    real = HashClient([server.location], use_pooling=True)
    assert guard(real)
    (member,) = real.clients.values()
    for error, stays in ((ValueError, True), (TimeLimit, False)):
        assert is_kept(member.client_pool, error) is stays
    assert not is_kept(member.client_pool, ValueError, destroy_on_fail=True)
    real.close()


def test_a_handler_that_raises_between_two_commands_closes_nothing(server):
    cache = our_cache(BACKENDS["pymemcache"], server.location)
    cache.set("k", 1)
    before = sockets(cache)
    with suppress(TimeLimit):
        raise TimeLimit
    assert cache.get("k") == 1
    assert sockets(cache) == before
    cache.close()
