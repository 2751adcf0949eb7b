"""The counter on a real memcached, through both clients."""

from __future__ import annotations

import logging
import reprlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pylibmc
import pytest

from namespaced_cache import NamespaceError, NamespaceUnavailable
from namespaced_cache.adapters import adapter
from namespaced_cache.adapters.counter_read import CounterRead
from namespaced_cache.core import clock as clock_module
from namespaced_cache.core import registry
from namespaced_cache.core.counter import Counter
from tests.support.caches import BACKENDS, our_cache
from tests.support.servers import answer_of
from tests.support.uses import reach


@pytest.fixture
def counter(cache):
    """The counter of `cache`."""
    return cache._cache.counter


@pytest.fixture
def raw(server):
    """A function that returns the answer of `server` to a line of text."""
    return partial(answer_of, server)


def answered(answer, floor=0):
    """Return a counter read that found this value."""
    read = CounterRead(floor, 0, reached=True)
    read.value = answer
    return read


def another_process(counter) -> Counter:
    """Return the same counter as in a process that has not read it yet."""
    return Counter(counter.namespace, counter.server)


def before_next(monkeypatch, client, command, act):
    """Call `act` once, just before the client's next `command`."""
    todo = [act]
    real_command = getattr(client, command)

    def raced(*args):
        if todo:
            todo.pop()()
        return real_command(*args)

    monkeypatch.setattr(client, command, raced)


# Seeding.


def test_the_seed_has_19_digits_on_the_server(cache, counter, raw):
    seeded = cache.generation
    assert raw(f"mg {counter.key} v").split() == ["VA", "19", str(seeded)]


@pytest.mark.parametrize("now", [0, 7, 10**9 - 1])
def test_a_clock_that_was_never_set_also_seeds_a_generation(cache, monkeypatch, now):
    monkeypatch.setattr(clock_module, "wall", lambda: now)
    seeded = cache.generation
    assert 10**18 <= seeded < 10**18 + 2**31
    cache.set("k", "v")
    assert cache.get("k") == "v"
    assert cache.invalidate_namespace() == seeded + 1
    assert cache.get("k") is None


def test_seeding_takes_three_round_trips_and_reading_one(build, proxy):
    cache = build(proxy.location)
    assert proxy.during(lambda: cache.generation) == 3
    assert proxy.during(lambda: cache.generation) == 1


def test_two_processes_that_seed_agree_on_one_number(real, counter, monkeypatch):
    """The other process seeds after the first has found no counter."""
    other = another_process(counter)
    numbers = []
    before_next(
        monkeypatch, real, "add", lambda: numbers.append(other.read(reach(real)))
    )
    numbers.append(counter.read(reach(real)))
    assert len(numbers) == 2
    assert numbers[0] == numbers[1] == other.latest == counter.latest


@pytest.mark.parametrize("method", ["read", "invalidate"])
def test_an_invalidation_that_is_second_to_seed_returns_another_number(
    real, counter, monkeypatch, method
):
    """Two invalidations that find the counter lost do not return the same number."""
    other = another_process(counter)
    numbers = []
    before_next(
        monkeypatch,
        real,
        "add",
        lambda: numbers.append(getattr(other, method)(reach(real))),
    )
    numbers.append(counter.invalidate(reach(real)))
    assert numbers == [other.latest, other.latest + 1]
    assert other.read(reach(real)) == counter.latest == numbers[1]


def test_seeding_is_logged(cache, caplog):
    caplog.set_level(logging.INFO, "namespaced_cache")
    assert cache.generation
    text = f"Namespace {cache.namespace!r}: counter seeded"
    assert caplog.record_tuples == [("namespaced_cache", logging.INFO, text)]


@pytest.mark.parametrize("how", ["seeded", "invalidated", "lost", "repaired"])
def test_the_counter_does_not_expire(build, raw, how):
    """The counter ignores the alias's TIMEOUT."""
    cache = build(TIMEOUT=1)
    counter, real = cache._cache.counter, cache._cache.wrapped
    seeded = cache.generation
    if how == "invalidated":
        cache.invalidate_namespace()
    if how == "lost":
        real.delete(counter.key)
    if how == "repaired":
        real.set(counter.key, seeded - 1)
    assert cache.generation >= seeded
    assert raw(f"mg {counter.key} t") == "HD t-1"


# Invalidation.


def test_an_invalidation_is_the_next_number_in_one_round_trip(build, proxy):
    cache = build(proxy.location)
    before = cache.generation
    invalidated = []
    trips = proxy.during(lambda: invalidated.append(cache.invalidate_namespace()))
    assert invalidated == [before + 1]
    assert trips == 1
    assert cache.generation == before + 1


def test_an_invalidation_counts_from_the_servers_number(real, counter):
    """It does not count from the latest generation of this process."""
    other = another_process(counter)
    other.read(reach(real))
    for _ in range(5):
        counter.invalidate(reach(real))
    assert other.invalidate(reach(real)) == counter.latest + 1


def test_no_two_invalidations_return_one_number(build):
    """Eight threads have a client each, and share one counter."""
    threads, invalidations = 8, 50
    caches = [build() for _ in range(threads)]
    before = caches[0].generation
    together = threading.Barrier(threads)

    def invalidate(cache):
        together.wait()
        return [cache.invalidate_namespace() for _ in range(invalidations)]

    with ThreadPoolExecutor(threads) as pool:
        numbers = list(pool.map(invalidate, caches))
    assert all(mine == sorted(mine) for mine in numbers)
    flat = sorted(number for mine in numbers for number in mine)
    assert flat == list(range(before + 1, before + 1 + threads * invalidations))
    assert caches[0]._cache.counter.latest == flat[-1]


# The latest generation.


@pytest.mark.parametrize(("method", "asks"), [("read", "get"), ("invalidate", "incr")])
def test_an_answer_is_valid_though_another_thread_invalidated_meanwhile(
    real, counter, monkeypatch, method, asks
):
    """The number is old when it arrives, but the server held it during the read."""
    counter.read(reach(real))
    ask = getattr(real, asks)
    answers = []

    def answer_late(*args):
        answer = ask(*args)
        if not answers:
            answers.append(answer)
            counter.invalidate(reach(real))
        return answer

    monkeypatch.setattr(real, asks, answer_late)
    assert getattr(counter, method)(reach(real)) == answers[0]
    assert real.get(counter.key) == counter.latest == answers[0] + 1


def test_the_latest_generation_does_not_go_back_between_threads():
    """The other thread reads a higher number while the first is about to write."""

    class Slow(Counter):
        reads = 0

        @property
        def latest(self):
            number = vars(self)["latest"]
            self.reads += 1
            if self.reads == 2:
                other.start()
                other.join(timeout=0.2)  # it waits for our lock, so this times out
            return number

        @latest.setter
        def latest(self, number):
            vars(self)["latest"] = number

    slow = Slow("shop", "127.0.0.1:1")
    other = threading.Thread(target=slow._note_latest, args=(102, 0))
    slow._note_latest(101, 0)
    other.join()
    assert slow.latest == 102


def test_threads_and_aliases_share_one_counter(build, server):
    """They may use either client."""
    shared = {"NAMESPACE": "shop"}
    counters = [build(OPTIONS=shared)._cache.counter]
    thread = threading.Thread(
        target=lambda: counters.append(build(OPTIONS=shared)._cache.counter)
    )
    thread.start()
    thread.join()
    counters += [
        our_cache(backend, server.location, OPTIONS=shared)._cache.counter
        for backend in BACKENDS.values()
    ]
    assert [counter is counters[0] for counter in counters] == [True] * 4


def test_each_place_has_its_own_counter():
    def found(place):
        return registry.counter("shop", "127.0.0.1:1", place)

    assert found("here") is found("here")
    assert found("here") is not found("there")


def test_other_namespaces_and_servers_have_their_own_counters(build):
    places = [
        build(location, OPTIONS={"NAMESPACE": name})._cache.counter
        for location in ("127.0.0.1:1", "127.0.0.1:2")
        for name in ("shop", "shop-b")
    ]
    assert len({id(counter) for counter in places}) == 4


def test_servers_in_any_order_have_one_counter_server(build):
    """The counter server is the first by name.

    Aliases that share it share the counter.
    """
    shared = {"NAMESPACE": "shop"}
    counters = {
        build(location, OPTIONS=shared)._cache.counter
        for location in (
            "127.0.0.1:1",
            "127.0.0.1:1;127.0.0.1:2",
            ["127.0.0.1:2", "127.0.0.1:1"],
        )
    }
    assert [counter.server for counter in counters] == ["127.0.0.1:1"]


def test_namespaces_do_not_share_the_latest_generation(build):
    used, unused = build(OPTIONS={"NAMESPACE": "used"}), build()
    assert used.generation == used._cache.counter.latest
    assert unused._cache.counter.latest == 0


def test_an_alias_needs_no_counter_read_after_another_alias_invalidates(build):
    one, other = build(), build()
    assert one.invalidate_namespace() == other._cache.counter.latest


def test_a_fork_while_another_thread_holds_the_lock_leaves_no_deadlock():
    code = (
        "import os, signal, threading\n"
        "from namespaced_cache.core import counter, registry\n"
        "held, done = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with counter._lock, registry._lock:\n"
        "        held.set()\n"
        "        done.wait()\n"
        "thread = threading.Thread(target=hold)\n"
        "thread.start()\n"
        "held.wait()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    signal.alarm(10)\n"
        "    registry.counter('shop', '127.0.0.1:1', '')._note_latest(1, 0)\n"
        "    raise SystemExit\n"
        "print(os.waitpid(child, 0)[1])\n"
        "done.set()\n"
        "thread.join()\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    parent = subprocess.run(command, check=True, capture_output=True, text=True)
    assert parent.stdout == "0\n"


# A counter that is lost or went back.


@pytest.mark.parametrize("method", ["read", "invalidate"])
@pytest.mark.parametrize("clock", ["right", "behind"])
def test_a_lost_counter_begins_above_the_latest_generation(
    real, counter, monkeypatch, method, clock
):
    counter.read(reach(real))
    seen = counter.invalidate(reach(real))
    real.delete(counter.key)
    if clock == "behind":
        monkeypatch.setattr(clock_module, "wall", lambda: 7)
    number = getattr(counter, method)(reach(real))
    assert number > seen
    assert number == counter.latest == real.get(counter.key)


def test_a_lost_counter_brings_no_item_back(cache, real, counter):
    cache.set("k", "v")
    real.delete(counter.key)
    assert cache.get("k") is None


@pytest.mark.parametrize(("method", "added"), [("read", 0), ("invalidate", 1)])
def test_a_counter_that_went_back_is_repaired(real, counter, caplog, method, added):
    """A server that was down may return with an old number."""
    seen = counter.read(reach(real))
    real.set(counter.key, seen - 5)
    number = getattr(counter, method)(reach(real))
    assert number > seen
    assert number == counter.latest == real.get(counter.key)
    text = (
        f"Namespace {counter.namespace!r}: the counter went back from {seen + added} "
        f"to {seen - 5 + added}: repaired"
    )
    assert caplog.record_tuples == [("namespaced_cache", logging.WARNING, text)]


def test_a_repair_accepts_the_number_that_another_process_made(
    real, counter, monkeypatch
):
    other = another_process(counter)
    seen = counter.read(reach(real))
    real.set(counter.key, seen - 5)
    before_next(monkeypatch, real, "get", lambda: other.invalidate(reach(real)))
    number = counter._settle(reach(real), answered(seen - 5, floor=seen))
    assert number == other.latest > seen


def test_a_counter_that_is_lost_again_is_seeded_again(real, counter, monkeypatch):
    """The answer to the first seed does not count as an outage."""
    before_next(monkeypatch, real, "get", lambda: None)
    assert counter.read(reach(real))
    real.delete(counter.key)
    asked = []
    get = real.get

    def lost_at_first(key, default):
        asked.append(key)
        if len(asked) == 2:
            real.delete(key)
        return get(key, default)

    monkeypatch.setattr(real, "get", lost_at_first)
    assert counter.read(reach(real)) == get(counter.key)
    assert len(asked) == 3


def test_a_counter_that_another_process_repaired_is_not_repaired_again(real, counter):
    """A second repair would lose what that process has stored meanwhile."""
    seen = counter.read(reach(real))
    repaired = seen + 10**9
    real.set(counter.key, repaired)
    assert counter._settle(reach(real), answered(seen - 5, floor=seen)) == repaired
    assert real.get(counter.key) == repaired


def test_a_counter_that_does_not_keep_its_value_is_unavailable(
    cache, real, counter, monkeypatch
):
    latest = cache.generation
    real.set(counter.key, latest - 1)
    monkeypatch.setattr(adapter.adapter_of(real), "compare_and_swap", lambda *_: None)
    with pytest.raises(NamespaceUnavailable) as caught:
        _ = cache.generation
    assert str(caught.value) == (
        f"Namespace {cache.namespace!r} on {counter.server}: its counter does not "
        f"keep the value that it is given."
    )


def test_an_invalidation_fails_if_the_counter_does_not_keep_its_value(
    cache, counter, monkeypatch
):
    """Each time, the counter is lost and another process seeds it first."""
    real, other = cache._cache.wrapped, another_process(counter)
    incr, add = real.incr, real.add

    def lost(*args):
        real.delete(counter.key)
        return incr(*args)

    def second(*args):
        add(counter.key, other._new_seed(0))
        return add(*args)

    monkeypatch.setattr(real, "incr", lost)
    monkeypatch.setattr(real, "add", second)
    real.set(counter.key, 1)
    with pytest.raises(
        NamespaceUnavailable, match="does not keep the value that it is given"
    ):
        cache.invalidate_namespace()


def test_an_invalidation_that_is_second_to_repair_returns_another_number(
    real, counter, monkeypatch
):
    """Two invalidations that find the counter too low do not return the same number."""
    seen = counter.read(reach(real))
    other = another_process(counter)
    assert other.read(reach(real)) == seen
    real.set(counter.key, seen - 5)
    numbers = []

    def overtaken():
        numbers.append(other.invalidate(reach(real)))

    before_next(monkeypatch, adapter.adapter_of(real), "compare_and_swap", overtaken)
    numbers.append(counter.invalidate(reach(real)))
    assert seen < numbers[0] < numbers[1] == real.get(counter.key)


# A counter that holds rubbish.

RUBBISH = [
    "text",
    b"text",
    "",
    b"",
    [1],
    "-5",
    -5,
    1.5,
    b"\xff",
    2**63,
    2**64 - 1,
    "²",
    "9" * 5000,
    1,
]


def unfit(counter, fault) -> str:
    return (
        f"The counter of namespace {counter.namespace!r}, the key {counter.key!r} on "
        f"{counter.server}, {fault}. If the client's serializer is not the cause, "
        f"delete that key, and the namespace starts anew."
    )


def refused(counter, holds) -> str:
    return unfit(
        counter,
        f"holds {reprlib.repr(holds)}: it takes a whole number of 19 digits, up to "
        f"9223372036854775807",
    )


@pytest.mark.parametrize("holds", [*RUBBISH, 0, 10**18 - 1], ids=repr)
def test_rubbish_serves_no_item_of_any_generation(cache, real, counter, holds):
    cache.set("k", "v")
    real.set(counter.key, holds)
    for act in (
        lambda: cache.generation,
        lambda: cache.get("k"),
        lambda: cache.get_many(["k"]),
        lambda: cache.set("k", "w"),
        lambda: cache.add("k", "w"),
        lambda: cache.delete("k"),
        lambda: cache._cache.get("k"),
    ):
        with pytest.raises(NamespaceError) as caught:
            act()
        assert caught.type is NamespaceError
        assert str(caught.value) == refused(counter, holds)
    real.delete(counter.key)
    assert cache.get("k") is None


@pytest.mark.parametrize("holds", RUBBISH, ids=repr)
def test_rubbish_is_not_a_generation_after_an_increment(cache, real, counter, holds):
    """memcached increments a number that is too large, and wraps around."""
    assert cache.generation
    real.set(counter.key, holds)
    with pytest.raises(NamespaceError) as caught:
        cache.invalidate_namespace()
    assert caught.type is NamespaceError
    if holds in (1, 2**63, 2**64 - 1):
        holds = (holds + 1) % 2**64
    assert str(caught.value) == refused(counter, holds)


#: Each client's error for a value with these flags.
UNDECODABLE = [
    ("pymemcache", 2, "invalid literal for int() with base 10: b'xyz'"),
    ("pylibmc", 1, "invalid load key, 'x'."),
    ("pylibmc", 2, "invalid literal for int() with base 10: 'xyz'"),
    ("pylibmc", 3, "unknown memcached key flags 3"),
    ("pylibmc", 8, "Failed to decompress value: inflate"),
]


@pytest.mark.parametrize(("client", "flags", "says"), UNDECODABLE, indirect=["client"])
@pytest.mark.parametrize("warm", [True, False])
def test_a_counter_that_cannot_be_decoded_is_not_an_outage(
    cache, raw, flags, says, warm
):
    """Another client library may have written it. The error names the key to delete."""
    counter = cache._cache.counter
    if warm:
        cache.set("k", "v")
    assert raw(f"set {counter.key} {flags} 0 3\r\nxyz") == "STORED"
    for act in (
        lambda: cache.generation,
        lambda: cache.get("k"),
        lambda: cache.get_many(["k"]),
        lambda: cache.set("k", "w"),
        lambda: cache.delete("k"),
        cache.invalidate_namespace,
        cache.pinned_generation().__enter__,
    ):
        with pytest.raises(NamespaceError) as caught:
            act()
        assert caught.type is NamespaceError
        fault = f"cannot be decoded ({says})"
        assert str(caught.value) == unfit(counter, fault)
    assert raw(f"delete {counter.key}") == "DELETED"
    assert cache.get("k") is None


@pytest.mark.parametrize(
    ("client", "flags"), [("pymemcache", 2), ("pylibmc", 2)], indirect=["client"]
)
def test_an_item_that_cannot_be_decoded_raises_the_clients_own_error(
    cache, bare, raw, flags
):
    """The bare client raises the same error. The counter is fine."""
    wire_key = (
        cache._cache._binder.binding()
        .keys(cache.generation)
        .wire_key(cache.make_key("k"))
    )
    for key in (wire_key, bare.make_key("k")):
        assert raw(f"set {key} {flags} 0 3\r\nxyz") == "STORED"
    with pytest.raises(ValueError, match="invalid literal for int") as theirs:
        bare.get("k")
    with pytest.raises(ValueError, match="invalid literal for int") as ours:
        cache.get("k")
    assert str(ours.value) == str(theirs.value)


def test_a_counter_that_holds_none_is_not_missing(cache, real, counter):
    """It is not seeded. pymemcache makes None of a broken pickle."""
    cache.set("k", "v")
    real.set(counter.key, None)
    for act in (
        lambda: cache.generation,
        lambda: cache.get("k"),
        lambda: cache.set("k", "w"),
        cache.invalidate_namespace,
    ):
        with pytest.raises(NamespaceError) as caught:
            act()
        assert caught.type is NamespaceError
        assert str(caught.value) == refused(counter, None)
    assert real.get(counter.key, "missing") is None


class Quoting:
    """A project's own serializer, which writes numbers in quotes."""

    def serialize(self, *key_and_value):
        return b'"%d"' % key_and_value[-1], 0

    def deserialize(self, *key_value_and_flags):
        return int(key_value_and_flags[-2].strip(b'"'))


def test_an_error_says_that_the_serializer_spoils_the_counter(cache, client):
    """The counter can be read but not incremented."""
    if client == "pymemcache":
        cache._options["serde"] = Quoting()
    else:
        cache._class = type("QuotingClient", (Quoting, pylibmc.Client), {})
    assert cache.generation
    with pytest.raises(NamespaceError) as caught:
        cache.invalidate_namespace()
    assert caught.type is NamespaceError
    cause = caught.value.__cause__
    assert isinstance(cause, adapter.adapter_of(cache._cache.wrapped).not_a_number)
    fault = f"cannot be incremented ({cause})"
    assert str(caught.value) == unfit(cache._cache.counter, fault)


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_client_that_waits_for_no_reply_returns_the_generation(build):
    """libmemcached answers `incr` with 2^64 - 1, whatever the server did."""
    cache = build(OPTIONS={"behaviors": {"_noreply": True}})
    before = cache.generation
    cache.set("k", "v")
    assert cache.invalidate_namespace() == cache.generation == before + 1
    assert cache.get("k") is None


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_client_that_waits_for_no_reply_seeds_a_lost_counter(build, raw):
    cache = build(OPTIONS={"behaviors": {"_noreply": True}})
    before = cache.generation
    assert raw(f"delete {cache._cache.counter.key}") == "DELETED"
    assert cache.invalidate_namespace() == cache.generation > before


@pytest.mark.parametrize("answer", [True, False])
def test_a_bool_is_not_a_generation(real, counter, answer):
    with pytest.raises(NamespaceError) as caught:
        counter._settle(reach(real), answered(answer))
    assert str(caught.value) == refused(counter, answer)


@pytest.mark.parametrize("answer", [10**18, f"{10**18}", b"%d" % 10**18, 2**63 - 1])
def test_a_whole_number_of_any_type_is_a_generation(real, counter, answer):
    """Without a serializer, pymemcache returns bytes."""
    assert counter._settle(reach(real), answered(answer)) == int(answer)


def test_an_invalidation_before_the_server_is_reached_takes_effect_later(
    build, monkeypatch
):
    """An earlier run has stored items in the namespace."""
    earlier = build(OPTIONS={"NAMESPACE": "shop"})
    earlier.set("k", "an earlier run's")
    monkeypatch.setattr(registry, "_counters", {})  # as in another process
    later = build(OPTIONS={"NAMESPACE": "shop", "MAX_STALENESS": 60})
    counter = later._cache.counter
    assert not counter.was_reached
    counter.invalidate_unreached()
    assert later.get("k") is None
    assert counter.was_reached
    assert earlier.get("k") is None
