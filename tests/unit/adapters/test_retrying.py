"""pymemcache's RetryingClient: it is namespaced as the client that it wraps is."""

from __future__ import annotations

import os

import pytest
from django.core.cache.backends.memcached import PyMemcacheCache
from django.utils.functional import cached_property
from pymemcache import Client, PooledClient
from pymemcache.client.retrying import RetryingClient
from pymemcache.exceptions import MemcacheIllegalInputError

from namespaced_cache import NamespacedCache


class RetryingHashCache(PyMemcacheCache):
    """The usual form: around Django's own client."""

    @cached_property
    def _cache(self):
        return RetryingClient(super()._cache, attempts=3)


class OwnRetryingClient(RetryingClient):
    """A class of a project's own."""


class OwnRetryingCache(PyMemcacheCache):
    @cached_property
    def _cache(self):
        return OwnRetryingClient(super()._cache, attempts=3)


class RetryingClientCache(PyMemcacheCache):
    client_class = Client

    @cached_property
    def _cache(self):
        (server,) = self.client_servers
        plain = self.client_class(server, serde=self._options["serde"])
        return RetryingClient(plain, attempts=3)


class RetryingPoolCache(RetryingClientCache):
    client_class = PooledClient


KINDS = [RetryingHashCache, OwnRetryingCache, RetryingClientCache, RetryingPoolCache]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def retrying(request):
    """Build a cache of each kind in the test's namespace."""
    built = []

    def build(location, **options):
        path = f"{__name__}.{request.param.__name__}"
        cache = NamespacedCache(
            location, {"OPTIONS": {"WRAPPED_BACKEND": path, **options}}
        )
        assert isinstance(cache._cache.wrapped, RetryingClient)
        built.append(cache)
        return cache

    yield build
    for cache in built:
        cache.close()


@pytest.fixture
def neighbour(server):
    """Django's own backend, in no namespace."""
    bare = PyMemcacheCache(server.location, {})
    yield bare
    bare.close()


def test_its_keys_are_namespaced_and_invalidated_at_once(retrying, server, neighbour):
    cache, other = retrying(server.location), retrying(server.location)
    neighbour.set("k", "a neighbour's")
    assert cache.add("k", 1)
    cache.set_many({"a": 1, "b": 2})
    assert other.get_many(["k", "a", "b", "c"]) == {"k": 1, "a": 1, "b": 2}
    assert cache.incr("k") == 2
    assert cache.touch("a", 10)
    cache.delete_many(["b"])
    assert other.get("b") is None
    other.invalidate_namespace()
    assert cache.get_many(["k", "a"]) == {}
    assert neighbour.get("k") == "a neighbour's"


def test_raw_commands_are_namespaced(retrying, server, neighbour):
    raw = retrying(server.location)._cache
    raw.set("k", "mine", noreply=False)
    assert raw.get("k") == "mine"
    value, token = raw.gets("k")
    assert raw.cas("k", value + "!", token)
    assert raw.get("k") == "mine!"
    assert neighbour._cache.get("k") is None
    assert not hasattr(raw, "raw_command")
    raw.flush_all()
    assert raw.get("k") is None


@pytest.mark.parametrize("key", ["a b", "k" * 251, "k" * 230 + " ", "café", "é" * 120])
def test_keys_are_refused_as_by_the_bare_client(retrying, server, key):
    raw = retrying(server.location)._cache
    assert reason(raw, key) == reason(raw.wrapped, key)


def reason(client, key):
    """Return why the client refuses this key, or what it finds."""
    try:
        return client.get(key)
    except MemcacheIllegalInputError as error:
        return str(error).partition(":")[0]


def test_a_child_never_shares_a_socket_with_its_parent(retrying, server):
    cache = retrying(server.location)
    cache.set("k", 1)
    child = os.fork()
    if not child:
        for number in range(100):
            cache.set("childs", number)
            if cache.get("childs") != number:
                os._exit(1)
        os._exit(0)
    for number in range(100):
        cache.set("parents", number)
        assert cache.get("parents") == number
    assert os.waitpid(child, 0)[1] == 0
    assert cache.get_many(["k", "childs"]) == {"k": 1, "childs": 99}


def test_it_still_retries(retrying, start):
    """After a restart, the first attempt meets a closed connection."""
    server = start()
    cache = retrying(server.location)
    cache.set("k", 1)
    server.restart()
    cache.set("k", 2)
    assert cache.get("k") == 2


def test_on_several_servers_it_is_strict(start):
    location = [start().location for _ in range(3)]
    path = f"{__name__}.RetryingHashCache"
    one, other = (
        NamespacedCache(location, {"OPTIONS": {"WRAPPED_BACKEND": path}})
        for _ in range(2)
    )
    one.set_many({f"k{n}": n for n in range(20)})
    assert len(other.get_many([f"k{n}" for n in range(20)])) == 20
    other.invalidate_namespace()
    assert one.get_many([f"k{n}" for n in range(20)]) == {}
    for cache in (one, other):
        cache.close()
