"""Three servers: one goes down, its keys move, it returns with its old items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from operator import attrgetter, methodcaller
from typing import Any

import pytest

from namespaced_cache import NamespaceUnavailable
from namespaced_cache.keys import GenerationKeys
from tests.support.caches import BACKENDS, bare_cache
from tests.support.outages import ERRORS, all_recover
from tests.support.servers import Memcached
from tests.support.uses import EACH_READ, EACH_WRITE, READS, as_another_process
from tests.support.wires import Wire

#: Enough keys that each server stores some.
KEYS = ["k", "w", *(f"key-{number}" for number in range(98))]

#: Clients that soon give up a server that does not answer, move its keys to others, and
#: soon try it again.
MOVING: dict[str, dict[str, Any]] = {
    "pymemcache": {
        "timeout": 0.3,
        "connect_timeout": 0.3,
        "retry_attempts": 0,
        "retry_timeout": 0.1,
        "dead_timeout": 0.5,
    },
    "pylibmc": {
        "behaviors": {
            "_poll_timeout": 300,
            "connect_timeout": 300,
            "receive_timeout": 300_000,
            "send_timeout": 300_000,
            "ketama": True,
            "remove_failed": 1,
            "retry_timeout": 1,
            "dead_timeout": 1,
        }
    },
}


class Servers:
    """Three memcached processes, and caches that use all. One is the counter server.

    Caches reach each server over a wire.
    """

    def __init__(self, build: Callable[..., Any], client: str, start: Any) -> None:
        wires = [Wire(start("-t", "1")) for _ in range(3)]
        self.wires = {
            wire.server: wire for wire in sorted(wires, key=attrgetter("location"))
        }
        self.counter_server, *self.others = self.wires
        self._build = build
        self._client = client

    def process(self, **options: Any) -> Any:
        """Make a cache like one in a process that has just started."""
        servers = (*self.others, self.counter_server)
        locations = [self.wires[server].location for server in servers]
        return as_another_process(self._build(locations, OPTIONS=options))

    def on(self, server: Memcached, act: Callable[[Any], Any]) -> Any:
        """Call `act` with a bare client of one server, and return the answer."""
        bare = bare_cache(BACKENDS[self._client], server.location)
        answer = act(bare._cache)
        bare.close()
        return answer

    def held(self, server: Memcached, cache: Any, generation: int) -> dict[Any, Any]:
        """Return a server's items of a generation, and the counter if it is there."""
        wire_key = GenerationKeys(cache.namespace, generation).wire_key
        wire_keys = [wire_key(cache.make_key(key)) for key in KEYS]
        wire_keys.append(cache._cache.counter.key)
        return self.on(server, methodcaller("get_multi", wire_keys))


@pytest.fixture
def servers(build, client, start) -> Iterator[Servers]:
    servers = Servers(build, client, start)
    yield servers
    for wire in servers.wires.values():
        wire.close()


def fill(cache: Any, value: str) -> bool:
    """Store the value under all keys.

    Return whether each server has stored its keys.
    """
    return cache.set_many(dict.fromkeys(KEYS, value)) == []


def found(cache: Any) -> set[Any]:
    """Return all values that the cache finds in any way. Ignore errors of an outage."""
    values: set[Any] = set()
    for read in READS.values():
        with suppress(*ERRORS.values()):
            values.add(read(cache))
    with suppress(*ERRORS.values()):
        values.update(cache.get_many(KEYS).values())
    return values - {None}


def finds(cache: Any, value: str) -> bool:
    """Tell whether the cache finds this value and no other."""
    return found(cache) == {value}


# The counter server is down, and with it the whole namespace.


def test_while_its_counter_server_is_frozen_a_namespace_is_unavailable(servers, client):
    """The other servers answer. Afterwards all processes see the same items again."""
    knows = servers.process(**MOVING[client])
    all_recover([partial(fill, knows, "before")])
    number = knows._cache.counter.latest
    servers.counter_server.freeze()
    processes = knows, servers.process(**MOVING[client])
    for process in processes * 3:
        assert found(process) == set()
        with pytest.raises(NamespaceUnavailable) as caught:
            _ = process.generation
        location = servers.wires[servers.counter_server].location
        where = f"Namespace {knows.namespace!r} on {location}: "
        assert str(caught.value).startswith(where)
    assert [process._cache.counter.latest for process in processes] == [number, 0]
    servers.counter_server.thaw()
    for process in (*processes, servers.process()):
        all_recover([partial(finds, process, "before")])
        assert process._cache.counter.latest == number


# Another server is down: its keys move to others, and it returns with old items.


def moves_back(servers: Servers, server: Memcached, cache: Any) -> bool:
    """Store all keys, and return whether the server has stored some of them.

    Before and after, the cache finds no older item.
    """
    assert found(cache) <= {"after"}
    fill(cache, "after")
    return bool(servers.held(server, cache, cache.generation))


def test_a_server_that_returns_brings_no_dead_generation_back(servers, client):
    """This holds for processes that have seen the live generation, and for new ones."""
    knows, other = (servers.process(**MOVING[client]) for _ in range(2))
    all_recover([partial(fill, knows, "before"), partial(finds, other, "before")])
    number = other._cache.counter.latest
    down, _ = servers.others
    assert servers.held(down, knows, number)
    # libmemcached 1.1 does not give up a server that is only frozen.
    servers.wires[down].cut()
    processes = [knows, other, servers.process(**MOVING[client])]
    for act in (fill, finds):
        for process in processes:  # one by one, or a retry would always be due
            all_recover([partial(act, process, "meanwhile")])
    assert knows.invalidate_namespace() == number + 1
    for process in processes:
        assert found(process) == set()
    servers.wires[down].mend()
    assert set(servers.held(down, knows, number).values()) & {"before", "meanwhile"}
    processes.append(servers.process(**MOVING[client]))
    for process in processes:
        assert found(process) == set()
    all_recover([partial(moves_back, servers, down, cache) for cache in processes])


# The counter server returns with an old counter and old items, as if restored from a
# copy.


@pytest.fixture
def restored(servers):
    """Return two processes with a newer latest generation than the restored counter."""
    knows, bounded = servers.process(), servers.process(MAX_STALENESS=600)
    assert fill(knows, "old")
    old = knows.generation
    copy = servers.held(servers.counter_server, knows, old)
    assert len(copy) > 1
    newest = [knows.invalidate_namespace() for _ in range(3)][-1]
    assert fill(bounded, "new")
    servers.counter_server.restart()
    for cache in (knows, bounded):
        cache._cache.disconnect_all()
    servers.on(servers.counter_server, methodcaller("set_multi", copy))
    return knows, bounded, old, newest


def is_repaired(caplog, servers, knows, old, newest) -> None:
    """Assert that the counter was repaired and logged.

    New processes must see the repaired counter.
    """
    said = f"the counter went back from {newest} to {old}: repaired"
    assert caplog.messages == [f"Namespace {knows.namespace!r}: {said}"]
    assert knows.generation > newest
    starts = servers.process()
    assert starts.generation == knows.generation
    assert not found(starts) & {"old", "new"}


@EACH_READ
def test_a_process_with_a_newer_generation_reads_no_old_item(
    servers, restored, caplog, read
):
    knows, _, old, newest = restored
    assert read(knows) is None
    is_repaired(caplog, servers, knows, old, newest)


@EACH_WRITE
def test_a_process_with_a_newer_generation_writes_above_it(
    servers, restored, caplog, write
):
    knows, _, old, newest = restored
    write(knows)
    assert servers.process().get("w") == "written"
    is_repaired(caplog, servers, knows, old, newest)


def test_a_process_with_a_newer_generation_invalidates_above_it(
    servers, restored, caplog
):
    knows, _, old, newest = restored
    assert knows.invalidate_namespace() > newest
    is_repaired(caplog, servers, knows, old + 1, newest + 1)


def test_a_bounded_process_keeps_its_newer_generation(restored):
    """Items that the counter server has lost are missing. No old item replaces them."""
    _, bounded, _, newest = restored
    assert found(bounded) == {"new"}
    assert bounded._cache.counter.latest == newest


def test_a_process_that_starts_before_the_repair_sees_old_items(servers, restored):
    """As the README says. After another process has read the counter, it sees none."""
    knows, _, old, _ = restored
    starts = servers.process()
    assert starts.generation == old
    assert found(starts) == {"old"}
    assert found(knows) == set()
    assert found(starts) == set()


# The counter server loses the counter, and the other servers lose nothing.


LOSSES = {
    "deleted": lambda servers, key: servers.on(
        servers.counter_server, methodcaller("delete", key)
    ),
    # This time to expire is in the past.
    "expired": lambda servers, key: servers.on(
        servers.counter_server, methodcaller("touch", key, 10**9)
    ),
    "flushed": lambda servers, _: servers.counter_server.empty(),
    "restarted": lambda servers, _: servers.counter_server.restart(),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("first", ["is running", "starts"])
def test_a_lost_counter_brings_back_no_items_of_other_servers(servers, lose, first):
    """Either process may be the first to read the counter, and to seed it."""
    knows = servers.process()
    assert fill(knows, "old")
    number = knows.generation
    lose(servers, knows._cache.counter.key)
    knows._cache.disconnect_all()
    processes = [knows, servers.process()]
    if first == "starts":
        processes.reverse()
    assert [found(process) for process in processes] == [set(), set()]
    for process in processes:
        assert process.invalidate_namespace() > number
        assert [found(process) for process in processes] == [set(), set()]
    assert fill(processes[0], "new")
    assert found(processes[1]) == {"new"}
    for server in servers.others:
        assert "old" in servers.held(server, knows, number).values()
