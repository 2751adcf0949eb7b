"""Commands without a reply: strict, in one round trip, and silent in an outage."""

from __future__ import annotations

import time

import pytest

from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.uses import as_another_process


@pytest.fixture
def client():
    return "pymemcache"


#: Raw commands, each with the argument.
COMMANDS = {
    "set": lambda raw, **how: raw.set("k", "new", **how),
    "add": lambda raw, **how: raw.add("new", "new", **how),
    "replace": lambda raw, **how: raw.replace("k", "new", **how),
    "append": lambda raw, **how: raw.append("k", "new", **how),
    "prepend": lambda raw, **how: raw.prepend("k", "new", **how),
    "delete": lambda raw, **how: raw.delete("k", **how),
    "touch": lambda raw, **how: raw.touch("k", 60, **how),
    "incr": lambda raw, **how: raw.incr("n", 1, **how),
    "decr": lambda raw, **how: raw.decr("n", 1, **how),
    "set_many": lambda raw, **how: raw.set_many({"k": 1, "l": 2, "m": 3}, **how),
    "delete_many": lambda raw, **how: raw.delete_many(["k", "l", "m"], **how),
}

#: What the items are after the command, as the raw client sees them.
KEYS = ["k", "l", "m", "n", "new"]

#: OPTIONS of the backend, and the arguments of the command.
WAYS = {
    "argument": ({}, {"noreply": True}),
    "argument, no_delay": ({"no_delay": True}, {"noreply": True}),
    "option": ({"default_noreply": True}, {}),
    "option, no_delay": ({"default_noreply": True, "no_delay": True}, {}),
    "pool": ({"default_noreply": True, "use_pooling": True}, {}),
}

EACH_COMMAND = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
EACH_WAY = pytest.mark.parametrize(("options", "how"), WAYS.values(), ids=WAYS)


def filled(cache):
    """Store the items with replies, and return the raw client."""
    raw = cache._cache
    raw.set_many({"k": "old", "l": "old"}, noreply=False)
    raw.set("n", 5, noreply=False)
    return raw


@EACH_COMMAND
@EACH_WAY
def test_a_command_without_a_reply_does_what_the_bare_client_does(
    build, server, options, how, command
):
    ours = filled(build(OPTIONS=options))
    path = BACKENDS["pymemcache"]
    bare = bare_cache(path, server.location, OPTIONS=options)
    theirs = filled(bare)
    for _ in range(3):
        assert command(ours, **how) == command(theirs, **how)
        assert ours.get_many(KEYS) == theirs.get_many(KEYS)
    bare.close()


@EACH_COMMAND
@EACH_WAY
def test_another_processs_invalidation_is_seen(build, options, how, command):
    """What the command has stored in a dead generation is stored again."""
    cache = build(OPTIONS={**options})
    other = as_another_process(build())
    raw = filled(cache)
    number = other.invalidate_namespace()
    command(raw, **how)
    assert cache._cache.counter.latest == number  # read with the command
    found = raw.get_many(KEYS)
    assert "old" not in found.values()
    assert found == other._cache.get_many(KEYS)
    # And nothing that the command has stored outlives the next one.
    other.invalidate_namespace()
    assert raw.get_many(KEYS) == {}


@EACH_COMMAND
@EACH_WAY
def test_it_takes_one_round_trip(build, proxy, options, how, command):
    raw = filled(build(proxy.location, OPTIONS=options))
    assert raw.get("k") == "old"
    assert proxy.during(lambda: command(raw, **how)) == 1


@EACH_WAY
def test_on_three_servers_it_is_strict_too(build, start, options, how):
    location = [start().location for _ in range(3)]
    cache = build(location, OPTIONS={**options})
    other = as_another_process(build(location))
    values = {f"k{number}": "v" for number in range(30)}
    for _ in range(3):
        other.invalidate_namespace()
        cache._cache.set_many(values, **how)
        # On its own connections. Others may be served before a command without a reply.
        assert cache._cache.get_many(values) == values
        assert other._cache.get_many(values) == values
        other.invalidate_namespace()
        assert cache._cache.get_many(values) == {}


def test_it_does_not_wait_for_a_delayed_acknowledgement(build):
    """Of which there are 25 in a second. Bare, a thousand take far less."""
    raw = filled(build(OPTIONS={"default_noreply": True}))
    began = time.monotonic()
    for number in range(200):
        raw.set("k", number)
    assert time.monotonic() - began < 200 * 0.04 / 2
    assert raw.get("k") == 199


@EACH_COMMAND
@pytest.mark.parametrize("options", [{}, {"no_delay": True}, {"use_pooling": True}])
def test_it_raises_where_the_bare_client_does_alone(backend, start, options, command):
    """When the server has gone, and while the client takes it to be down."""
    server = start()
    caches = [
        build(backend, server.location, OPTIONS={"default_noreply": True, **options})
        for build in (our_cache, bare_cache)
    ]
    for cache in caches:
        filled(cache)
        assert cache._cache.get("k") == "old"
    server.kill()

    def outcome(raw):
        try:
            return command(raw)
        except Exception as error:  # noqa: BLE001  # it is compared
            return type(error)

    for _ in range(4):
        ours, bare = (outcome(cache._cache) for cache in caches)
        assert ours == bare or not isinstance(ours, type)
    for cache in caches:
        cache.close()


@pytest.mark.parametrize("options", [{}, {"no_delay": True}])
def test_a_server_that_does_not_answer_is_not_an_error_of_the_command(
    build, start, options
):
    """The bare client does not await its answer either, and goes on at once."""
    server = start()
    options = {"default_noreply": True, "timeout": 1, **options}
    raw = filled(build(server.location, OPTIONS=options))
    server.freeze()
    try:
        raw.set("k", "new")
    finally:
        server.thaw()
    # The client may take the server to be down for a while.
    assert raw.get("k") in ("new", "old", None)


def test_a_value_that_is_refused_leaves_the_connection_in_step(build):
    """memcached answers an error to a command whose reply nobody awaits."""
    cache = build(OPTIONS={"default_noreply": True})
    raw = filled(cache)
    raw.set("k", "x" * (2 * 2**20))
    raw.set("n", 6)
    assert raw.get("n") == 6
    assert raw.get("k") in (None, "old")
    assert raw.get("n") == 6
