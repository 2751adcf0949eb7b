"""Fast paths through HashClient: equal results, and none for subclasses that differ."""

from __future__ import annotations

from unittest import mock

import pymemcache
import pytest
from pymemcache.client.hash import HashClient

from namespaced_cache.adapters import hash_client
from namespaced_cache.adapters.pymemcache import COMMANDS


@pytest.fixture
def client():
    return "pymemcache"


def test_many_keys_are_deleted_although_servers_are_removed(start):
    """Keys of removed servers are left out, as with the bare client."""
    real = HashClient([start().location, start().location], ignore_exc=True)
    real.set_many({f"k{n}": b"v" for n in range(20)}, noreply=False)
    keys = [f"k{n}" for n in range(20)]
    assert hash_client.call(real, COMMANDS["delete_many"], None, keys) is True
    assert real.get_many(keys) == {}
    for node in list(real.clients):
        real.hasher.remove_node(node)
    assert hash_client.call(real, COMMANDS["delete_many"], None, keys) is True
    real.close()


def test_a_subclass_keeps_its_own_way_to_delete():
    class Own(HashClient):
        def delete_many(self, keys):
            return list(keys)

    client = Own(["127.0.0.1:1"])
    assert hash_client.call(client, COMMANDS["delete_many"], None, ["k"]) == ["k"]


def test_a_command_that_is_patched_is_called(cache, monkeypatch):
    cache.set("k", "v")
    real, asked = cache._cache.wrapped, []
    with cache.pinned_generation():
        for patched in (real, HashClient):
            with monkeypatch.context() as patch:
                patch.setattr(patched, "get", lambda *args: asked.append(args))
                assert cache.get("k") is None
    assert len(asked) == 2
    assert cache.get("k") == "v"


@pytest.mark.parametrize("command", ["delete_many", "get_many", "set_many"])
def test_a_client_is_called_by_hashclients_name_for_the_command(cache, command):
    """Django calls `delete_multi`, which tracers of pymemcache do not patch."""
    cache.generation  # noqa: B018  # read the counter first
    real = getattr(pymemcache.Client, command)
    with mock.patch.object(pymemcache.Client, command, autospec=True) as spy:
        spy.side_effect = real
        getattr(cache, command)({"a": 1, "b": 2})
    assert len(spy.mock_calls) == 1


def test_without_private_names_the_clients_own_commands_are_used(cache, monkeypatch):
    cache.set("k", "v")
    monkeypatch.setattr(hash_client, "_OWN", {})
    cache.set_many({"a": 1, "b": 2})
    assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
    cache.delete_many(["a", "b"])
    assert cache.get_many(["a", "b", "k"]) == {"k": "v"}


def test_a_key_that_the_client_refuses_stops_the_deletion(cache):
    cache.set("k", "v")
    with pytest.raises(pymemcache.exceptions.MemcacheIllegalInputError):
        cache._cache.delete_many([cache.make_key("k"), "k\r\nflush_all"])
    assert cache.get("k") == "v"


def test_very_many_keys_do_not_fill_the_buffers(build, start):
    """A unix socket has small buffers."""
    cache = build(start(unix=True).location, OPTIONS={"timeout": 20})
    many = {f"k{n}": 1 for n in range(10_000)}
    assert cache.set_many(many) == []
    assert len(cache.get_many(many)) == len(many)
    cache.delete_many(many)
    assert cache.get_many(many) == {}


@pytest.mark.parametrize(("keys", "trips"), [(1000, 1), (1001, 2)])
def test_a_thousand_keys_are_sent_at_once(build, proxy, keys, trips):
    cache = build(proxy.location)
    many = dict.fromkeys((f"k{n}" for n in range(keys)), 1)
    cache.set("k", 1)
    assert proxy.during(lambda: cache.set_many(many)) == trips
    assert proxy.during(lambda: cache.delete_many(many)) == trips


REFUSED_KEYS = {
    "get": lambda client: client.get("a b"),
    "set": lambda client: client.set("a b", 1),
    "add": lambda client: client.add("a b", 1),
    "set_many": lambda client: client.set_many({"a b": 1, "ok": 2}),
    "get_many": lambda client: client.get_many(["ok", "a b"]),
    "delete_many": lambda client: client.delete_many(["a b"]),
}


@pytest.mark.parametrize("act", REFUSED_KEYS.values(), ids=REFUSED_KEYS)
@pytest.mark.parametrize("hides", [False, True])
def test_a_refused_key_raises_even_where_outages_are_hidden(build, act, hides):
    cache = build(OPTIONS={"ignore_exc": hides})
    for client in (cache._cache.wrapped, cache._cache):
        with pytest.raises(pymemcache.exceptions.MemcacheIllegalInputError):
            act(client)


@pytest.mark.parametrize("name", ["_run_cmd", "_get_client"])
def test_a_subclass_keeps_its_own_private_methods(cache, name):
    asked = []

    def own(client, *args, **kwargs):
        asked.append(args)
        return getattr(HashClient, name)(client, *args, **kwargs)

    cache.set("seeds", 1)  # with the client's own commands
    real = cache._cache.wrapped
    real.__class__ = type("Own", (HashClient,), {name: own})
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert len(asked) >= 2


def test_an_exhausted_pool_raises_the_clients_error(build):
    cache = build(OPTIONS={"use_pooling": True, "max_pool_size": 1})
    cache.set("k", 1)
    (member,) = cache._cache.clients.values()
    with (
        member.client_pool.get_and_release(),
        pytest.raises(RuntimeError, match="Too many objects"),
    ):
        cache.get("k")
