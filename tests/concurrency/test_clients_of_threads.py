"""Backends that share or replace clients among threads, on one server and on three."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache

from namespaced_cache import events
from namespaced_cache.core.counter import Counter
from tests.support.backends import LocalPyLibMCCache, LocalPyMemcacheCache
from tests.support.caches import our_cache
from tests.support.uses import as_another_process

THREADS, ROUNDS = 8, 20

METHODS = ("get", "set", "incr", "get_many", "set_many", "delete")


class OneForAll:
    """One client for all threads, and a lock around each method."""

    def __init__(self, server, params):
        super().__init__(server, params)
        self.lock = threading.RLock()


class NewEachTime(OneForAll):
    """As the other, with a new client after some methods, as after an error."""

    calls = 0

    def reconnect(self):
        self._cache.disconnect_all()
        self._cache = self._class(self.client_servers, **self._options)


def _locked(name):
    def method(self, *args, **kwargs):
        with self.lock:
            if isinstance(self, NewEachTime):
                self.calls += 1
                if self.calls % 20 == 0:
                    self.reconnect()
            return getattr(super(OneForAll, self), name)(*args, **kwargs)

    return method


for _name in METHODS:
    setattr(OneForAll, _name, _locked(_name))


class SharedPyMemcacheCache(OneForAll, PyMemcacheCache):
    pass


class SharedPyLibMCCache(OneForAll, PyLibMCCache):
    pass


class RenewedPyMemcacheCache(NewEachTime, PyMemcacheCache):
    pass


class RenewedPyLibMCCache(NewEachTime, PyLibMCCache):
    pass


HERE = f"{__name__}."
LOCAL = "tests.support.backends."

KINDS = {
    "local": (LOCAL + LocalPyMemcacheCache.__name__, {}),
    "local pylibmc": (LOCAL + LocalPyLibMCCache.__name__, {}),
    "pool": (
        "django.core.cache.backends.memcached.PyMemcacheCache",
        {"use_pooling": True, "max_pool_size": 2 * THREADS},
    ),
    "shared": (HERE + SharedPyMemcacheCache.__name__, {}),
    "shared pylibmc": (HERE + SharedPyLibMCCache.__name__, {}),
    "renewed": (HERE + RenewedPyMemcacheCache.__name__, {}),
    "renewed pylibmc": (HERE + RenewedPyLibMCCache.__name__, {}),
}


class Users:
    """Records which threads use each counter client, and any use at one time."""

    def __init__(self, monkeypatch):
        self.users: dict[int, set[int]] = {}
        self.clients: dict[int, object] = {}
        self.at_once: list[object] = []
        self._busy: set[int] = set()
        for name in ("_get", "_incremented", "_seed", "_repair"):
            monkeypatch.setattr(Counter, name, self._watched(getattr(Counter, name)))

    def _watched(self, method):
        def watched(counter, access, *args, **kwargs):
            client = access._find_client()
            key = id(client)
            self.clients[key] = client  # so that no other gets its id
            self.users.setdefault(key, set()).add(threading.get_ident())
            entered = key not in self._busy
            if not entered and method.__name__ == "_get":
                self.at_once.append(client)
            self._busy.add(key)
            try:
                return method(counter, access, *args, **kwargs)
            finally:
                if entered:
                    self._busy.discard(key)

        return watched


@pytest.fixture(params=[1, 3], ids=["one server", "three servers"])
def locations(request, start):
    return [start().location for _ in range(request.param)]


def use(cache, number, together):
    """Read back what this thread wrote, in many ways. Return what was wrong."""
    together.wait(20)
    wrong = []

    def compare(got, expected):
        if got != expected:
            wrong.append((number, got, expected))

    for turn in range(ROUNDS):
        keys = [f"{number}:{turn}:{n}" for n in range(4)]
        cache.set(keys[0], turn)
        compare(cache.get(keys[0]), turn)
        compare(cache.set_many(dict.fromkeys(keys, turn)), [])
        compare(cache.get_many(keys), dict.fromkeys(keys, turn))
        compare(cache.incr(keys[1]), turn + 1)
        compare(cache.delete(keys[2]), expected=True)
        compare(cache.get(keys[2]), None)
    end_thread(cache)
    return wrong


def end_thread(cache):
    """Close the client that the backend itself has made for this thread alone."""
    if hasattr(cache, "_local"):
        cache.close()


@pytest.mark.parametrize(("path", "options"), KINDS.values(), ids=KINDS)
def test_each_thread_reads_what_it_wrote(monkeypatch, locations, path, options):
    users = Users(monkeypatch)
    cache = our_cache(path, locations, OPTIONS=options)
    together = threading.Barrier(THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        wrong = list(
            pool.map(lambda number: use(cache, number, together), range(THREADS))
        )
    assert wrong == [[]] * THREADS
    if len(locations) > 1:
        # The real client of one server is the backend's own, which locks it.
        assert users.users
        assert {len(threads) for threads in users.users.values()} == {1}
        assert users.at_once == []
    cache.close()


@pytest.mark.parametrize(("path", "options"), KINDS.values(), ids=KINDS)
def test_an_invalidation_by_another_process_reaches_all_threads(
    locations, path, options
):
    cache = our_cache(path, locations, OPTIONS={**options})
    other = as_another_process(our_cache(path, locations, OPTIONS={**options}))
    met = threading.Barrier(THREADS + 1)

    def look(number):
        found = []
        for _ in range(5):
            cache.set(f"k{number}", "v")
            met.wait(20)
            met.wait(20)
            found.append(cache.get(f"k{number}"))
            met.wait(20)
        end_thread(cache)
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        found = [pool.submit(look, number) for number in range(THREADS)]
        for _ in range(5):
            met.wait(20)
            other.invalidate_namespace()
            met.wait(20)
            met.wait(20)
        assert [each.result(20) for each in found] == [[None] * 5] * THREADS
    cache.close()
    other.close()


# Events.


@pytest.mark.parametrize("act", ["set", "get", "generation", "invalidate"])
def test_threads_that_use_a_namespace_for_the_first_time_lose_nothing(
    backend, server, act
):
    """At once, so that each finds no counter."""
    acts = {
        "set": lambda cache: cache.set("k", 1),
        "get": lambda cache: cache.get("k"),
        "generation": lambda cache: cache.generation,
        "invalidate": lambda cache: cache.invalidate_namespace(),
    }
    before = events.counts()
    together = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(75):
            options = {"NAMESPACE": f"first-{secrets.token_hex(8)}"}
            made = [
                our_cache(backend, server.location, OPTIONS=options) for _ in range(4)
            ]

            def first(cache):
                together.wait(20)
                acts[act](cache)

            list(pool.map(first, made))
            for cache in made:
                cache.close()
    after = events.counts()
    assert after["seeded"] - before["seeded"] == 75
    assert after["lost"] == before["lost"]
    assert after["repaired"] == before["repaired"]


def test_a_counter_that_is_really_lost_is_reported_once(cache, real):
    cache.set("k", 1)
    before = events.counts()
    real.delete(cache._cache.counter.key)
    cache.set("k", 1)
    cache.set("k", 1)
    assert events.counts()["lost"] == before["lost"] + 1
    assert events.counts()["seeded"] == before["seeded"]
