"""The counter is lost, evicted, seeded by two processes, or spoilt.

The numbers are those of the scenarios in tests/README.md.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
import zlib

import pytest

from namespaced_cache import NamespaceError, NamespaceUnavailable
from namespaced_cache.core import identity
from tests.support.caches import BACKENDS, our_cache
from tests.support.other_processes import FIRST_OPERATIONS, LIMIT
from tests.support.servers import ask
from tests.support.uses import as_another_process, item

# 1. The counter alone is lost.


@pytest.mark.parametrize("first", FIRST_OPERATIONS)
@pytest.mark.parametrize("loser", ["has read the counter", "is new"])
def test_a_lost_counter_brings_no_generation_back(bare, another, loser, first):
    """Later invalidations bring none back either, in any process."""
    knows = another()
    namespace = knows("cache.namespace")
    seen = []
    for number in range(4):
        seen.append(knows("cache.invalidate_namespace()"))
        knows(f"cache.set('k', {number}, None)")
    items = [item(namespace, generation) for generation in seen]
    assert bare._cache.delete(f"nsc:{namespace}")
    loses = another() if loser == "is new" else knows
    loses(first)
    readers = [loses, knows, another()]
    for _ in range(6):
        assert [reader("cache.get('k')") for reader in readers] == [None] * 3
        seen.append(loses("cache.invalidate_namespace()"))
    assert seen == sorted(set(seen))
    assert len(bare._cache.get_multi(items)) == 4


# 2. Memory is short: the small counter is evicted before the large values.


def crowd_out(server) -> None:
    """Store and get many items of the counter's size, like a busy neighbour."""
    with (
        socket.create_connection(("127.0.0.1", server.port), LIMIT) as connection,
        connection.makefile("rb") as answers,
    ):
        for start in range(0, 50_000, 100):
            names = [b"of-a-neighbour-%09d" % (start + one) for one in range(100)]
            stores = [b"set %s 0 0 19 noreply\r\n%019d\r\n" % (n, 0) for n in names]
            # memcached keeps items longer that were read twice, like a counter in use.
            fetch = b"get %s\r\n" % b" ".join(names)
            connection.sendall(b"".join([*stores, fetch, fetch]))
            for _ in range(2):
                while answers.readline() != b"END\r\n":
                    pass


def test_an_evicted_counter_brings_no_larger_value_back(start, another, strangers):
    # The LRU maintainer works with a delay. With it, there may sometimes be no room for
    # a small item.
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


# 3. The server restarts, or another user flushes it, while several processes have the
# old number.


@pytest.mark.parametrize("loss", ["restart", "flush_all"])
def test_processes_agree_again_after_all_items_are_lost(
    start, another, strangers, loss
):
    server = start()
    processes = [another(server.location) for _ in range(3)]
    reads, writes, invalidates = processes
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
    assert invalidates("cache.invalidate_namespace()") > seen
    assert [process("cache.get('k')") for process in processes] == [None] * 4
    assert len({process("cache.generation") for process in processes}) == 1


# 4. The counter expires after the TIMEOUT of its alias, before its items do.


def test_the_counter_outlives_the_timeout_of_its_alias(server):
    """This holds for seeded and repaired counters. One test waits for both clients."""
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


# 5. Two processes seed at the same time.


@pytest.mark.parametrize(
    "acts",
    [
        ("cache.set('one', 1)", "cache.set('other', 1)"),
        ("cache.generation", "cache.invalidate_namespace()"),
    ],
)
def test_two_processes_that_seed_at_once_agree_on_one_number(wire, another, acts):
    """Neither seeds before both have found that the counter is missing."""
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


# 6. Two namespaces have equal numbers and similar names.

NAMES = ["a", "a-b", "a_b", "ab", "a1", "A", "gw1", "a-gw1", "nsc"]
WORKERS = ["", "gw1", "b"]


def test_equal_seeds_and_similar_names_never_cross(build, start, monkeypatch):
    """Raw keys that look like wire keys of another namespace do not help."""
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


# 7. The counter's key holds rubbish.

WAYS = {
    "pymemcache": {},
    "pymemcache plain": {"serde": None},
    "pylibmc": {"behaviors": {"cas": True}},
    "pylibmc binary": {"binary": True, "behaviors": {"cas": True}},
}

#: With these flags, clients read a text or bytes, a pickle, a number, a compressed
#: value, and an unknown type.
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


#: Operations of each kind. None may return the stored values.
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
    """Return the answer of `act`, or its NamespaceError."""
    try:
        return act(cache)
    except NamespaceError as error:
        return error


@pytest.mark.parametrize(
    ("client", "way"), [(way.split()[0], way) for way in WAYS], indirect=["client"]
)
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("data", RUBBISH)
def test_rubbish_serves_no_item_and_the_error_names_the_key(
    build, server, way, flags, data
):
    """It makes no difference whether a process has read the counter before."""
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
            # With the binary protocol, libmemcached reports an outage if `incr` fails.
            if "binary" not in way or not isinstance(answer, NamespaceUnavailable):
                named = f"the key {key!r} on {server.location}, " in str(answer)
                assert named is isinstance(answer, NamespaceError)
            assert "secret" not in repr(answer)
            assert type(answer) is not int or 10**18 <= answer < 2**63
    assert ask(server, f"delete {key}".encode()) == b"DELETED\r\n"
    assert later.get("k") is None
    later.set("k", "new")
    assert later.get("k") in ("new", b"new")
