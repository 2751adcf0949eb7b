"""Ways through HashClient: as it does it, and only where it is HashClient's own way."""

from __future__ import annotations

from unittest import mock

import pymemcache
import pytest
from pymemcache.client.hash import HashClient

from namespaced_cache import shortcuts


@pytest.fixture
def client():
    return "pymemcache"


def test_many_are_deleted_where_some_servers_are(start):
    """Those whose server is gone are left out, as on the bare client."""
    real = HashClient([start().location, start().location], ignore_exc=True)
    real.set_many({f"k{n}": b"v" for n in range(20)}, noreply=False)
    keys = [f"k{n}" for n in range(20)]
    assert shortcuts.call(real, "delete_many", None, keys) is True
    assert real.get_many(keys) == {}
    for node in list(real.clients):
        real.hasher.remove_node(node)
    assert shortcuts.call(real, "delete_many", None, keys) is True
    real.close()


def test_a_subclass_that_deletes_in_its_own_way_keeps_it():
    class Own(HashClient):
        def delete_many(self, keys):
            return list(keys)

    client = Own(["127.0.0.1:1"])
    assert shortcuts.call(client, "delete_many", None, ["k"]) == ["k"]


def test_a_verb_that_is_patched_is_called(cache, monkeypatch):
    cache.set("k", "v")
    real, asked = cache._cache.wrapped, []
    with cache.pinned_generation():
        for patched in (real, HashClient):
            with monkeypatch.context() as patch:
                patch.setattr(patched, "get", lambda *args: asked.append(args))
                assert cache.get("k") is None
    assert len(asked) == 2
    assert cache.get("k") == "v"


@pytest.mark.parametrize("verb", ["delete_many", "get_many", "set_many"])
def test_a_client_is_called_by_the_name_that_hashclient_calls_it(cache, verb):
    """Django says `delete_multi`, and tracers of pymemcache know no such name."""
    cache.generation  # noqa: B018  # looked at before
    real = getattr(pymemcache.Client, verb)
    with mock.patch.object(pymemcache.Client, verb, autospec=True) as spy:
        spy.side_effect = real
        getattr(cache, verb)({"a": 1, "b": 2})
    assert len(spy.mock_calls) == 1


def test_without_what_is_private_the_clients_own_verbs_do(cache, monkeypatch):
    cache.set("k", "v")
    monkeypatch.setattr(shortcuts, "_OWN", {})
    cache.set_many({"a": 1, "b": 2})
    assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
    cache.delete_many(["a", "b"])
    assert cache.get_many(["a", "b", "k"]) == {"k": "v"}


def test_no_key_that_the_client_refuses_is_among_those_deleted(cache):
    cache.set("k", "v")
    with pytest.raises(pymemcache.exceptions.MemcacheIllegalInputError):
        cache._cache.delete_many([cache.make_key("k"), "k\r\nflush_all"])
    assert cache.get("k") == "v"
