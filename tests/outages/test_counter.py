"""The counter while its server is down, and with several servers."""

from __future__ import annotations

from operator import attrgetter, methodcaller
from unittest.mock import Mock

import pylibmc
import pytest
from pymemcache.exceptions import MemcacheUnexpectedCloseError

from namespaced_cache import NamespaceUnavailable
from namespaced_cache.adapters.adapter import NoConnectionError
from namespaced_cache.adapters.pymemcache import ADAPTER
from tests.support.caches import BACKENDS, bare_cache
from tests.support.servers import answer_of
from tests.support.uses import overtake

NO_ANSWER = "no answer from the server"
UNEXPLAINED = f"{NO_ANSWER} (the client treats it as down, or hides the error)"


# A server that is down.


@pytest.fixture
def on_own_server(build, start):
    """Build a cache on its own server, and return both. `kill()` stops the server."""
    server = start()

    def build_one(**options):
        cache = build(server.location, OPTIONS={"NAMESPACE": "shop", **options})
        assert cache.invalidate_namespace()
        return cache, server

    return build_one


def unavailable(act) -> NamespaceUnavailable:
    with pytest.raises(NamespaceUnavailable) as caught:
        act()
    return caught.value


@pytest.mark.parametrize(
    "ask", [methodcaller("invalidate_namespace"), attrgetter("generation")], ids=repr
)
def test_without_a_server_there_is_no_generation(on_own_server, ask):
    """The error names the namespace, its server and the client's error."""
    cache, server = on_own_server()
    latest = cache._cache.counter.latest
    server.kill()
    error = unavailable(lambda: ask(cache))
    cause = error.__cause__
    assert isinstance(cause, OSError | MemcacheUnexpectedCloseError | pylibmc.Error)
    reason = f"{type(cause).__name__}: {cause}".removesuffix(": ")
    assert (
        str(error) == f"Namespace 'shop' on {server.location}: {NO_ANSWER} ({reason})."
    )
    assert cache._cache.counter.latest == latest


def test_a_server_that_dies_before_the_counter_is_seeded_is_down(
    build, start, monkeypatch
):
    """The error does not blame the serializer."""
    server = start()
    cache = build(server.location)
    overtake(monkeypatch, cache._cache.wrapped, ["get"], server.kill)
    with pytest.raises(NamespaceUnavailable, match="no answer from the server"):
        cache.generation  # noqa: B018


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
def test_an_answer_that_no_server_gave_is_no_invalidation(on_own_server):
    """In its retry window, pymemcache returns outage defaults for `incr` and `get`."""
    cache, server = on_own_server(retry_timeout=60)
    server.kill()
    unavailable(cache.invalidate_namespace)  # the connection breaks
    unavailable(cache.invalidate_namespace)  # a new one is refused
    for act in (cache.invalidate_namespace, lambda: cache.generation):
        error = unavailable(act)
        assert str(error) == f"Namespace 'shop' on {server.location}: {UNEXPLAINED}."


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
def test_ignored_exceptions_are_no_invalidation(on_own_server):
    cache, server = on_own_server(ignore_exc=True, retry_timeout=0)
    server.kill()
    for act in (cache.invalidate_namespace, lambda: cache.generation) * 3:
        error = unavailable(act)
        assert str(error) == f"Namespace 'shop' on {server.location}: {UNEXPLAINED}."


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
def test_a_server_that_was_given_up_is_named(on_own_server):
    cache, server = on_own_server(retry_attempts=0)
    server.kill()
    unavailable(cache.invalidate_namespace)  # the connection breaks
    unavailable(cache.invalidate_namespace)  # a new one is refused
    assert str(unavailable(cache.invalidate_namespace)) == (
        f"Namespace 'shop' on {server.location}: {NO_ANSWER} (MemcacheError: All "
        f"servers seem to be down right now)."
    )


def test_an_error_without_a_text_is_named_by_its_type(cache, real, server, monkeypatch):
    """The operation has waited for the server once, and does not wait again."""

    lost = TimeoutError if real.__module__.startswith("pymemcache") else pylibmc.Error

    def timed_out(*_):
        raise lost

    monkeypatch.setattr(real, "get", None)
    monkeypatch.setattr(real, "incr", timed_out)
    assert str(unavailable(cache.invalidate_namespace)) == (
        f"Namespace {cache.namespace!r} on {server.location}: {NO_ANSWER} "
        f"({lost.__name__})."
    )


def test_an_error_of_incr_alone_is_shown(cache, real, server, monkeypatch):
    """The counter can be read, so the error of `incr` is shown."""

    def fails(*_):
        raise RuntimeError("shown")

    monkeypatch.setattr(real, "incr", fails)
    assert str(unavailable(cache.invalidate_namespace)) == (
        f"Namespace {cache.namespace!r} on {server.location}: {NO_ANSWER} "
        f"(RuntimeError: shown)."
    )


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
def test_a_server_that_returns_empty_begins_above_the_latest_generation(on_own_server):
    cache, server = on_own_server(retry_timeout=0)
    seen = cache.generation
    server.kill()
    unavailable(cache.invalidate_namespace)
    server.start()
    assert cache.invalidate_namespace() > seen


# Several servers: one of them is the counter server.


@pytest.fixture
def several(build, start):
    """Build a cache on three servers. Return it, the counter server and the others."""

    def build_one(**options):
        counter_server, *others = sorted(
            (start() for _ in range(3)), key=attrgetter("location")
        )
        locations = [
            server.location for server in (others[0], counter_server, others[1])
        ]
        return build(locations, OPTIONS=options), counter_server, others

    return build_one


def test_only_the_first_server_by_name_stores_the_counter(several):
    cache, counter_server, others = several()
    key = cache._cache.counter.key
    cache.set_many(dict.fromkeys(map(str, range(50)), "v"))
    number = cache.invalidate_namespace()
    assert [answer_of(server, f"mg {key}") for server in others] == ["EN", "EN"]
    assert answer_of(counter_server, f"mg {key} v").split() == ["VA", "19", str(number)]
    assert answer_of(counter_server, f"delete {key}") == "DELETED"
    number = cache.generation
    assert [answer_of(server, f"mg {key}") for server in others] == ["EN", "EN"]
    assert answer_of(counter_server, f"mg {key} v").split() == ["VA", "19", str(number)]


def test_another_server_than_the_counter_server_may_be_down(several):
    cache, _, others = several()
    assert cache.generation
    for server in others:
        server.kill()
    before = cache.generation
    assert cache.invalidate_namespace() == before + 1


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
def test_without_its_counter_server_a_namespace_is_empty(several):
    """Other servers hold items of it and answer, and the client hides the outage."""
    cache, counter_server, _ = several(ignore_exc=True, retry_timeout=0)
    keys = [str(number) for number in range(50)]
    cache.set_many(dict.fromkeys(keys, "v"))
    counter_server.kill()
    bare = bare_cache(
        BACKENDS["pymemcache"], counter_server.location, OPTIONS=cache._options
    )
    for each in (cache, bare):
        assert [each.get(key, "miss") for key in keys] == ["miss"] * 50
        assert each.get_many(keys) == {}
        assert each.set_many(dict.fromkeys(keys, "w")) == keys
        assert [each.add(key, "w") for key in keys] == [False] * 50
        assert [each.delete(key) for key in keys] == [False] * 50
    assert str(unavailable(cache.invalidate_namespace)) == (
        f"Namespace {cache.namespace!r} on {counter_server.location}: {UNEXPLAINED}."
    )
    bare.close()


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
def test_closing_also_closes_the_connection_to_the_counter_server(several, monkeypatch):
    reader = Mock(side_effect=NoConnectionError("of this test"))
    monkeypatch.setattr(ADAPTER, "counter_reader", reader)  # so that the client is used
    cache, *_ = several()
    assert cache.generation
    (counter_server,) = cache._cache._binder.binding().counter_client.clients.values()
    assert counter_server.sock is not None
    cache.close()
    assert counter_server.sock is None
