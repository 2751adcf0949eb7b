"""Wrapped backends that differ from Django's own, and servers of all kinds."""

import pytest
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.exceptions import ImproperlyConfigured
from django_prometheus.cache.metrics import django_cache_get_total

from namespaced_cache import NamespaceError
from tests.support.backends import (
    AssigningCache,
    DiscoveringCache,
    HoldingCache,
    ReconnectingCache,
)
from tests.support.caches import BACKENDS, bare_cache, our_cache


class ForeignClient:
    """A client of a library that has no adapter."""


class ForeignCache(PyMemcacheCache):
    _cache = property(lambda _: ForeignClient())


@pytest.mark.parametrize("own", [ReconnectingCache, AssigningCache, HoldingCache])
def test_a_backend_makes_its_clients_as_before(own, server, bare):
    cache = our_cache(f"{own.__module__}.{own.__name__}", server.location)
    cache.set("k", 1)
    clients = {id(cache._cache.wrapped) for _ in range(4)}
    assert (len(clients) > 1) == (own is ReconnectingCache)
    assert cache.get("k") == 1
    assert bare.get("k") is None
    cache.invalidate_namespace()
    assert cache.get("k") is None
    cache.close()


def test_a_method_of_the_backends_own_is_in_the_namespace(server, bare):
    cache = our_cache("tests.support.backends.ReconnectingCache", server.location)
    cache.set("k", 1)
    bare.set("k", "theirs")
    assert cache.get_twice("k") == (1, 1)
    cache.invalidate_namespace()
    assert cache.get_twice("k") == (None, None)
    cache.close()


def test_a_client_of_another_library_is_refused(server):
    cache = our_cache(f"{__name__}.ForeignCache", server.location)
    with pytest.raises(NamespaceError) as caught:
        cache.get("k")
    assert str(caught.value) == (
        f"The wrapped backend's client is a {__name__}.ForeignClient: only clients "
        f"made from pymemcache's and pylibmc's can be namespaced. "
        f"To use this one bare, exclude its alias: cache_namespace_exclude."
    )


@pytest.mark.parametrize("client", BACKENDS)
def test_prometheus_backend_counts_each_call_once(client, server, bare):
    name = BACKENDS[client].rpartition(".")[2]
    cache = our_cache(
        f"django_prometheus.cache.backends.memcached.{name}", server.location
    )
    counted = django_cache_get_total.labels(backend="memcached")._value
    before = counted.get()
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert counted.get() - before == 1
    assert bare.get("k") is None
    cache.close()


# Servers.


def test_a_unix_socket_works(backend, start):
    memcached = start(unix=True)
    cache = our_cache(backend, memcached.location)
    bare = bare_cache(backend, memcached.location)
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert bare.get("k") is None
    cache.invalidate_namespace()
    assert cache.get("k") is None
    cache.close()
    bare.close()


@pytest.mark.parametrize("as_text", [True, False])
def test_several_servers_work(build, start, as_text):
    locations = [start().location for _ in range(3)]
    cache = build(",".join(locations) if as_text else locations)
    items = {f"k{number}": number for number in range(200)}
    assert cache.set_many(items) == []
    assert cache.get_many(items) == items
    assert [cache.get(key) for key in items] == list(items.values())
    assert cache.incr("k7") == 8
    cache.delete_many(["k1", "k2"])
    assert len(cache.get_many(items)) == 198
    cache.clear()
    assert cache.get_many(items) == {}


def test_aliases_of_different_clients_share_several_servers_without_harm(start, caplog):
    """pymemcache and pylibmc may send equal keys to different servers."""
    locations = [start().location for _ in range(3)]
    # Several names, because for some of them both clients choose the same server.
    for name in ("a", "b", "c", "d", "e", "f", "g", "h"):
        aliases = [
            our_cache(path, locations, OPTIONS={"NAMESPACE": name})
            for path in BACKENDS.values()
        ]
        for cache in aliases * 2:
            cache.set("k", 1)
            assert cache.get("k") == 1
            generation = cache.generation
            assert cache.invalidate_namespace() == generation + 1
            assert cache.get("k") is None
            cache.close()
    assert "went back" not in caplog.text


@pytest.mark.parametrize("unix", [False, True])
def test_aliases_of_different_clients_on_one_server_share_the_namespace(start, unix):
    location = start(unix=unix).location
    first, second = (
        our_cache(path, location, OPTIONS={"NAMESPACE": "both"})
        for path in BACKENDS.values()
    )
    assert first._cache.counter is second._cache.counter
    first.set("k", b"1")
    assert second.get("k") == b"1"
    second.invalidate_namespace()
    assert first.get("k") is None
    first.close()


# pymemcache's options.


def test_pooling_works(server, bare):
    cache = our_cache(
        BACKENDS["pymemcache"],
        server.location,
        OPTIONS={"use_pooling": True, "max_pool_size": 4},
    )
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert cache.incr("k") == 2
    assert bare.get("k") is None
    cache.invalidate_namespace()
    assert cache.get("k") is None
    cache.close()


def test_the_clients_own_key_prefix_works(server):
    prefixed, plain = (
        our_cache(
            BACKENDS["pymemcache"],
            server.location,
            OPTIONS={"NAMESPACE": "shop", **options},
        )
        for options in ({"key_prefix": b"prefix-" * 10}, {})
    )
    key = "k" * (250 - 70 - len(":1:"))
    prefixed.set(key, 1)
    assert prefixed.get(key) == 1
    assert plain.get(key) is None
    plain.clear()
    assert prefixed.get(key) == 1
    with pytest.raises(Exception, match="too long"):
        prefixed.set(key + "k", 1)
    prefixed.close()
    plain.close()


# pylibmc's options.


def test_the_binary_protocol_takes_any_key(server):
    cache = our_cache(BACKENDS["pylibmc"], server.location, OPTIONS={"binary": True})
    bare = bare_cache(BACKENDS["pylibmc"], server.location, OPTIONS={"binary": True})
    bare._cache.set("b", "theirs")
    cache._cache.set("a b", 1)
    assert cache._cache.get("a b") == 1
    assert cache._cache.get("b") is None
    cache.set("k", 5)
    assert cache.incr("k") == 6
    cache.invalidate_namespace()
    assert cache.get("k") is None
    assert bare._cache.get("b") == "theirs"


# Backends that find their servers themselves.


def test_a_backend_that_finds_its_servers_has_one_counter_server(start, monkeypatch):
    nodes = sorted(start().location for _ in range(2))
    monkeypatch.setattr(DiscoveringCache, "nodes", nodes[::-1])
    cache = our_cache("tests.support.backends.DiscoveringCache", "config:11211")
    cache.set_many({str(number): number for number in range(20)})
    client, counter = cache._cache.wrapped, cache._cache.counter
    assert counter.server == nodes[0]
    assert client.clients[nodes[0]].get(counter.key) == counter.latest
    assert client.clients[nodes[1]].get(counter.key) is None
    cache.close()


def test_servers_may_be_pairs(start):
    """pymemcache takes such pairs, and Django passes them on."""
    pairs = [("127.0.0.1", start().port) for _ in range(2)]
    cache = our_cache(BACKENDS["pymemcache"], pairs)
    cache.set("k", 1)
    assert cache.invalidate_namespace() == cache.generation
    assert cache._cache.counter.server == min(f"{host}:{port}" for host, port in pairs)
    cache.close()


def test_the_counter_server_does_not_depend_on_a_sockets_spelling():
    counters = {
        our_cache(
            backend, [f"{scheme}/a/socket", "127.0.0.1:1"], OPTIONS=name
        )._cache.counter
        for backend in BACKENDS.values()
        for scheme in ("unix:", "")
        for name in [{"NAMESPACE": "shop"}]
    }
    assert [counter.server for counter in counters] == ["/a/socket"]


def test_a_client_assigned_through_the_backends_own_property_is_used(server):
    cache = our_cache("tests.support.backends.SettingCache", server.location)
    cache.set("k", 1)
    first = cache._cache.wrapped
    cache._cache = None
    assert cache._cache.wrapped is cache._held is not first
    assert cache.get("k") == 1
    first.close()
    cache.close()


def test_a_location_that_names_no_server_is_refused():
    """Without this package, pymemcache makes a client whose servers are all down."""
    cache = our_cache(BACKENDS["pymemcache"], [])
    with pytest.raises(ImproperlyConfigured, match="LOCATION names no server"):
        cache.get("k")
