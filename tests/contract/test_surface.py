"""Commands, keys, copies and closed caches stay in their namespace.

The numbers are those of the scenarios in tests/README.md.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
import re

import pytest
from django.core.cache import cache as default_cache
from django.core.cache import caches
from django.core.signals import request_finished
from django.test import override_settings

from namespaced_cache import NamespacedCache, invalidate_namespaces
from tests.support.other_processes import namespaced_alias
from tests.support.uses import EACH_WAY_TO_INVALIDATE, MANY, outcome

# 15. A value is too large: Django deletes the key, so that no old value stays.


@pytest.mark.parametrize(
    "store",
    [
        lambda cache, value: cache.set("k", value),
        lambda cache, value: cache.set_many({"k": value}),
    ],
)
@pytest.mark.parametrize(
    ("client", "options"),
    [("pymemcache", {}), ("pymemcache", {"ignore_exc": True}), ("pylibmc", {})],
    indirect=["client"],
)
def test_a_value_that_is_too_large_deletes_its_own_key(build, bare, store, options):
    """Keys of other users stay."""
    cache = build(OPTIONS=options)
    for each in (cache, bare):
        each.set("k", "small")
    outcome(lambda: store(cache, "x" * (2 << 20)))
    assert cache.get("k") is None
    assert bare.get("k") == "small"


# 17. Each method and each command, sync and async, is namespaced exactly once.

#: The arguments for each method of Django's cache API. "k" holds 5, and "l" exists.
DJANGO_CALLS = {
    **dict.fromkeys(("get", "has_key", "delete", "touch", "incr", "decr"), ("k",)),
    **dict.fromkeys(("incr_version", "decr_version"), ("k",)),
    **dict.fromkeys(("get_many", "delete_many"), (["k", "l", "none"],)),
    "add": ("new", 1),
    "set": ("k", 1),
    "set_many": ({"k": 1, "l": 2},),
    "get_or_set": ("new", 1),
}

#: The same for the commands of the clients.
RAW_CALLS = {
    **dict.fromkeys(("set", "add", "replace", "append", "prepend"), ("k", b"1")),
    **dict.fromkeys(("incr", "decr", "touch"), ("k", 1)),
    **dict.fromkeys(("get", "gets", "delete"), ("k",)),
    "cas": ("k", 1, 1),
    **dict.fromkeys(("set_many", "set_multi", "add_multi"), ({"k": 1, "new": 2},)),
    **dict.fromkeys(
        ("get_many", "get_multi", "gets_many", "gets_multi"), (["k", b"l", "none"],)
    ),
    **dict.fromkeys(("delete_many", "delete_multi", "incr_multi"), (["k", "l"],)),
}


@pytest.fixture
def twins(build, strangers, server, wires, client):
    """Return a function that checks that ours and bare send the same keys."""
    options = {"behaviors": {"cas": True}} if client == "pylibmc" else {}
    our_wire, bare_wire = wires(server, server)
    cache = build(our_wire.location, OPTIONS=options)
    bare = strangers(bare_wire.location, **options)

    def check(prepare, call) -> None:
        answers = []
        for each, wire in ((bare, bare_wire), (cache, our_wire)):
            each.clear()
            prepare(each)
            wire.requests.clear()
            answers.append(outcome(lambda each=each: call(each)))
        assert answers[0] == answers[1]
        prefix = re.compile(f"nsc:{re.escape(cache.namespace)}:[0-9a-z]+:")
        sent = our_wire.sent_keys()
        assert all(prefix.match(key) and key.count("nsc:") == 1 for key in sent)
        bare_keys = sorted(prefix.sub("", key) for key in sent)
        assert bare_keys == sorted(bare_wire.sent_keys()) != []

    return check


@pytest.mark.parametrize("method", DJANGO_CALLS)
@pytest.mark.parametrize(("version", "awaited"), [(None, False), (7, True)])
def test_a_method_of_django_is_namespaced_once(twins, method, version, awaited):
    """It answers like the bare backend, with the caller's keys."""

    async def call_async(cache):
        return await getattr(cache, f"a{method}")(
            *DJANGO_CALLS[method], version=version
        )

    def call(cache):
        if awaited:
            return asyncio.run(call_async(cache))
        return getattr(cache, method)(*DJANGO_CALLS[method], version=version)

    twins(lambda cache: cache.set_many({"k": 5, "l": 6}, version=version), call)


def without_tokens(command, answer):
    """Remove cas tokens, which differ from call to call."""
    if not command.startswith("gets"):
        return answer
    return {k: v for k, (v, _) in answer.items()} if "_" in command else answer[0]


@pytest.mark.parametrize("command", RAW_CALLS)
def test_a_command_of_the_clients_is_namespaced_once(twins, cache, bare, command):
    if not hasattr(bare._cache, command):
        assert not hasattr(cache._cache, command)
        return

    def call(each):
        return without_tokens(
            command, getattr(each._cache, command)(*RAW_CALLS[command])
        )

    twins(lambda each: each._cache.set_multi({"k": 5, "l": 6}), call)


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
def test_keys_that_failed_are_the_callers(build, start):
    servers = {server.location: server for server in (start(), start(), start())}
    cache = build([*servers], OPTIONS={"retry_timeout": 60})
    items = dict.fromkeys(MANY, 1)
    assert cache.generation  # the counter server is the first, which stays up
    servers[max(servers)].kill()
    for _ in range(2):  # the connection breaks, then a new one is refused
        outcome(lambda: cache.set_many(items, version=7))
    failed = cache.set_many(items, version=7)
    kept = cache.get_many(MANY, version=7)
    assert failed
    assert sorted([*failed, *kept]) == sorted(MANY)


# 18. `clear()` and `_cache.flush_all()` leave the keys of others alone.


@EACH_WAY_TO_INVALIDATE
def test_an_invalidation_leaves_the_keys_of_others(
    build, wire, bare, another, invalidate
):
    """Others are bare keys, and keys and counters of other namespaces and workers."""
    cache, namesake = build(wire.location), build(OPTIONS={"NAMESPACE": "shop"})
    worker = another(worker="gw7")
    for stranger in (namesake, bare):
        stranger.set("k", "theirs")
    worker("cache.set('k', 'theirs')")
    generations = namesake.generation, worker("cache.generation")
    cache.set("k", "mine")
    invalidate(cache)
    assert cache.get("k") is None
    assert namesake.get("k") == bare.get("k") == worker("cache.get('k')") == "theirs"
    assert (namesake.generation, worker("cache.generation")) == generations
    assert b"flush_all" not in b"".join(request for _, request in wire.requests)


# 19. Keys of 249, 250 and 251 bytes, also with characters of several bytes.


def sized(character: str, size: int, last: str) -> str:
    """Make a key of so many bytes that ends with `last`."""
    text = character * ((size - 1) // len(character.encode())) + last
    return "f" * (size - len(text.encode())) + text


@pytest.mark.parametrize("size", [249, 250, 251])
@pytest.mark.parametrize("character", ["k", "é", "€", "😀"])
def test_keys_around_the_limit(build, wire, bare, character, size):
    """They are accepted or refused as by the bare client, and stay separate."""
    cache = build(wire.location)
    one, other = sized(character, size, "a"), sized(character, size, "b").encode()
    for key in (one, other):
        stored = outcome(lambda key=key: cache._cache.set(key, key[-1:]))
        assert stored == outcome(lambda key=key: bare._cache.set(key, key[-1:]))
        assert (stored is True) is (size <= 250)
    if size <= 250:
        found = cache._cache.get_multi([one, other])
        assert found == bare._cache.get_multi([one, other])
        assert found == {one: "a", other: b"b"}
        assert cache._cache.delete(one) is True
        assert cache._cache.get_multi([one, other]) == {other: b"b"}
    sent = wire.sent_keys()
    assert all(len(key.encode()) <= 250 for key in sent)
    assert bool(sent) is (size <= 250)


def test_a_digest_never_meets_a_literal_key(build, wire):
    """Not even if the key is a part of the long key's wire key."""
    cache, long = build(wire.location), "k" * 250
    cache._cache.set(long, "long")
    (digested,) = wire.sent_keys()
    literals = [digested[start:] for start in range(len(digested))]
    assert cache._cache.get_multi(literals) == {}
    assert not cache._cache.set_multi(dict.fromkeys(literals, "literal"))
    assert cache._cache.get(long) == "long"


# 20. What Django and Python do to a cache: replace, close, copy, read attributes.


@pytest.fixture
def site(backend, server):
    """The settings of a site with one namespaced alias."""
    alias = namespaced_alias(backend, server.location, {})
    with override_settings(CACHES={"default": alias}):
        yield alias
        caches["default"].close()


def test_a_cache_of_other_settings_is_separate(site):
    default_cache.set("k", 1)
    elsewhere = {**site, "OPTIONS": {**site["OPTIONS"], "NAMESPACE": "elsewhere"}}
    with override_settings(CACHES={"default": elsewhere}):
        assert default_cache.get("k") is None
        default_cache.clear()
        default_cache.close()
    assert default_cache.get("k") == 1


@pytest.mark.usefixtures("site")
def test_a_closed_cache_works_on():
    expected = default_cache.generation
    for close in (
        default_cache.close,
        default_cache._cache.disconnect_all,
        caches.close_all,
        lambda: request_finished.send(sender=None),
    ):
        default_cache.set("k", 1)
        close()
        assert default_cache.get("k") == 1
        close()
        expected += 1
        assert invalidate_namespaces() == {"default": expected}
        assert default_cache.get("k") is None


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))],
)
def test_a_copy_has_its_own_connection_and_no_extra_attributes(cache, duplicate):
    cache.set("k", 1)
    other = duplicate(cache)
    assert type(other) is NamespacedCache
    assert other._cache.wrapped is not cache._cache.wrapped
    assert other.get("k") == 1
    assert other.invalidate_namespace() == cache.generation
    assert cache.get("k") is None
    other.close()
    for each in (other, other._cache, other.wrapped, object.__new__(NamespacedCache)):
        assert not hasattr(each, "nope")
