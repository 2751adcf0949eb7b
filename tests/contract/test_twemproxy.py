"""The tests of test_contract.py by way of twemproxy, as users of a proxy tier have it.

Where twemproxy does not take a command, a test takes the place of theirs and says so.
What the servers behind it do, no client sees: that is tested below.
"""

import time
from contextlib import nullcontext, suppress

import pylibmc
import pymemcache
import pytest

from namespaced_cache import NamespaceUnavailable
from namespaced_cache.keys import GenerationKeys
from tests.contract.test_contract import *  # noqa: F403  # its tests and their fixtures
from tests.contract.test_contract import CLEARS
from tests.support.caches import BACKENDS, bare_cache
from tests.support.servers import Memcached, Twemproxy
from tests.support.uses import as_another_process

#: What clients raise whose connection has ended.
CLOSED = (pymemcache.exceptions.MemcacheUnexpectedCloseError, pylibmc.Error)


@pytest.fixture(scope="module")
def server(twemproxy):
    return twemproxy


@pytest.mark.parametrize("clear", CLEARS)
def test_clear_forgets(build, bare, clear):
    """With us alone: twemproxy ends the connection of who sends a `flush_all`."""
    cache = build()
    for each in (cache, bare):
        each.set_many({"a": 1, "b": 2})
    assert clear(cache) is None
    assert cache.get_many(["a", "b"]) == {}
    with pytest.raises(CLOSED):
        clear(bare)


@pytest.mark.parametrize("timeout", [0, -5])
def test_a_timeout_that_is_over_stores_nothing(cache, client, timeout):
    """It ends the connection of who sends one below 0, as Django has pymemcache do."""
    ends = pytest.raises(CLOSED) if client == "pymemcache" else nullcontext()
    with ends:
        cache.set("k", 1, timeout=timeout)
    assert cache.get("k") is None


# Servers behind it come and go.

KEYS = [f"key-{number}" for number in range(20)]

#: Soon given up by the proxy, and soon tried again: milliseconds.
QUICK = {"timeout": 100, "server_failure_limit": 1, "server_retry_timeout": 300}

#: Soon tried again by the client.
OPTIONS = {"pymemcache": {}, "pylibmc": {"behaviors": {"retry_timeout": 1}}}


class Tier:
    """Two memcached processes behind a twemproxy, and caches on it."""

    def __init__(self, build, client, servers, **settings):
        self.proxy = Twemproxy(*servers, **QUICK, **settings)
        self._servers = servers
        self._backend = BACKENDS[client]
        self.make = lambda: as_another_process(
            build(self.proxy.location, OPTIONS=OPTIONS[client])
        )

    def counter_server(self, cache) -> Memcached:
        """Find the server that holds the counter."""
        key = cache._cache.counter.key
        (counter_server,) = (
            server
            for server in self._servers
            if self.on(server, lambda client: client.get(key))
        )
        return counter_server

    def on(self, server, act):
        """Return what it answers on one of the servers, with a client of its own."""
        bare = bare_cache(self._backend, server.location)
        answer = act(bare._cache)
        bare.close()
        return answer


@pytest.fixture
def tier(build, client, start):
    tiers = []

    def begin(**settings):
        tiers.append(Tier(build, client, [start(), start()], **settings))
        return tiers[-1]

    yield begin
    for each in tiers:
        each.proxy.close()


def eventually(act):
    """Return what it answers, as soon as that is something and no error."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(
            OSError, pymemcache.MemcacheError, pylibmc.Error, NamespaceUnavailable
        ):
            if answer := act():
                return answer
        time.sleep(0.02)
    return act()


def test_while_the_counters_server_is_away_nothing_is_served_or_claimed(tier):
    """And all works again when it is back, with nothing of what was before."""
    on = tier()
    cache, fresh = on.make(), on.make()
    cache.set_many(dict.fromkeys(KEYS, "old"))
    counter_server = on.counter_server(cache)
    counter_server.kill()
    for each in (cache, fresh) * 2:
        for key in KEYS:
            with suppress(pymemcache.MemcacheError, pylibmc.Error):
                assert each.get(key) is None
            with suppress(pymemcache.MemcacheError, pylibmc.Error):
                assert (
                    each.set(key, "lost") is None
                )  # at once, though it has no timeout
        with pytest.raises(NamespaceUnavailable):
            each.invalidate_namespace()
    counter_server.start()
    number = eventually(cache.invalidate_namespace)
    assert eventually(lambda: fresh.generation) == number
    for each in (cache, fresh, on.make()):
        assert each.get_many(KEYS) == {}
    assert cache.set_many(dict.fromkeys(KEYS, "new")) == []
    assert fresh.get_many(KEYS) == dict.fromkeys(KEYS, "new")


def test_a_counter_that_the_proxy_has_moved_is_raised_when_it_returns(tier, caplog):
    """Who knows a newer number serves nothing old; who does not may see the old."""
    on = tier(auto_eject_hosts="true")
    knows = on.make()
    knows.set_many(dict.fromkeys(KEYS, "old"))
    old = knows.generation
    counter_server = on.counter_server(knows)
    name = GenerationKeys(knows.namespace, old).wire_key
    names = [name(knows.make_key(key)) for key in KEYS]
    names.append(knows._cache.counter.key)
    copy = on.on(counter_server, lambda client: client.get_multi(names))
    counter_server.kill()
    moved = eventually(knows.invalidate_namespace)
    assert moved > old
    counter_server.start()
    on.on(counter_server, lambda client: client.set_multi(copy))
    assert eventually(lambda: on.make().generation == old)
    fresh = on.make()
    assert "old" in fresh.get_many(KEYS).values()
    caplog.clear()
    assert knows.get_many(KEYS) == {}
    said = f"the counter went back from {moved} to {old}: repaired"
    assert caplog.messages == [f"Namespace {knows.namespace!r}: {said}"]
    assert knows.generation > moved
    for each in (fresh, on.make()):
        assert each.generation == knows.generation
        assert each.get_many(KEYS) == {}
