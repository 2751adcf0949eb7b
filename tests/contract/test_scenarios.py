"""What bit others who do this job: 23 scenarios, each on a real memcached."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor  # noqa: F401  # for others
from itertools import chain, product
from operator import methodcaller

import pytest
from django.core.cache import cache as default_cache
from django.core.cache import caches
from django.core.signals import request_finished
from django.test import override_settings, runner  # noqa: F401  # for others

from namespaced_cache import (
    NamespacedCache,
    NamespaceError,
    NamespaceUnavailable,
    identity,
    invalidate_namespaces,
)
from namespaced_cache.keys import GenerationKeys
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.other_processes import LIMIT, Process, begun, namespaced_alias
from tests.support.uses import (
    EACH_WAY_TO_FORGET,
    EACH_WRITE,
    as_another_process,
    overtake,
)
from tests.support.wires import Wire, once

#: What scenario 23 bumps: few in `make test`, or it would take ten seconds.
BUMPS = 100_000 if os.environ.get("NAMESPACED_CACHE_STRESS") else 10_000


@pytest.fixture(scope="module")
def door():
    """Where other processes come from."""
    with begun(__name__) as door:
        yield door


@pytest.fixture
def another(door, backend, server):
    """Begin another process of this run: another(location, worker="", **OPTIONS)."""
    processes: list[Process] = []

    def begin_one(location=None, worker="", **options) -> Process:
        process = Process(door)
        processes.append(process)
        run = os.environ["NAMESPACED_CACHE_RUN"]
        env = {"NAMESPACED_CACHE_RUN": run, "PYTEST_XDIST_WORKER": worker}
        process(f"os.environ.update({env!r})")
        process(f"use({backend!r}, {location or server.location!r}, {options!r})")
        return process

    yield begin_one
    for process in processes:
        process.close()


@pytest.fixture
def wires():
    """Put wires before servers, in the order of the wires' names.

    So the first is before the home of a counter that is looked for over all of them.
    """
    strung: list[Wire] = []

    def string(*servers) -> list[Wire]:
        new = [Wire(server) for server in servers]
        strung.extend(new)
        return sorted(new, key=lambda wire: wire.location)

    yield string
    for wire in strung:
        outcome(wire.cut)


@pytest.fixture
def wire(wires, server):
    return wires(server)[0]


@pytest.fixture
def strung(start, wires):
    """Wires before three servers."""
    return wires(start(), start(), start())


@pytest.fixture
def patient(build, client):
    """Build a cache that waits for what is held up.

    libmemcached gives up after five seconds, and finds a part of what it asked for.
    """
    waits = {"behaviors": {"_poll_timeout": LIMIT * 1000}}
    options = waits if client == "pylibmc" else {}
    return lambda location: build(location, OPTIONS=options)


@pytest.fixture
def strangers(backend, wires):  # noqa: ARG001  # are cut after the last use
    """Build Django's own backend on a server: a neighbour in no namespace."""
    built = []

    def build_one(location, **options):
        built.append(bare_cache(backend, location, OPTIONS=options))
        return built[-1]

    yield build_one
    for cache in built:
        outcome(cache.clear)
        cache.close()


def outcome(act):
    """Return what `act()` answers, or say what it raises."""
    try:
        return act()
    except Exception as error:  # noqa: BLE001  # it is compared
        return f"raises {type(error).__name__}"


def item(namespace: str, generation: int, key: str = "k") -> str:
    """Return what a server knows a key of Django's by."""
    return GenerationKeys(namespace, generation).name(f":1:{key}")


def ask(server, request: bytes) -> bytes:
    """Return what a memcached answers to a request in its text protocol."""
    with socket.create_connection(("127.0.0.1", server.port), LIMIT) as connection:
        connection.sendall(request + b"\r\n")
        return connection.recv(65536)


#: What a process does first after something has happened to the counter.
FIRST_ACTS = ["cache.get('k')", "cache.invalidate_namespace()", "cache.set('l', 1)"]


# 1. The counter alone is lost.


@pytest.mark.parametrize("first", FIRST_ACTS)
@pytest.mark.parametrize("loser", ["knows the number", "is fresh"])
def test_a_lost_counter_brings_no_generation_back(bare, another, loser, first):
    """Nor do the bumps after it, whoever makes them and whoever reads."""
    knows = another()
    namespace = knows("cache.namespace")
    seen = []
    for number in range(4):
        seen.append(knows("cache.invalidate_namespace()"))
        knows(f"cache.set('k', {number}, None)")
    items = [item(namespace, generation) for generation in seen]
    assert bare._cache.delete(f"nsc:{namespace}")
    loses = another() if loser == "is fresh" else knows
    loses(first)
    readers = [loses, knows, another()]
    for _ in range(6):
        assert [reader("cache.get('k')") for reader in readers] == [None] * 3
        seen.append(loses("cache.invalidate_namespace()"))
    assert seen == sorted(set(seen))
    assert len(bare._cache.get_multi(items)) == 4


# 2. Memory is short: the small counter is evicted before the large values.


def crowd_out(server) -> None:
    """Store and fetch, as a busy neighbour, many items of the counter's size."""
    with (
        socket.create_connection(("127.0.0.1", server.port), LIMIT) as connection,
        connection.makefile("rb") as answers,
    ):
        for start in range(0, 50_000, 100):
            names = [b"of-a-neighbour-%09d" % (start + one) for one in range(100)]
            stores = [b"set %s 0 0 19 noreply\r\n%019d\r\n" % (n, 0) for n in names]
            # What is fetched twice stays longer, as a counter in use does.
            fetch = b"get %s\r\n" % b" ".join(names)
            connection.sendall(b"".join([*stores, fetch, fetch]))
            for _ in range(2):
                while answers.readline() != b"END\r\n":
                    pass


def test_an_evicted_counter_brings_no_larger_value_back(start, another, strangers):
    # With the maintainer, which lags behind, there may be no room for a small item at
    # all for a moment.
    server = start("-m", "2", "-o", "no_lru_maintainer")
    stranger = strangers(server.location)
    names = [f"large{number}" for number in range(8)]
    knows = another(server.location)
    knows(f"cache.set_many(dict.fromkeys({names}, 50_000 * 'x'), None)")
    namespace, seen = knows("cache.namespace"), knows("cache.generation")
    items = [item(namespace, seen, name) for name in names]
    crowd_out(server)
    assert stranger._cache.get(f"nsc:{namespace}") is None
    fresh = another(server.location)
    for process in (knows, fresh):
        assert process(f"cache.get_many({names})") == {}
        assert process("cache.generation") > seen
    fresh("cache.set('k', 'new')")
    assert knows("cache.get('k')") == "new"
    assert len(stranger._cache.get_multi(items)) == 8


# 3. The server is restarted, or a stranger flushes it, while several processes hold
#    the old number.


@pytest.mark.parametrize("loss", ["restart", "flush_all"])
def test_processes_agree_anew_when_all_is_lost(start, another, strangers, loss):
    server = start()
    processes = [another(server.location) for _ in range(3)]
    reads, writes, bumps = processes
    writes("cache.set('k', 'old')")
    assert [process("cache.get('k')") for process in processes] == ["old"] * 3
    (seen,) = {process("cache.generation") for process in processes}
    if loss == "restart":
        server.restart()
        for process in processes:
            process("cache._cache.disconnect_all()")
    else:
        strangers(server.location).clear()
    assert reads("cache.get('k')") is None
    writes("cache.set('k', 'new')")
    processes.append(another(server.location))
    assert [process("cache.get('k')") for process in processes] == ["new"] * 4
    assert bumps("cache.invalidate_namespace()") > seen
    assert [process("cache.get('k')") for process in processes] == [None] * 4
    assert len({process("cache.generation") for process in processes}) == 1


# 4. The counter is made under the TIMEOUT of its alias and goes before its data.


def test_the_counter_outlives_the_timeout_of_its_alias(server):
    """However it was made; one wait for both clients."""
    made = []
    for client, path in BACKENDS.items():
        for way in ("seeded", "lost", "went-back"):
            options = {"NAMESPACE": f"{way}-{client}"}
            cache = our_cache(path, server.location, TIMEOUT=1, OPTIONS=options)
            seen = cache.generation
            if way == "lost":
                cache._cache.wrapped.delete(cache._cache.counter.key)
            elif way == "went-back":
                cache._cache.wrapped.set(cache._cache.counter.key, seen - 5)
            cache.set("k", 1, timeout=None)
            made.append(cache)
        cache.set("short", 1)
    generations = [cache.generation for cache in made]
    deadline = time.monotonic() + LIMIT
    while any(cache.get("short") for cache in made) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [cache.get("short") for cache in made] == [None] * 6
    assert [cache.get("k") for cache in made] == [1] * 6
    assert [cache.generation for cache in made] == generations
    for cache in made:
        cache.close()


# 5. Two processes seed at once.


@pytest.mark.parametrize(
    "acts",
    [
        ("cache.set('one', 1)", "cache.set('other', 1)"),
        ("cache.generation", "cache.invalidate_namespace()"),
    ],
)
def test_two_processes_that_seed_at_once_end_on_one_number(wire, another, acts):
    """Neither seeds before both have found that there is no counter."""
    meeting = threading.Barrier(2, timeout=LIMIT)
    met = []
    wire.before = lambda request: (
        request.startswith(b"add nsc:") and met.append(meeting.wait())
    )
    for number in range(5):
        namespace = f"{os.environ['NAMESPACED_CACHE_RUN']}-{number}"
        one, other = (another(wire.location, NAMESPACE=namespace) for _ in range(2))
        for process, act in zip((one, other), acts, strict=True):
            process.begin(act)
        for process in (one, other):
            process.end()
        assert one("cache.generation") == other("cache.generation")
        stored = {"one": 1, "other": 1} if "set" in acts[0] else {}
        assert one("cache.get_many(['one', 'other'])") == stored
        for writer, reader in ((one, other), (other, one)):
            writer(f"cache.set('k', {id(writer)})")
            assert reader("cache.get('k')") == id(writer)
    assert len(met) == 10


# 6. Two namespaces have equal seeds, and names that run into each other.

NAMES = ["a", "a-b", "a_b", "ab", "a1", "A", "gw1", "a-gw1", "nsc"]
WORKERS = ["", "gw1", "b"]


def test_equal_seeds_and_similar_names_never_cross(build, start, monkeypatch):
    """Not even by raw keys that look like those of another namespace."""
    location = start().location
    caches = [build(location, OPTIONS={"NAMESPACE": name}) for name in NAMES]
    keys = ["k", ":k", "b:k", "~k", "1:k", "-b:k", "gw1:k", ".gw1:k", "k" * 249]
    keys += [f"nsc:{name}:{end}" for name in NAMES for end in ("k", "1:k", "")]
    stored = {}
    for worker in WORKERS:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        identity.begin_epoch()
        for cache in caches:
            cache._cache.wrapped.set(cache._cache.counter.key, 10**18)
            assert cache._cache.get_multi(keys) == {}
            stored[cache.namespace] = dict.fromkeys(keys, cache.namespace)
            assert not cache._cache.set_multi(stored[cache.namespace])
    assert len(stored) == len(NAMES) * len(WORKERS)
    for worker in WORKERS:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        identity.begin_epoch()
        for cache in caches:
            assert cache.generation == 10**18
            assert cache._cache.get_multi(keys) == stored[cache.namespace]


# 7. Rubbish lies under the counter's key.

WAYS = {
    "pymemcache": {},
    "pymemcache plain": {"serde": None},
    "pylibmc": {"behaviors": {"cas": True}},
    "pylibmc binary": {"binary": True, "behaviors": {"cas": True}},
}

#: By these flags, clients take a value for text or bytes, a pickle, a number, what is
#: compressed, and what they do not know.
FLAGS = [0, 1, 2, 8, 0xFFFF]
RUBBISH = [
    b"",
    b"text",
    b"5",
    b"1700000000000000000  ",
    b"%d" % (2**64 - 1),
    b"9" * 5000,
    b"\xff\xfe",
    pickle.dumps([1]),
    zlib.compress(b"text"),
]


def get_within_a_pin(cache):
    with cache.pinned_generation():
        return cache.get("k")


#: Verbs of each kind; none may find what was stored before.
ON_RUBBISH = [
    lambda cache: cache.get("k"),
    lambda cache: cache.get_many(["k"]),
    lambda cache: cache.add("other", "new"),
    lambda cache: cache._cache.gets("raw"),
    lambda cache: cache._cache.append("raw", "new"),
    get_within_a_pin,
    lambda cache: cache.invalidate_namespace(),
]


def tried(act, cache):
    """Return what an act answers, or how it says that it cannot."""
    try:
        return act(cache)
    except NamespaceError as error:
        return error


@pytest.mark.parametrize(
    ("client", "way"), [(way.split()[0], way) for way in WAYS], indirect=["client"]
)
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("data", RUBBISH)
def test_rubbish_serves_nothing_and_is_named(build, server, way, flags, data):
    """To those who knew the number and to those who did not, until it is deleted."""
    knows, fresh, later = (build(OPTIONS=WAYS[way]) for _ in range(3))
    as_another_process(fresh)
    knows.set("k", "secret")
    knows._cache.set("raw", "secret")
    key = knows._cache.counter.key
    put = b"set %s %d 0 %d\r\n%s" % (key.encode(), flags, len(data), data)
    for cache in (knows, fresh):
        assert ask(server, put) == b"STORED\r\n"
        for act in ON_RUBBISH:
            answer = tried(act, cache)
            # In the binary protocol libmemcached takes what cannot be incremented for
            # an outage.
            if "binary" not in way or not isinstance(answer, NamespaceUnavailable):
                named = f"the key {key!r} on {server.location}, " in str(answer)
                assert named is isinstance(answer, NamespaceError)
            assert "secret" not in repr(answer)
            assert type(answer) is not int or 10**18 <= answer < 2**63
    assert ask(server, f"delete {key}".encode()) == b"DELETED\r\n"
    assert later.get("k") is None
    later.set("k", "mended")
    assert later.get("k") in ("mended", b"mended")


# 8. A reads the generation, B bumps it, A writes.

#: When B bumps, and what A sends at that moment.
MOMENTS = {
    "before the write": None,
    "while the write is under way": rb"^(set|add) nsc:",
    "before the writer looks whether its number still stands": rb"^get nsc:",
    "after the write": None,
}


@EACH_WRITE
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_write_is_seen_after_a_bump_only_if_it_ended_after_it(
    patient, wire, another, write, moment
):
    cache, other = patient(wire.location), another()
    cache.set("warm", 1)
    if cache._cache._find_route().request and "looks" in moment:
        moment = "while the write is under way"  # the look is in the same packet
    bumped = []

    def bump():
        bumped.append(other("cache.invalidate_namespace()"))

    if moment == "before the write":
        bump()
    elif MOMENTS[moment]:
        wire.before = once(MOMENTS[moment], bump)
    write(cache)
    if moment == "after the write":
        bump()
    assert len(bumped) == 1
    seen = None if moment == "after the write" else "written"
    assert cache.get("w") == seen
    assert [process("cache.get('w')") for process in (other, another())] == [seen] * 2


# 9. A computes a value from the database before B changes it and bumps, and stores it
#    after that.


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize(
    "fill",
    [
        lambda cache, compute: cache.set("price", compute()),
        lambda cache, compute: cache.get_or_set("price", compute),
        lambda cache, compute: cache._cache.set(":1:price", compute()),
        lambda cache, compute: asyncio.run(cache.aset("price", compute())),
    ],
)
def test_a_pin_alone_keeps_a_slow_fill_out_of_the_new_generation(
    cache, another, fill, pinned
):
    """Without one it is stored there: nothing tells how old a value is."""
    other, database = another(), {"price": 1}

    def compute():
        value = database["price"]
        database["price"] += 1
        other("cache.invalidate_namespace()")
        return value

    with cache.pinned_generation() if pinned else contextlib.nullcontext():
        fill(cache, compute)
        assert cache.get("price") == 1
    left = None if pinned else 1
    assert cache.get("price") == other("cache.get('price')") == left
    found = cache.get_or_set("price", lambda: database["price"])
    assert found == (2 if pinned else 1)


# 10. A late writer puts an old number back; others bump at the same time.


@pytest.mark.parametrize("first", FIRST_ACTS)
def test_an_old_number_that_is_put_back_brings_nothing_back(bare, another, first):
    """To processes that know a newer one, and to all after one of them has looked."""
    knows, late = another(), another()
    old = late("cache.generation")
    late("cache.set('k', 'old')")
    newest = [knows("cache.invalidate_namespace()") for _ in range(3)][-1]
    bare._cache.set(f"nsc:{late('cache.namespace')}", old)
    knows(first)
    for process in (knows, late, another()):
        assert process("cache.get('k')") is None
        assert process("cache.generation") > newest
    knows("cache.set('k', 'new')")
    assert late("cache.get('k')") == "new"


def test_processes_that_bump_at_once_never_get_one_number_twice(cache, another):
    before = cache.generation
    processes = [another() for _ in range(4)]
    for process in processes:
        process.begin("[cache.invalidate_namespace() for _ in range(500)]")
    numbers = [process.end() for process in processes]
    assert all(mine == sorted(mine) for mine in numbers)
    assert sorted(chain(*numbers)) == list(range(before + 1, before + 2001))


# 11. The namespace is bumped within an operation that asks more than once.


@pytest.mark.parametrize("held", ["question", "answer"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_get_many_answers_from_one_generation(patient, strung, another, held, which):
    """Whichever of the servers is asked, or answers, after the bump."""
    locations = [wire.location for wire in strung]
    cache, other = patient(locations), another(locations)
    old = {f"k{number}": "old" for number in range(90)}
    # Every other one, so that a mixture has more than either generation.
    new = dict.fromkeys([*old][::2], "new")
    cache.set_many(old)
    assert other(f"cache.get_many({[*old]})") == old
    bumped = []

    def bump():
        bumped.append(other("cache.invalidate_namespace()"))
        other(f"cache.set_many({new})")

    if held == "question":
        strung[which].before = once(b"^get", bump)
    else:
        strung[which].after = once(b"^VALUE", bump)
    assert cache.get_many(old) in (old, new)
    assert len(bumped) == 1
    assert cache.get_many(old) == new


@pytest.mark.parametrize(
    "get_or_set",
    [
        methodcaller("get_or_set", "k", "mine"),
        lambda cache: asyncio.run(cache.aget_or_set("k", "mine")),
    ],
)
@pytest.mark.parametrize("moment", [*product(["get", "add"], [None, "theirs"])])
def test_get_or_set_over_a_bump_answers_from_the_new_generation(
    cache, another, monkeypatch, get_or_set, moment
):
    """After its `get`, or after its `add`; what others stored in it comes first."""
    verb, theirs = moment
    other = another()
    other("cache.set('k', 'dead')")
    cache.invalidate_namespace()

    def bump():
        other("cache.invalidate_namespace()")
        if theirs:
            other("cache.set('k', 'theirs')")

    bumped = overtake(monkeypatch, cache._cache, [verb], bump)
    assert get_or_set(cache) == (theirs or "mine")
    assert bumped
    left = theirs or ("mine" if verb == "get" else None)
    assert cache.get("k") == other("cache.get('k')") == left


# 12. A worker that has been at work for long sees what others bump.

#: Where it acts; each has a backend of its own that knows a number.
PLACES = {
    "another thread": "THREAD.submit(lambda: {}).result()",
    "a task": "asyncio.run(asyncio.to_thread(lambda: {}))",
    "a child": "in_a_fork(lambda: {})",
    "its main thread": "{}",  # last, because the threads share what it sees
}


def everywhere(worker) -> list:
    """Return what the worker reads in each place."""
    return [worker(place.format("cache.get('k')")) for place in PLACES.values()]


@pytest.mark.parametrize("who", ["another process", *PLACES])
def test_a_long_lived_worker_sees_a_bump_at_once(cache, another, who):
    worker = another()
    worker("globals().update(THREAD=ThreadPoolExecutor(1))")
    for number in range(2):
        cache.set("k", number)
        assert everywhere(worker) == [number] * 4
        if who in PLACES:
            worker(PLACES[who].format("cache.invalidate_namespace()"))
        else:
            cache.invalidate_namespace()
        assert cache.get("k") is None
        assert everywhere(worker) == [None] * 4


# 13. A client answers without a server: pymemcache `None`, `False` and nothing.


def is_nothing(found) -> bool:
    return not found or str(found).startswith("raises ")


#: Acts that must not be said to be done.
NAMESPACE_ACTS = [
    lambda cache: cache.invalidate_namespace(),
    lambda cache: asyncio.run(cache.ainvalidate_namespace()),
    lambda cache: cache.clear(),
    lambda cache: cache._cache.flush_all(),
    lambda cache: cache.generation,
    lambda cache: cache.pinned_generation().__enter__(),
]


@pytest.mark.parametrize(
    ("client", "options"),
    [
        ("pymemcache", {"retry_timeout": 60}),
        ("pymemcache", {"retry_timeout": 60, "use_pooling": True}),
        ("pymemcache", {"retry_timeout": 60, "ignore_exc": True}),
        ("pymemcache", {"retry_timeout": 0, "ignore_exc": True}),
        ("pylibmc", {"behaviors": {"retry_timeout": 60}}),
        ("pylibmc", {"behaviors": {"retry_timeout": 60}, "binary": True}),
    ],
    indirect=["client"],
)
@pytest.mark.parametrize("act", NAMESPACE_ACTS)
def test_an_answer_without_a_server_is_no_generation_and_no_success(
    build, wire, options, act
):
    cache, later = build(wire.location, OPTIONS=options), build(wire.location)
    cache.set("k", "v")
    seen = cache.generation
    wire.cut()
    for _ in range(4):  # its connection breaks, another is refused, and so on
        with pytest.raises(NamespaceUnavailable):
            act(cache)
        assert is_nothing(outcome(lambda: cache.get("k")))
        outcome(lambda: cache.set("k", "ghost"))
    wire.mend()
    assert later.generation == seen
    assert later.get("k") == "v"


# 14. Of several servers, the counter's is away, another takes its keys over, and the
#     first returns.

#: What makes a client move the keys of a server that is away to the next.
MOVING = {
    "pymemcache": {"retry_attempts": 0, "retry_timeout": 0, "dead_timeout": 60},
    "pylibmc": {"behaviors": {"ketama": True, "remove_failed": 1, "retry_timeout": 1}},
}
MANY = [f"k{number}" for number in range(50)]
READ_ALL = f"outcome(lambda: cache.get_many({MANY}))"
FILL_ALL = f"cache.set_many(dict.fromkeys({MANY}, 'v'))"


def test_a_counter_does_not_move_to_another_server(strung, another, client):
    """While it is away nothing is served; nor later, of what was written meanwhile."""
    locations = [wire.location for wire in strung]
    knows = another(locations, **MOVING[client])
    knows(FILL_ALL)
    seen = knows("cache.generation")
    far = another(strung[0].server.location)  # reaches the counter all the time
    assert far("cache.generation") == seen
    strung[0].cut()
    processes = [knows, another(locations, **MOVING[client])]
    for process in processes * 3:
        assert is_nothing(process(READ_ALL))
        process("outcome(lambda: cache.set('ghost', 1))")
        bumped = process("outcome(lambda: cache.invalidate_namespace())")
        assert bumped == "raises NamespaceUnavailable"
    assert far("cache.invalidate_namespace()") == seen + 1
    assert is_nothing(knows(READ_ALL))
    strung[0].mend()
    processes.append(another(locations, **MOVING[client]))
    for process in processes:
        process("reconnect()")
        assert process(READ_ALL) == {}
        assert process("cache.get('ghost')") is None
        assert process("cache.generation") == seen + 1
    assert knows(FILL_ALL) == []
    assert [process("cache.get('k7')") for process in processes] == ["v"] * 3


def test_a_server_that_returns_with_an_old_number_brings_nothing_back(
    build, start, another, strangers
):
    """As one that was restored from a copy: who knows a newer number raises it."""
    locations = [start().location for _ in range(3)]
    cache, other = build(locations), another(locations)
    assert cache.set_many(dict.fromkeys(MANY, "v")) == []
    old = other("cache.generation")
    newest = [other("cache.invalidate_namespace()") for _ in range(3)][-1]
    home = cache._cache.counter.server
    strangers(home)._cache.set(cache._cache.counter.key, old)
    assert other(READ_ALL) == {}
    assert cache.get_many(MANY) == {}
    assert another(locations)(READ_ALL) == {}
    assert cache.generation == other("cache.generation") > newest


# 15. A value is too large: Django deletes the key, so that no old value stays.


@pytest.mark.parametrize(
    "store",
    [
        lambda cache, value: cache.set("k", value),
        lambda cache, value: cache.set_many({"k": value}),
    ],
)
@pytest.mark.parametrize(
    ("client", "options"),
    [("pymemcache", {}), ("pymemcache", {"ignore_exc": True}), ("pylibmc", {})],
    indirect=["client"],
)
def test_a_value_too_large_takes_its_own_key_with_it(build, bare, store, options):
    """And no stranger's."""
    cache = build(OPTIONS=options)
    for each in (cache, bare):
        each.set("k", "small")
    outcome(lambda: store(cache, "x" * (2 << 20)))
    assert cache.get("k") is None
    assert bare.get("k") == "small"


# 16. An outage leaves no number behind under which things work later.

GHOSTS = [f"ghost{number}" for number in range(20)]
WRITE_GHOSTS = f"""[
    outcome(act)
    for act in 3 * (
        lambda: cache.set_many(dict.fromkeys({GHOSTS}, 1), None),
        *[lambda k=k: cache.set(k, 1, None) for k in {GHOSTS}],
        lambda: cache.get_or_set('ghost0', 1, None),
        lambda: cache.invalidate_namespace(),
    )
]"""
READ_GHOSTS = f"[outcome(lambda k=k: cache.get(k)) for k in {GHOSTS}]"


@pytest.mark.parametrize(
    ("client", "options"),
    [
        ("pymemcache", {"ignore_exc": True, "retry_timeout": 0}),
        ("pymemcache", {"retry_timeout": 60}),
        ("pylibmc", {}),
    ],
    indirect=["client"],
)
def test_what_is_written_in_an_outage_is_never_read(strung, another, options):
    """Not after it, where somebody bumped meanwhile, and not in the next one.

    Two other servers are there all the time, and would take it.
    """
    locations = [wire.location for wire in strung]
    knows = another(locations, **options)
    far = another(strung[0].server.location)
    for _ in range(2):
        knows("reconnect()")
        knows("cache.set('k', 'v', None)")
        seen = far("cache.generation")
        strung[0].cut()
        writers = [knows, another(locations, **options)]
        for writer in writers:
            assert all(map(is_nothing, writer(READ_GHOSTS)))
            answers = writer(WRITE_GHOSTS)
            assert answers[-1] == "raises NamespaceUnavailable"
            assert all(map(is_nothing, writer(READ_GHOSTS)))
        assert far("cache.generation") == seen
        assert far("cache.invalidate_namespace()") == seen + 1
        strung[0].mend()
        for process in (*writers, another(locations)):
            process("reconnect()")
            assert process("cache.generation") == seen + 1
            assert not any(process(READ_GHOSTS))
            assert process("cache.get('k')") is None


# 17. Each verb, sync and async, is namespaced exactly once.

#: What to call each verb of Django's with, on "k", which is 5, and "l".
DJANGO_CALLS = {
    **dict.fromkeys(("get", "has_key", "delete", "touch", "incr", "decr"), ("k",)),
    **dict.fromkeys(("incr_version", "decr_version"), ("k",)),
    **dict.fromkeys(("get_many", "delete_many"), (["k", "l", "none"],)),
    "add": ("new", 1),
    "set": ("k", 1),
    "set_many": ({"k": 1, "l": 2},),
    "get_or_set": ("new", 1),
}

#: The same for the verbs of the clients.
RAW_CALLS = {
    **dict.fromkeys(("set", "add", "replace", "append", "prepend"), ("k", b"1")),
    **dict.fromkeys(("incr", "decr", "touch"), ("k", 1)),
    **dict.fromkeys(("get", "gets", "delete"), ("k",)),
    "cas": ("k", 1, 1),
    **dict.fromkeys(("set_many", "set_multi", "add_multi"), ({"k": 1, "new": 2},)),
    **dict.fromkeys(
        ("get_many", "get_multi", "gets_many", "gets_multi"), (["k", b"l", "none"],)
    ),
    **dict.fromkeys(("delete_many", "delete_multi", "incr_multi"), (["k", "l"],)),
}


@pytest.fixture
def twins(build, strangers, server, wires, client):
    """Ours, the bare backend, and what makes sure that they sent the same keys."""
    options = {"behaviors": {"cas": True}} if client == "pylibmc" else {}
    our_wire, bare_wire = wires(server, server)
    cache = build(our_wire.location, OPTIONS=options)
    bare = strangers(bare_wire.location, **options)

    def check(prepare, call) -> None:
        answers = []
        for each, wire in ((bare, bare_wire), (cache, our_wire)):
            each.clear()
            prepare(each)
            wire.requests.clear()
            answers.append(outcome(lambda each=each: call(each)))
        assert answers[0] == answers[1]
        prefix = re.compile(f"nsc:{re.escape(cache.namespace)}:[0-9a-z]+:")
        sent = our_wire.sent_keys()
        assert all(prefix.match(key) and key.count("nsc:") == 1 for key in sent)
        bare_keys = sorted(prefix.sub("", key) for key in sent)
        assert bare_keys == sorted(bare_wire.sent_keys()) != []

    return check


@pytest.mark.parametrize("verb", DJANGO_CALLS)
@pytest.mark.parametrize(("version", "awaited"), [(None, False), (7, True)])
def test_a_verb_of_djangos_is_namespaced_once(twins, verb, version, awaited):
    """And answers what it answers on the bare backend, by the caller's keys."""

    async def call_async(cache):
        return await getattr(cache, f"a{verb}")(*DJANGO_CALLS[verb], version=version)

    def call(cache):
        if awaited:
            return asyncio.run(call_async(cache))
        return getattr(cache, verb)(*DJANGO_CALLS[verb], version=version)

    twins(lambda cache: cache.set_many({"k": 5, "l": 6}, version=version), call)


def without_tokens(verb, answer):
    """Cas tokens differ from call to call."""
    if not verb.startswith("gets"):
        return answer
    return {k: v for k, (v, _) in answer.items()} if "_" in verb else answer[0]


@pytest.mark.parametrize("verb", RAW_CALLS)
def test_a_verb_of_the_clients_is_namespaced_once(twins, cache, bare, verb):
    if not hasattr(bare._cache, verb):
        assert not hasattr(cache._cache, verb)
        return

    def call(each):
        return without_tokens(verb, getattr(each._cache, verb)(*RAW_CALLS[verb]))

    twins(lambda each: each._cache.set_multi({"k": 5, "l": 6}), call)


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
def test_keys_that_failed_are_the_callers(build, start):
    servers = {server.location: server for server in (start(), start(), start())}
    cache = build([*servers], OPTIONS={"retry_timeout": 60})
    items = dict.fromkeys(MANY, 1)
    assert cache.generation  # its home is the first server, and stays
    servers[max(servers)].kill()
    for _ in range(2):  # a connection breaks, another is refused
        outcome(lambda: cache.set_many(items, version=7))
    failed = cache.set_many(items, version=7)
    kept = cache.get_many(MANY, version=7)
    assert failed
    assert sorted([*failed, *kept]) == sorted(MANY)


# 18. `clear()` and `_cache.flush_all()` meet strangers' keys.


@EACH_WAY_TO_FORGET
def test_what_forgets_leaves_strangers_keys(build, wire, bare, another, forget):
    """Those of the bare backend, of other namespaces and of workers; and counters."""
    cache, namesake = build(wire.location), build(OPTIONS={"NAMESPACE": "shop"})
    worker = another(worker="gw7")
    for stranger in (namesake, bare):
        stranger.set("k", "theirs")
    worker("cache.set('k', 'theirs')")
    generations = namesake.generation, worker("cache.generation")
    cache.set("k", "mine")
    forget(cache)
    assert cache.get("k") is None
    assert namesake.get("k") == bare.get("k") == worker("cache.get('k')") == "theirs"
    assert (namesake.generation, worker("cache.generation")) == generations
    assert b"flush_all" not in b"".join(request for _, request in wire.requests)


# 19. Keys of 249, 250 and 251 bytes, also where a character has several.


def sized(character: str, size: int, last: str) -> str:
    """Make a key of so many bytes: filled up from the left, with its own last one."""
    text = character * ((size - 1) // len(character.encode())) + last
    return "f" * (size - len(text.encode())) + text


@pytest.mark.parametrize("size", [249, 250, 251])
@pytest.mark.parametrize("character", ["k", "é", "€", "😀"])
def test_keys_around_the_limit(build, wire, bare, character, size):
    """They are taken or refused as on the bare client, and stay apart."""
    cache = build(wire.location)
    one, other = sized(character, size, "a"), sized(character, size, "b").encode()
    for key in (one, other):
        stored = outcome(lambda key=key: cache._cache.set(key, key[-1:]))
        assert stored == outcome(lambda key=key: bare._cache.set(key, key[-1:]))
        assert (stored is True) is (size <= 250)
    if size <= 250:
        found = cache._cache.get_multi([one, other])
        assert found == bare._cache.get_multi([one, other])
        assert found == {one: "a", other: b"b"}
        assert cache._cache.delete(one) is True
        assert cache._cache.get_multi([one, other]) == {other: b"b"}
    sent = wire.sent_keys()
    assert all(len(key.encode()) <= 250 for key in sent)
    assert bool(sent) is (size <= 250)


def test_a_digest_never_meets_a_literal_key(build, wire):
    """Not even a key that is spelt as the server sees the long one."""
    cache, long = build(wire.location), "k" * 250
    cache._cache.set(long, "long")
    (digested,) = wire.sent_keys()
    literals = [digested[start:] for start in range(len(digested))]
    assert cache._cache.get_multi(literals) == {}
    assert not cache._cache.set_multi(dict.fromkeys(literals, "literal"))
    assert cache._cache.get(long) == "long"


# 20. What Django and Python do to a cache: swap it, close it, copy it, ask it.


@pytest.fixture
def site(backend, server):
    """The settings of a site with one namespaced alias."""
    alias = namespaced_alias(backend, server.location, {})
    with override_settings(CACHES={"default": alias}):
        yield alias
        caches["default"].close()


def test_a_cache_that_settings_put_in_its_place_is_another(site):
    default_cache.set("k", 1)
    elsewhere = {**site, "OPTIONS": {**site["OPTIONS"], "NAMESPACE": "elsewhere"}}
    with override_settings(CACHES={"default": elsewhere}):
        assert default_cache.get("k") is None
        default_cache.clear()
        default_cache.close()
    assert default_cache.get("k") == 1


@pytest.mark.usefixtures("site")
def test_a_cache_that_was_closed_goes_on():
    seen = default_cache.generation
    for close in (
        default_cache.close,
        default_cache._cache.disconnect_all,
        caches.close_all,
        lambda: request_finished.send(sender=None),
    ):
        default_cache.set("k", 1)
        close()
        assert default_cache.get("k") == 1
        close()
        seen += 1
        assert invalidate_namespaces() == {"default": seen}
        assert default_cache.get("k") is None


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))],
)
def test_a_copy_has_its_own_connection_and_lacks_what_is_missing(cache, duplicate):
    cache.set("k", 1)
    other = duplicate(cache)
    assert type(other) is NamespacedCache
    assert other._cache.wrapped is not cache._cache.wrapped
    assert other.get("k") == 1
    assert other.invalidate_namespace() == cache.generation
    assert cache.get("k") is None
    other.close()
    for each in (other, other._cache, other.wrapped, object.__new__(NamespacedCache)):
        assert not hasattr(each, "nope")


# 21. Two workers have equal primary keys, on one memcached, and one bumps in a loop.

#: How a process becomes a worker of a test runner.
WORKERS_OF = {
    "pytest-xdist": "os.environ.update(PYTEST_XDIST_WORKER='gw{}')",
    "Django's": "setattr(runner, '_worker_id', {})",
}


@pytest.mark.parametrize("become_worker", WORKERS_OF.values(), ids=WORKERS_OF)
def test_a_worker_that_bumps_in_a_loop_takes_nothing_from_another(
    another, become_worker
):
    bumps, works = another(), another()
    for number, worker in enumerate((bumps, works), 1):
        worker(become_worker.format(number))
    objects = {f"pk:{number}": number for number in range(50)}
    for _ in range(10):
        bumps.begin(
            "[cache.set('pk:1', 'theirs') or cache.invalidate_namespace()"
            " for _ in range(50)]"
        )
        assert works(f"cache.set_many({objects})") == []
        assert {key: works(f"cache.get({key!r})") for key in objects} == objects
        bumps.end()
        assert works(f"cache.get_many({[*objects]})") == objects


A_RUN = """
import os, sys
os.getpid = lambda: 4242
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache
cache = NamespacedCache(sys.argv[2], {"OPTIONS": {"WRAPPED_BACKEND": sys.argv[1]}})
print(cache.namespace, cache.get("pk:1"))
cache.set("pk:1", "stale", None)
"""


def test_two_runs_with_one_process_id_never_meet(backend, server, monkeypatch):
    """As in two containers, or after the numbers have come round."""
    monkeypatch.delenv("NAMESPACED_CACHE_RUN")
    identity.begin_epoch()
    command = [sys.executable, "-c", A_RUN, backend, server.location]
    runs = [
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT).stdout
        for _ in range(2)
    ]
    assert [run.split()[1] for run in runs] == [b"None", b"None"]
    assert runs[0] != runs[1]


# 22. A parent uses the cache, then forks.


def test_a_child_and_its_parent_never_share_a_connection(wire, another):
    """Though both are at work at once."""
    parent = another(wire.location)
    parent("cache.set('before', 'value')")
    (own,) = {port for port, _ in wire.requests}
    work = "[cache.set({0!r}, n) or cache.get({0!r}) for n in range(100)]".format
    child, parents = work("childs"), work("parents")
    answers = parent(f"in_a_fork(lambda: {child}, beside=lambda: {parents})")
    assert answers == parent(parents) == [*range(100)]
    ports = {
        who: {port for port, request in wire.requests if b":1:%s" % who in request}
        for who in (b"parents", b"childs")
    }
    assert ports[b"parents"] == {own}
    assert len(ports[b"childs"]) == 1
    assert own not in ports[b"childs"]


# 23. The namespace is bumped very often: what that costs the neighbours.


def stat(server, name: str) -> int:
    return int(re.search(f"STAT {name} ([0-9]+)".encode(), ask(server, b"stats"))[1])


def test_many_bumps_cost_the_neighbours_nothing(build, start, strangers):
    """No eviction, no miss, and one item more on the server: the counter."""
    server = start("-m", "64")
    cache, neighbour = build(server.location), strangers(server.location)
    items = {f"k{number}": "v" * 1000 for number in range(5000)}
    assert neighbour.set_many(items, timeout=None) == []
    before = stat(server, "curr_items")
    first = cache.generation
    for _ in range(BUMPS):
        cache.invalidate_namespace()
    assert cache.generation == first + BUMPS
    assert neighbour.get_many(items) == items
    assert stat(server, "curr_items") == before + 1
    assert stat(server, "evictions") == 0
