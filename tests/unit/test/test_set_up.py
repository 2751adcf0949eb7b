"""What set-up has cached: items are stored again as memcached held them."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import secrets
import threading
import time
from contextlib import closing, contextmanager

import pytest
from django.core.cache.backends.memcached import PyMemcacheCache
from pymemcache import Client, HashClient

from namespaced_cache import NamespaceUnavailable
from namespaced_cache.adapters import raw_items
from namespaced_cache.adapters.raw_items import RawItem
from namespaced_cache.admin.server import Server
from namespaced_cache.core.operation import Operation
from namespaced_cache.keys import parse
from namespaced_cache.test import set_up
from namespaced_cache.test.set_up import SetUps
from tests.support.caches import BACKENDS, our_cache
from tests.support.dictionary import outcome
from tests.support.round_trips import CountingProxy
from tests.support.servers import Twemproxy, ask, stat

OPTIONS = {"pymemcache": {}, "pylibmc": {"behaviors": {"cas": True}}}


class Site:
    """Caches, and what isolation does with them."""

    def __init__(self, *caches):
        self.cache, *_ = self.caches = caches
        self.warnings = []
        self.set_ups = SetUps(lambda: self.caches, self.warnings.append)

    @contextmanager
    def set_up(self, owner="class"):
        """Run a set-up, and then begin a test."""
        self.set_ups.begin(owner, f"the set-up of the {owner}")
        yield
        self.set_ups.end()
        self.begin_test()

    def begin_test(self):
        counters = {each._cache.counter: each for each in self.caches}
        generations = {
            counter: each.invalidate_namespace() for counter, each in counters.items()
        }
        self.set_ups.restore(self.caches, generations)


@pytest.fixture
def make_site(client, build):
    def make(location=None, **options):
        options = {"NAMESPACE": f"set-up-{client}", **OPTIONS[client], **options}
        return Site(build(location, OPTIONS=options))

    return make


@pytest.fixture
def site(make_site):
    return make_site()


def on_server(server, cache, key):
    """Return an item's bytes, flags and timeout, as the server tells them."""
    with Server(server.location) as crawled:
        keys = [item.key for item in crawled.items(b"nsc:")]
    (stored,) = (
        each
        for each in keys
        if (parsed := parse(each))
        and (parsed.generation, parsed.key) == (cache.generation, key)
    )
    found = re.fullmatch(rb"HD f(\d+) t(-?\d+)\r\n", ask(server, b"mg %b f t" % stored))
    with closing(Client(("127.0.0.1", server.port))) as bare:
        return bare.get(stored), *map(int, found.groups())


VALUES = {
    "text": "größer",
    "bytes": b"\r\nEND\r\n\x00",
    "number": 7,
    "empty": "",
    "object": {"a": [1, None, 2.5]},
    "large": b"x" * 900_000,
    "compressible": "z" * 20_000,
}


@pytest.mark.parametrize("name", VALUES)
def test_an_item_keeps_its_bytes_its_flags_and_its_timeout(name, make_site, start):
    server = start()
    site = make_site(server.location)
    with site.set_up():
        site.cache.set("k", VALUES[name], timeout=1000)
        site.cache.set("never", VALUES[name], timeout=None)
        first = on_server(server, site.cache, b":1:k")
    for _ in range(3):
        value, flags, left = on_server(server, site.cache, b":1:k")
        assert (value, flags) == first[:2]
        assert 990 < left <= 1000
        assert on_server(server, site.cache, b":1:never")[2] == -1
        assert site.cache.get_many(["k", "never"]) == dict.fromkeys(
            ["k", "never"], VALUES[name]
        )
        site.cache.clear()
        site.begin_test()


@pytest.mark.parametrize("days", [1, 29, 31, 400])
def test_a_timeout_of_days_stays(days, make_site, start):
    server = start()
    site = make_site(server.location, MAX_TIMEOUT=None)
    with site.set_up():
        site.cache.set("k", 1, timeout=days * 86400)
    left = on_server(server, site.cache, b":1:k")[2]
    # A server's clock begins two seconds early.
    assert days * 86400 - 10 < left <= days * 86400 + 2


def wait_for_tick(cache):
    """Wait until memcached's clock ticks: an item then lives for its whole timeout."""
    cache.set("tick", 1, timeout=1)
    while cache.get("tick"):
        time.sleep(0.01)


def test_a_timeout_does_not_run_out_between_tests(site):
    with site.set_up():
        site.cache.set("k", 1, timeout=3)
    time.sleep(4)
    assert site.cache.get("k") is None
    site.begin_test()
    assert site.cache.get("k") == 1


def test_an_item_that_expires_during_set_up_is_gone(site):
    with site.set_up():
        site.cache.set("k", 1, timeout=1)
        time.sleep(2.1)
    assert site.cache.get("k") is None


STEPS = {
    "set": lambda cache: cache.set("k", "new"),
    "delete": lambda cache: cache.delete("k"),
    "touch": lambda cache: cache.touch("k", 500),
    "incr": lambda cache: cache.incr("n"),
    "set_many": lambda cache: cache.set_many({"k": 2, "l": 3}),
    "delete_many": lambda cache: cache.delete_many(["k", "n"]),
    "clear": lambda cache: cache.clear(),
    "invalidate_namespace": lambda cache: cache.invalidate_namespace(),
    "flush_all": lambda cache: cache._cache.flush_all(),
    "clear, then set": lambda cache: [cache.clear(), cache.set("n", 5)],
    "incr_version": lambda cache: cache.incr_version("k"),
    "raw set": lambda cache: cache._cache.set("raw", b"1"),
    "raw bytes": lambda cache: cache._cache.set(b"raw", b"1"),
    "a long key": lambda cache: cache._cache.set("l" * 249, b"1"),
    "aset": lambda cache: asyncio.run(cache.aset("k", "by a task")),
    "a thread's": lambda cache: in_a_thread(lambda: cache.set("k", "by a thread")),
}

KEYS = "k", "l", "n"
RAW = "raw", b"raw", "l" * 249


def in_a_thread(act):
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def contents(cache):
    """Return all that tests find."""
    found = [cache.get_many(KEYS, version=version) for version in (1, 2)]
    return [*found, *map(cache._cache.get, RAW)]


@pytest.mark.parametrize("step", STEPS)
def test_what_a_set_up_and_an_inner_set_up_do_counts(step, site):
    def begin():
        with site.set_up("module"):
            site.cache.set_many({"k": "of the module", "n": 1})

    begin()
    STEPS[step](site.cache)
    expected = contents(site.cache)
    # In an inner set-up.
    begin()
    with site.set_up("class"):
        STEPS[step](site.cache)
        assert contents(site.cache) == expected
    for _ in range(2):
        assert contents(site.cache) == expected
        site.cache.set("k", "of the test")
        site.cache.clear()
        site.begin_test()
    # In a test.
    assert site.set_ups.forget("class")
    site.begin_test()
    STEPS[step](site.cache)
    site.begin_test()
    assert contents(site.cache)[0] == {"k": "of the module", "n": 1}
    # In the outer set-up, and alone.
    site.set_ups.forget("module")
    with site.set_up("module"):
        site.cache.set_many({"k": "of the module", "n": 1})
        STEPS[step](site.cache)
    assert contents(site.cache) == expected


@pytest.mark.parametrize("client", ["pylibmc"])
def test_item_access_counts(site):
    with site.set_up("module"):
        site.cache._cache["a"] = b"1"
        site.cache._cache["b"] = b"1"
    with site.set_up("class"):
        del site.cache._cache["b"]
    assert site.cache._cache["a"] == b"1"
    assert "b" not in site.cache._cache


def test_what_a_torn_down_set_up_has_cached_is_gone(site):
    with site.set_up("module"):
        site.cache.set("k", "of the module")
    with site.set_up("class"):
        site.cache.set_many({"k": "of the class", "l": 1})
    # A set-up that is late, such as that of a fixture which the third test requests.
    with site.set_up("late"):
        site.cache.set("late", 1)
    assert site.set_ups.forget("class")
    assert not site.set_ups.forget("class")
    site.begin_test()
    assert site.cache.get_many(["k", "l", "late"]) == {"k": "of the module", "late": 1}


def test_a_set_up_may_run_within_another(site):
    with site.set_up("session"):
        site.cache.set("k", "of the session")
        site.set_ups.begin("module", "a fixture")
        site.cache.set("k", "of the module")
        site.set_ups.end()
        site.cache.set("l", site.cache.get("k"))
    assert site.cache.get_many(KEYS) == {"k": "of the module", "l": "of the module"}


def test_what_an_outer_set_up_clears_is_gone(site):
    with site.set_up("module"):
        site.set_ups.begin("inner", "a fixture")
        site.cache.set("k", 1)
        site.set_ups.end()
        site.cache.clear()
        site.cache.set("l", 1)
    assert site.cache.get_many(KEYS) == {"l": 1}
    site.set_ups.forget("module")
    site.begin_test()
    assert site.cache.get_many(KEYS) == {"k": 1}


def test_what_an_inner_set_up_caches_after_that_is_there(site):
    with site.set_up("session"):
        site.cache.set("n", 1)
    with site.set_up("module"):
        site.cache.clear()
        site.set_ups.begin("inner", "a fixture")
        site.cache.set("k", 1)
        site.set_ups.end()
        site.cache.set("l", 1)
    assert site.cache.get_many(KEYS) == {"k": 1, "l": 1}
    site.set_ups.forget("inner")
    site.begin_test()
    assert site.cache.get_many(KEYS) == {"l": 1}
    site.set_ups.forget("module")
    site.begin_test()
    assert site.cache.get_many(KEYS) == {"n": 1}


def test_an_item_of_a_test_that_a_late_set_up_leaves_is_the_tests_own(site):
    site.cache.set("k", "of the test")
    with site.set_up("late"):
        assert not site.cache.add("k", "of the set-up")
        assert not site.cache.delete("none")
    assert site.cache.get("k") is None


class StopError(BaseException):
    """What a time limit raises."""


def test_a_command_counts_that_was_broken_off(site, monkeypatch):
    real = site.cache._cache.wrapped
    with site.set_up():
        site.cache.set("l", 1)  # there is a counter
        stored = type(real).set

        def store_and_stop(*args, **kwargs):
            stored(*args, **kwargs)
            raise StopError

        with monkeypatch.context() as patch:
            patch.setattr(type(real), "set", store_and_stop)
            with pytest.raises(StopError):
                site.cache.set("k", 1)
    assert site.cache.get("k") == 1


BAD_KEYS = 5, "k" * 251, "a b", "k\ud800", None


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
def test_a_key_that_the_client_refuses_does_no_harm(key, site):
    with site.set_up():
        site.cache.set("k", 1)
        assert outcome(site.cache._cache.set, key, b"v")[0] == "raises"
    assert site.cache.get("k") == 1


def test_what_a_set_up_does_that_was_given_up_does_not_count(site):
    site.set_ups.begin("class", "a class without a test")
    site.cache.set("k", 1)
    site.set_ups.cancel()
    site.begin_test()
    assert site.cache.get("k") is None


def test_operations_are_watched_only_while_a_set_up_runs(site):
    bare = Operation.run
    site.set_ups.begin("module", "a module")
    site.set_ups.begin("class", "a class")
    site.set_ups.end()
    assert Operation.run is not bare
    site.set_ups.end()
    assert Operation.run is bare
    site.set_ups.begin("class", "a class")
    site.set_ups.cancel()
    assert Operation.run is bare


# Round trips.


@pytest.fixture
def counted(make_site, proxy):
    site = make_site(proxy.location)
    site.cache.get("k")
    site.during = proxy.during
    return site


def test_a_set_up_that_caches_nothing_takes_no_round_trip(counted):
    def set_up():
        counted.set_ups.begin("class", "a class")
        counted.set_ups.end()

    assert counted.during(set_up) == 0
    assert counted.during(counted.begin_test) == 1  # the invalidation


def test_the_items_are_read_and_stored_in_one_round_trip(counted):
    counted.set_ups.begin("class", "a class")
    counted.cache.set_many({f"k{number}": number for number in range(10)})
    assert counted.during(counted.set_ups.end) == 1
    for _ in range(2):
        assert counted.during(counted.begin_test) == 2
        assert len(counted.cache.get_many([f"k{number}" for number in range(10)])) == 10


def test_one_round_trip_for_each_server(client, build, start):
    servers = [start() for _ in range(3)]
    proxies = [CountingProxy(server.port) for server in servers]
    locations = [proxy.location for proxy in proxies]
    site = Site(build(locations, OPTIONS={"NAMESPACE": "several", **OPTIONS[client]}))
    site.cache.get("k")
    site.set_ups.begin("class", "a class")
    # libmemcached keeps names that differ in their ends alone on few servers.
    keys = [secrets.token_hex(4) for _ in range(50)]
    site.cache.set_many(dict.fromkeys(keys, 1))

    def trips(act):
        before = [proxy.count for proxy in proxies]
        act()
        return [proxy.count - at for proxy, at in zip(proxies, before, strict=True)]

    assert trips(site.set_ups.end) == [1, 1, 1]
    assert sorted(trips(site.begin_test)) == [1, 1, 2]
    assert len(site.cache.get_many(keys)) == 50
    for each in proxies:
        each.close()


def test_thousands_of_items_are_stored(site, monkeypatch):
    monkeypatch.setattr(set_up, "_MANY_ITEMS", 2_999)
    values = {f"k{number}": "x" * 100 for number in range(3_000)}
    with site.set_up():
        site.cache.set_many(values)
    (warning,) = site.warnings
    assert warning.startswith("The set-up of the class caches 3,000 items of 0.3 MiB")
    assert warning.endswith('cache_isolation = "class".')
    assert site.cache.get_many(values) == values


def test_one_warning_names_a_set_up_that_caches_much(site, monkeypatch):
    monkeypatch.setattr(set_up, "_MANY_BYTES", 2**20)
    with site.set_up():
        for number in range(3):
            site.cache.set(f"k{number}", b"x" * 500_000)
    site.begin_test()
    (warning,) = site.warnings
    assert "caches 3 items of 1.4 MiB" in warning


# Connections.


def test_a_connection_that_was_idle_for_long_is_opened_again(make_site, start):
    server = start("-o", "idle_timeout=2")  # a busy machine may take one second
    site = make_site(server.location)
    with site.set_up():
        site.cache.set("k", 1)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        site.cache.get("k")  # keeps the client's own connections in use
        time.sleep(0.1)
    site.begin_test()
    assert site.cache.get("k") == 1


def test_a_forked_child_has_connections_of_its_own(site):
    with site.set_up():
        site.cache.set("k", 1)
    child = os.fork()
    if child == 0:
        site.begin_test()
        os._exit(0 if site.cache.get("k") == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    site.begin_test()
    assert site.cache.get("k") == 1


def test_the_connections_are_closed_with_the_run(make_site, start):
    server = start()
    at_first = stat(server, "curr_connections")
    site = make_site(server.location)
    with site.set_up():
        site.cache.set("k", 1)
    site.cache._cache.disconnect_all()
    site.set_ups.close()
    deadline = time.monotonic() + 10
    while stat(server, "curr_connections") > at_first:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Where this package can have no connection of its own, the client reads and stores.


class Tunnelled(Client):
    """A client that connects in a way of its own."""

    def _connect(self):
        super()._connect()


class Tunnels(HashClient):
    client_class = Tunnelled


class Reverses:
    """A serializer that only the client knows."""

    def serialize(self, _, value):
        if isinstance(value, int):
            return value, 64
        return pickle.dumps(value)[::-1], 32

    def deserialize(self, _, value, flags):
        return int(value) if flags == 64 else pickle.loads(value[::-1])


class Reversed(HashClient):
    """A client that places keys in a way of its own."""

    def _get_client(self, key):
        return super()._get_client(key[::-1])


def of_class(client_class):
    def build(locations):
        cache = our_cache(BACKENDS["pymemcache"], locations)
        vars(cache.wrapped)["_class"] = client_class
        return cache

    return build


WAYS = {
    "a client that connects in its own way": of_class(Tunnels),
    "a serializer": lambda locations: our_cache(
        BACKENDS["pymemcache"], locations, OPTIONS={"serde": Reverses()}
    ),
    "a client that places keys in its own way": of_class(Reversed),
    "text and bytes": lambda locations: our_cache(BACKENDS["pymemcache"], locations),
    "a key prefix": lambda locations: our_cache(
        BACKENDS["pymemcache"], locations, OPTIONS={"key_prefix": b"prefix:"}
    ),
    "a pool": lambda locations: our_cache(
        BACKENDS["pymemcache"], locations, OPTIONS={"use_pooling": True}
    ),
    "a namespace of libmemcached": lambda locations: our_cache(
        BACKENDS["pylibmc"], locations, OPTIONS={"behaviors": {"namespace": b"own:"}}
    ),
    "the binary protocol": lambda locations: our_cache(
        BACKENDS["pylibmc"], locations, OPTIONS={"binary": True}
    ),
    "servers in another order": lambda locations: our_cache(
        BACKENDS["pylibmc"],
        sorted(locations, reverse=True),
        OPTIONS={"behaviors": {"_sort_hosts": True}},
    ),
    "ketama": lambda locations: our_cache(
        BACKENDS["pylibmc"], locations, OPTIONS={"behaviors": {"ketama": True}}
    ),
}


@pytest.mark.parametrize("count", [1, 3], ids=["one server", "three"])
@pytest.mark.parametrize("way", WAYS)
def test_it_works_with_any_client(way, count, start):
    locations = [start().location for _ in range(count)]
    site = Site(WAYS[way](locations))
    values = {f"k{number}": f"v{number}" for number in range(20)}
    with site.set_up("module"):
        site.cache.set_many(values, timeout=1000)
        site.cache.set("gone", 1)
        site.cache._cache.set("raw", "text")
        site.cache._cache.set(b"raw bytes".replace(b" ", b"-"), "bytes")
    with site.set_up("class"):
        site.cache.delete("gone")
        site.cache.set("k0", "new", timeout=None)
    for _ in range(2):
        assert site.cache.get_many([*values, "gone"]) == {**values, "k0": "new"}
        assert site.cache._cache.get("raw") == "text"
        assert site.cache._cache.get(b"raw-bytes") == "bytes"
        site.begin_test()
    assert site.warnings == []
    site.cache.close()


@pytest.mark.parametrize("client", ["pylibmc"])
def test_keys_that_only_the_binary_protocol_takes_are_stored(make_site):
    site = make_site(binary=True)
    strange = ["a b", "c\nd", "ü\x7f"]
    with site.set_up():
        for key in strange:
            site.cache._cache.set(key, key)
    assert [site.cache._cache.get(key) for key in strange] == strange


@pytest.mark.parametrize("client", ["pylibmc"])
def test_a_key_that_no_command_can_name_is_stored_by_the_client(make_site):
    site = make_site(binary=True)
    long = "a " * 80 + "é" * 30
    with site.set_up():
        site.cache._cache.set(long, "v")
    for _ in range(2):
        assert site.cache._cache.get(long) == "v"
        site.begin_test()


def test_the_client_keeps_timeouts_as_they_were_given(start):
    server = start()
    site = Site(of_class(Tunnels)([server.location]))
    with site.set_up("module"):
        site.cache.set_many({"k": 1, "n": 1}, timeout=1000)
        site.cache.set("never", 1, timeout=None)
        site.cache.set("touched", 1)
        site.cache.touch("touched", 500)
        site.cache.add("k", 2, timeout=50)  # refused
    with site.set_up("class"):
        site.cache.incr("n")
    expected = {b"k": 1000, b"n": 1000, b"never": -1, b"touched": 500}
    for key, timeout in expected.items():
        left = on_server(server, site.cache, b":1:" + key)[2]
        assert timeout - 10 < left <= timeout, key
    site.cache.close()


def test_before_memcached_1_6_timeouts_are_those_that_were_given(
    make_site, start, monkeypatch
):
    monkeypatch.setattr(raw_items, "_FIRST_WITH_META", (99, 0))
    server = start()
    site = make_site(server.location)
    with site.set_up():
        site.cache.set("k", VALUES["object"], timeout=1000)
        site.cache.set("never", 1, timeout=None)
        site.cache.set_many({f"k{number}": number for number in range(3_000)})
        site.cache._cache.delete("none")
    for _ in range(2):
        assert site.cache.get("k") == VALUES["object"]
        assert 990 < on_server(server, site.cache, b":1:k")[2] <= 1000
        assert on_server(server, site.cache, b":1:never")[2] == -1
        assert len(site.cache.get_many([f"k{n}" for n in range(3_000)])) == 3_000
        site.begin_test()


def test_behind_twemproxy_the_client_reads_and_stores(client, start):
    behind = [start(), start()]
    proxy = Twemproxy(*behind)
    site = Site(our_cache(BACKENDS[client], proxy.location))
    values = {f"k{number}": number for number in range(20)}
    with site.set_up():
        site.cache.set_many(values)
    for _ in range(2):
        assert site.cache.get_many(values) == values
        site.begin_test()
    site.cache.close()
    proxy.close()


# Aliases.


def test_aliases_of_one_store_count_together(build):
    options = {"NAMESPACE": "together"}
    site = Site(
        build(OPTIONS=options),
        build(OPTIONS=options),
        build(OPTIONS=options, KEY_PREFIX="b"),
    )
    first, second, prefixed = site.caches
    with site.set_up("module"):
        first.set("k", 1)
        first.set("l", 1)
        prefixed.set("k", 2)
    with site.set_up("class"):
        second.delete("k")
    assert first.get_many(["k", "l"]) == {"l": 1}
    assert prefixed.get("k") == 2


def test_a_text_and_its_bytes_are_one_item(site):
    with site.set_up("module"):
        site.cache._cache.set("u", b"1")
    with site.set_up("class"):
        site.cache._cache.delete(b"u")
    assert site.cache._cache.get("u") is None


def test_aliases_on_other_servers_keep_their_own(build, start):
    site = Site(
        build(OPTIONS={"NAMESPACE": "one"}),
        build(start().location, OPTIONS={"NAMESPACE": "one"}),
    )
    with site.set_up():
        for number, cache in enumerate(site.caches):
            cache.set("k", number)
    assert [cache.get("k") for cache in site.caches] == [0, 1]


def test_an_alias_that_is_not_isolated_is_left_alone(build):
    site = Site(build(OPTIONS={"NAMESPACE": "isolated"}))
    other = build(OPTIONS={"NAMESPACE": "other"})
    with site.set_up():
        other.set("k", 1)
        other.clear()
    assert other.get("k") is None


class OwnSerializer(PyMemcacheCache):
    """A backend whose options differ from object to object."""

    def __init__(self, server, params):
        super().__init__(server, params)
        self._options["serde"] = Reverses()


def test_a_backend_that_is_opened_again_finds_its_items(start):
    locations = [start().location for _ in range(3)]
    opened = [
        our_cache(
            f"{__name__}.OwnSerializer", locations, OPTIONS={"NAMESPACE": "again"}
        )
        for _ in range(2)
    ]
    site = Site(opened[0])
    values = {f"k{number}": str(number) for number in range(50)}
    with site.set_up():
        site.cache.set_many(values)
    site.cache, *_ = site.caches = opened[1:]
    site.begin_test()
    assert site.cache.get_many(values) == values
    for cache in opened:
        cache.close()


def test_an_alias_whose_settings_are_overridden_for_a_time_keeps_its_items(
    build, start
):
    usual, other = (
        build(start().location, OPTIONS={"NAMESPACE": "overridden"}) for _ in range(2)
    )
    site = Site(usual)
    with site.set_up():
        other.set("k", 1)
        usual.set("l", 1)
    site.cache, *_ = site.caches = (other,)
    site.begin_test()
    assert other.get("k") == 1
    site.cache, *_ = site.caches = (usual,)
    site.begin_test()
    assert usual.get("l") == 1


# Other processes, and outages.


def test_an_invalidation_by_another_process_counts(site):
    site.cache.get("k")
    site.set_ups.begin("class", "a class")
    site.cache.set("k", 1)
    ask_counter = site.cache._cache.counter.key
    site.cache._cache.wrapped.incr(ask_counter, 1)  # this process does not see it
    site.set_ups.end()
    site.begin_test()
    assert site.cache.get("k") is None


def test_it_also_counts_for_the_items_of_an_outer_set_up(site):
    with site.set_up("module"):
        site.cache.set("k", 1)
    site.set_ups.begin("class", "a class")
    site.cache.set("l", 1)
    site.cache._cache.wrapped.incr(site.cache._cache.counter.key, 1)
    site.set_ups.end()
    site.begin_test()
    assert site.cache.get_many(KEYS) == {}


def test_of_many_keys_those_that_were_deleted_are_gone(site):
    """pylibmc answers False if one of them was missing."""
    with site.set_up("module"):
        site.cache.set_many({"k": 1, "l": 2})
    with site.set_up("class"):
        site.cache.delete_many(["missing", "k"])
    assert site.cache.get_many(["k", "l"]) == {"l": 2}


def test_an_item_in_its_last_second_does_not_become_one_that_never_expires(start):
    server = start()
    site = Site(of_class(Tunnels)([server.location]))
    with site.set_up("module"):
        wait_for_tick(site.cache)
        site.cache.set("n", 1, timeout=2)
        time.sleep(1.2)
    with site.set_up("class"):
        site.cache.incr("n")
    assert 0 <= on_server(server, site.cache, b":1:n")[2] <= 2
    site.cache.close()


def test_a_lost_counter_counts(site):
    site.set_ups.begin("class", "a class")
    site.cache.set("k", 1)
    site.cache._cache.wrapped.delete(site.cache._cache.counter.key)
    site.set_ups.end()
    site.begin_test()
    assert site.cache.get("k") is None


def test_what_cannot_be_read_fails_each_test_until_it_is_torn_down(make_site, start):
    server = start()
    site = make_site(server.location)
    site.set_ups.begin("class", "the set-up of the class")
    site.cache.set("k", 1)
    server.kill()
    site.set_ups.end()
    server.start()
    site.cache._cache.disconnect_all()
    for _ in range(2):
        with pytest.raises(
            NamespaceUnavailable, match="What the set-up of the class has cached cannot"
        ):
            site.set_ups.restore(site.caches, {})
    site.set_ups.forget("class")
    site.set_ups.restore(site.caches, {})


def test_what_cannot_be_stored_is_an_error_that_names_the_namespace(make_site, start):
    server = start()
    site = make_site(server.location)
    with site.set_up():
        site.cache.set("k", 1)
    generation = site.cache.invalidate_namespace()
    server.kill()
    with pytest.raises(NamespaceUnavailable, match="cannot be stored again") as raised:
        site.set_ups.restore(site.caches, {site.cache._cache.counter: generation})
    assert site.cache.namespace in str(raised.value)


def test_what_the_client_cannot_store_is_an_error(start):
    server = start()
    site = Site(of_class(Tunnels)([server.location]))
    with site.set_up():
        site.cache.set("k", 1)
    generation = site.cache.invalidate_namespace()
    server.kill()
    with pytest.raises(NamespaceUnavailable, match="cannot be stored again"):
        site.set_ups.restore(site.caches, {site.cache._cache.counter: generation})


def test_an_item_that_the_server_refuses_is_an_error(make_site, start):
    server = start("-I", "512k")
    site = make_site(server.location)
    large = RawItem(b"x" * 700_000, 0, None)
    with site.set_up():
        site.cache.set("k", 1)
    (items,) = site.set_ups._items.values()
    items[b"large"] = large
    with pytest.raises(NamespaceUnavailable, match="too large"):
        site.begin_test()


@pytest.mark.parametrize("client", ["pymemcache"])
def test_a_server_that_was_never_reached_has_nothing_to_store(make_site):
    site = make_site("127.0.0.1:1", ignore_exc=True)
    site.set_ups.begin("class", "a class")
    site.cache.set("k", 1)
    site.set_ups.end()
    site.set_ups.restore(site.caches, {})
    assert site.warnings == []
