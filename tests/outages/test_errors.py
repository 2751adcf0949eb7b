"""An answer that no server gave is no generation and no success.

The numbers are those of the scenarios in tests/README.md.
"""

from __future__ import annotations

import asyncio

import pytest

from namespaced_cache import NamespaceUnavailable
from tests.support.uses import MANY, is_nothing, outcome

# 13. A client answers although no server does: pymemcache with `None`, `False` or an
# empty result.


#: Operations that must not report success.
NAMESPACE_OPERATIONS = [
    lambda cache: cache.invalidate_namespace(),
    lambda cache: asyncio.run(cache.ainvalidate_namespace()),
    lambda cache: cache.clear(),
    lambda cache: cache._cache.flush_all(),
    lambda cache: cache.generation,
    lambda cache: cache.pinned_generation().__enter__(),
]


@pytest.mark.parametrize(
    ("client", "options"),
    [
        ("pymemcache", {"retry_timeout": 60}),
        ("pymemcache", {"retry_timeout": 60, "use_pooling": True}),
        ("pymemcache", {"retry_timeout": 60, "ignore_exc": True}),
        ("pymemcache", {"retry_timeout": 0, "ignore_exc": True}),
        ("pylibmc", {"behaviors": {"retry_timeout": 60}}),
        ("pylibmc", {"behaviors": {"retry_timeout": 60}, "binary": True}),
    ],
    indirect=["client"],
)
@pytest.mark.parametrize("act", NAMESPACE_OPERATIONS)
def test_an_answer_without_a_server_is_no_generation_and_no_success(
    build, wire, options, act
):
    cache, later = build(wire.location, OPTIONS=options), build(wire.location)
    cache.set("k", "v")
    seen = cache.generation
    wire.cut()
    for _ in range(4):  # the connection breaks, new ones are refused
        with pytest.raises(NamespaceUnavailable):
            act(cache)
        assert is_nothing(outcome(lambda: cache.get("k")))
        outcome(lambda: cache.set("k", "ghost"))
    wire.mend()
    assert later.generation == seen
    assert later.get("k") == "v"


# 14. Of several servers, the counter server is down. Another takes over its keys, and
# the first returns.

#: Options with which a client moves the keys of a server that is down to another.
MOVING = {
    "pymemcache": {"retry_attempts": 0, "retry_timeout": 0, "dead_timeout": 60},
    "pylibmc": {"behaviors": {"ketama": True, "remove_failed": 1, "retry_timeout": 1}},
}
READ_ALL = f"outcome(lambda: cache.get_many({MANY}))"
FILL_ALL = f"cache.set_many(dict.fromkeys({MANY}, 'v'))"


def test_a_counter_does_not_move_to_another_server(strung, another, client):
    """While it is down, no item is read.

    Items that were written then are never read.
    """
    locations = [wire.location for wire in strung]
    knows = another(locations, **MOVING[client])
    knows(FILL_ALL)
    seen = knows("cache.generation")
    far = another(strung[0].server.location)  # can always reach the counter
    assert far("cache.generation") == seen
    strung[0].cut()
    processes = [knows, another(locations, **MOVING[client])]
    for process in processes * 3:
        assert is_nothing(process(READ_ALL))
        process("outcome(lambda: cache.set('ghost', 1))")
        invalidated = process("outcome(lambda: cache.invalidate_namespace())")
        assert invalidated == "raises NamespaceUnavailable"
    assert far("cache.invalidate_namespace()") == seen + 1
    assert is_nothing(knows(READ_ALL))
    strung[0].mend()
    processes.append(another(locations, **MOVING[client]))
    for process in processes:
        process("reconnect()")
        assert process(READ_ALL) == {}
        assert process("cache.get('ghost')") is None
        assert process("cache.generation") == seen + 1
    assert knows(FILL_ALL) == []
    assert [process("cache.get('k7')") for process in processes] == ["v"] * 3


def test_a_server_that_returns_with_an_old_number_brings_nothing_back(
    build, start, another, strangers
):
    """The server was restored from a copy.

    A process with a newer generation repairs the counter.
    """
    locations = [start().location for _ in range(3)]
    cache, other = build(locations), another(locations)
    assert cache.set_many(dict.fromkeys(MANY, "v")) == []
    old = other("cache.generation")
    newest = [other("cache.invalidate_namespace()") for _ in range(3)][-1]
    counter_server = cache._cache.counter.server
    strangers(counter_server)._cache.set(cache._cache.counter.key, old)
    assert other(READ_ALL) == {}
    assert cache.get_many(MANY) == {}
    assert another(locations)(READ_ALL) == {}
    assert cache.generation == other("cache.generation") > newest


# 16. An outage leaves no number under which later operations would work.

GHOSTS = [f"ghost{number}" for number in range(20)]
WRITE_GHOSTS = f"""[
    outcome(act)
    for act in 3 * (
        lambda: cache.set_many(dict.fromkeys({GHOSTS}, 1), None),
        *[lambda k=k: cache.set(k, 1, None) for k in {GHOSTS}],
        lambda: cache.get_or_set('ghost0', 1, None),
        lambda: cache.invalidate_namespace(),
    )
]"""
READ_GHOSTS = f"[outcome(lambda k=k: cache.get(k)) for k in {GHOSTS}]"


@pytest.mark.parametrize(
    ("client", "options"),
    [
        ("pymemcache", {"ignore_exc": True, "retry_timeout": 0}),
        ("pymemcache", {"retry_timeout": 60}),
        ("pylibmc", {}),
    ],
    indirect=["client"],
)
def test_items_written_in_an_outage_are_never_read(strung, another, options):
    """Data that is written in an outage is read neither after it nor in the next one.

    Another process invalidates during the outage. Two other servers are up all the
    time, and could store the items.
    """
    locations = [wire.location for wire in strung]
    knows = another(locations, **options)
    far = another(strung[0].server.location)
    for _ in range(2):
        knows("reconnect()")
        knows("cache.set('k', 'v', None)")
        seen = far("cache.generation")
        strung[0].cut()
        writers = [knows, another(locations, **options)]
        for writer in writers:
            assert all(map(is_nothing, writer(READ_GHOSTS)))
            answers = writer(WRITE_GHOSTS)
            assert answers[-1] == "raises NamespaceUnavailable"
            assert all(map(is_nothing, writer(READ_GHOSTS)))
        assert far("cache.generation") == seen
        assert far("cache.invalidate_namespace()") == seen + 1
        strung[0].mend()
        for process in (*writers, another(locations)):
            process("reconnect()")
            assert process("cache.generation") == seen + 1
            assert not any(process(READ_GHOSTS))
            assert process("cache.get('k')") is None
