"""Three servers: one dies, its keys move, it returns with what it held before."""

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

#: Enough that each server has some.
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
    """Three memcached processes, and caches on all of them; one is the counter_server.

    The caches reach each by a wire.
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
        """Make a cache that knows what a process knows that has just started."""
        servers = (*self.others, self.counter_server)
        locations = [self.wires[server].location for server in servers]
        return as_another_process(self._build(locations, OPTIONS=options))

    def on(self, server: Memcached, act: Callable[[Any], Any]) -> Any:
        """Return what it answers on one server, with a bare client of its own."""
        bare = bare_cache(BACKENDS[self._client], server.location)
        answer = act(bare._cache)
        bare.close()
        return answer

    def held(self, server: Memcached, cache: Any, generation: int) -> dict[Any, Any]:
        """Return what one server holds of a generation, with the counter."""
        name = GenerationKeys(cache.namespace, generation).wire_key
        names = [name(cache.make_key(key)) for key in KEYS]
        names.append(cache._cache.counter.key)
        return self.on(server, methodcaller("get_multi", names))


@pytest.fixture
def servers(build, client, start) -> Iterator[Servers]:
    servers = Servers(build, client, start)
    yield servers
    for wire in servers.wires.values():
        wire.close()


def fill(cache: Any, value: str) -> bool:
    """Store it under all keys; tell whether each server has taken its own."""
    return cache.set_many(dict.fromkeys(KEYS, value)) == []


def found(cache: Any) -> set[Any]:
    """Return all values that it finds, in every way; in an outage, what it can."""
    values: set[Any] = set()
    for read in READS.values():
        with suppress(*ERRORS.values()):
            values.add(read(cache))
    with suppress(*ERRORS.values()):
        values.update(cache.get_many(KEYS).values())
    return values - {None}


def finds(cache: Any, value: str) -> bool:
    """Tell whether it finds this and nothing else."""
    return found(cache) == {value}


# The home is down, and with it the whole namespace.


def test_while_its_home_is_frozen_a_namespace_is_away_for_all_processes(
    servers, client
):
    """Though others answer. Then all see it again as it was."""
    knows = servers.process(**MOVING[client])
    all_recover([partial(fill, knows, "before")])
    number = knows._cache.counter.latest
    servers.counter_server.freeze()
    processes = knows, servers.process(**MOVING[client])
    for process in processes * 3:
        assert found(process) == set()
        with pytest.raises(NamespaceUnavailable) as caught:
            _ = process.generation
        where = f"Namespace {knows.namespace!r} on {servers.wires[servers.counter_server].location}: "
        assert str(caught.value).startswith(where)
    assert [process._cache.counter.latest for process in processes] == [number, 0]
    servers.counter_server.thaw()
    for process in (*processes, servers.process()):
        all_recover([partial(finds, process, "before")])
        assert process._cache.counter.latest == number


# Another server is away: its keys move to others, and it returns with old items.


def moves_back(servers: Servers, server: Memcached, cache: Any) -> bool:
    """Fill it, and tell whether that has stored something on the server.

    Until then and after, nothing is found that was there before.
    """
    assert found(cache) <= {"after"}
    fill(cache, "after")
    return bool(servers.held(server, cache, cache.generation))


def test_a_server_that_returns_brings_nothing_of_a_dead_generation_back(
    servers, client
):
    """To nobody, whether he knew the number that was alive before or starts now."""
    knows, other = (servers.process(**MOVING[client]) for _ in range(2))
    all_recover([partial(fill, knows, "before"), partial(finds, other, "before")])
    number = other._cache.counter.latest
    down, _ = servers.others
    assert servers.held(down, knows, number)
    # libmemcached 1.1 does not give up a server that is only frozen.
    servers.wires[down].cut()
    processes = [knows, other, servers.process(**MOVING[client])]
    for act in (fill, finds):
        for process in processes:  # one by one, or it is always time to try it again
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


# The home returns with an old counter and old items, as if restored from a copy.


@pytest.fixture
def restored(servers):
    """Give two processes that know a newer number than the home that is back."""
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
    """Assert that who knew the newest number has told all others, and the log."""
    said = f"the counter went back from {newest} to {old}: repaired"
    assert caplog.messages == [f"Namespace {knows.namespace!r}: {said}"]
    assert knows.generation > newest
    starts = servers.process()
    assert starts.generation == knows.generation
    assert not found(starts) & {"old", "new"}


@EACH_READ
def test_who_knows_a_newer_number_reads_nothing_old(servers, restored, caplog, read):
    knows, _, old, newest = restored
    assert read(knows) is None
    is_repaired(caplog, servers, knows, old, newest)


@EACH_WRITE
def test_who_knows_a_newer_number_writes_above_it(servers, restored, caplog, write):
    knows, _, old, newest = restored
    write(knows)
    assert servers.process().get("w") == "written"
    is_repaired(caplog, servers, knows, old, newest)


def test_who_knows_a_newer_number_bumps_above_it(servers, restored, caplog):
    knows, _, old, newest = restored
    assert knows.invalidate_namespace() > newest
    is_repaired(caplog, servers, knows, old + 1, newest + 1)


def test_who_trusts_a_newer_number_keeps_to_it(restored):
    """What has gone with the home is missing, and nothing old is in its place."""
    _, bounded, _, newest = restored
    assert found(bounded) == {"new"}
    assert bounded._cache.counter.latest == newest


def test_who_starts_before_that_sees_what_the_copy_holds(servers, restored):
    """As the README says; it sees no more of it as soon as another has looked."""
    knows, _, old, _ = restored
    starts = servers.process()
    assert starts.generation == old
    assert found(starts) == {"old"}
    assert found(knows) == set()
    assert found(starts) == set()


# The home loses the counter, and the other servers nothing.


LOSSES = {
    "deleted": lambda servers, key: servers.on(
        servers.counter_server, methodcaller("delete", key)
    ),
    # The moment at which it expires is long ago.
    "expired": lambda servers, key: servers.on(
        servers.counter_server, methodcaller("touch", key, 10**9)
    ),
    "flushed": lambda servers, _: servers.counter_server.empty(),
    "restarted": lambda servers, _: servers.counter_server.restart(),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("first", ["knows", "starts"])
def test_a_lost_counter_brings_nothing_back_that_others_hold(servers, lose, first):
    """Whoever is the first to look, and who seeds it anew."""
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
