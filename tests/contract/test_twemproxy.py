"""The tests of test_contract.py, through twemproxy.

If twemproxy does not support a command, a test here replaces the one there, and says
why. Clients do not see what happens to the servers behind twemproxy. The last tests are
about that.
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

#: The errors of a client whose connection has ended.
CLOSED = (pymemcache.exceptions.MemcacheUnexpectedCloseError, pylibmc.Error)


@pytest.fixture(scope="module")
def server(twemproxy):
    return twemproxy


@pytest.mark.parametrize("clear", CLEARS)
def test_clear_removes_all_items(build, bare, clear):
    """It works with ours only: twemproxy ends a connection that sends `flush_all`."""
    cache = build()
    for each in (cache, bare):
        each.set_many({"a": 1, "b": 2})
    assert clear(cache) is None
    assert cache.get_many(["a", "b"]) == {}
    with pytest.raises(CLOSED):
        clear(bare)


@pytest.mark.parametrize("timeout", [0, -5])
def test_a_timeout_in_the_past_stores_nothing(cache, client, timeout):
    """twemproxy ends a connection that sends a negative timeout, as pymemcache does."""
    ends = pytest.raises(CLOSED) if client == "pymemcache" else nullcontext()
    with ends:
        cache.set("k", 1, timeout=timeout)
    assert cache.get("k") is None


# Servers behind twemproxy stop and restart.

KEYS = [f"key-{number}" for number in range(20)]

#: The proxy soon gives up a server, and soon tries it again: milliseconds.
QUICK = {"timeout": 100, "server_failure_limit": 1, "server_retry_timeout": 300}

#: The client soon tries a server again.
OPTIONS = {"pymemcache": {}, "pylibmc": {"behaviors": {"retry_timeout": 1}}}


class Tier:
    """Two memcached processes behind a twemproxy, and caches that use it."""

    def __init__(self, build, client, servers, **settings):
        self.proxy = Twemproxy(*servers, **QUICK, **settings)
        self._servers = servers
        self._backend = BACKENDS[client]
        self.make = lambda: as_another_process(
            build(self.proxy.location, OPTIONS=OPTIONS[client])
        )

    def counter_server(self, cache) -> Memcached:
        """Return the server that holds the counter."""
        key = cache._cache.counter.key
        (counter_server,) = (
            server
            for server in self._servers
            if self.on(server, lambda client: client.get(key))
        )
        return counter_server

    def on(self, server, act):
        """Call `act` with a bare client of one server, and return the answer."""
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
    """Call `act` until it returns a true value, and return that."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(
            OSError, pymemcache.MemcacheError, pylibmc.Error, NamespaceUnavailable
        ):
            if answer := act():
                return answer
        time.sleep(0.02)
    return act()


def test_while_the_counter_server_is_down_no_item_is_read_or_stored(tier):
    """Afterwards everything works again, and no old item comes back."""
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
                )  # it fails at once, although it has no timeout
        with pytest.raises(NamespaceUnavailable):
            each.invalidate_namespace()
    counter_server.start()
    number = eventually(cache.invalidate_namespace)
    assert eventually(lambda: fresh.generation) == number
    for each in (cache, fresh, on.make()):
        assert each.get_many(KEYS) == {}
    assert cache.set_many(dict.fromkeys(KEYS, "new")) == []
    assert fresh.get_many(KEYS) == dict.fromkeys(KEYS, "new")


def test_a_counter_that_the_proxy_has_moved_is_repaired_when_it_returns(tier, caplog):
    """A process that has seen a newer generation reads no old item.

    Others may read it.
    """
    on = tier(auto_eject_hosts="true")
    knows = on.make()
    knows.set_many(dict.fromkeys(KEYS, "old"))
    old = knows.generation
    counter_server = on.counter_server(knows)
    wire_key = GenerationKeys(knows.namespace, old).wire_key
    wire_keys = [wire_key(knows.make_key(key)) for key in KEYS]
    wire_keys.append(knows._cache.counter.key)
    copy = on.on(counter_server, lambda client: client.get_multi(wire_keys))
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
