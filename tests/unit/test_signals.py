"""Who listens is told of every namespace that this process invalidates, once."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest
from django.core.cache import caches
from django.test import override_settings

from namespaced_cache import (
    NamespacedCache,
    NamespaceUnavailable,
    invalidate_namespaces,
    namespaced,
)
from namespaced_cache.signals import namespace_invalidated
from tests.support.caches import BACKENDS
from tests.support.uses import EACH_WAY_TO_INVALIDATE


@contextmanager
def told():
    """Collect what is sent."""
    received = []

    def receive(*, signal, **sent):
        assert signal is namespace_invalidated
        received.append(sent)

    namespace_invalidated.connect(receive, sender=NamespacedCache)
    try:
        yield received
    finally:
        namespace_invalidated.disconnect(receive, sender=NamespacedCache)


@pytest.fixture
def aliases(server, client):
    """A site's aliases: two in one namespace, one in none, one elsewhere."""
    bare = {"BACKEND": BACKENDS[client], "LOCATION": server.location}
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    setting = {
        "default": local,
        "bare": bare,
        **namespaced({"one": bare, "other": bare}),
    }
    with override_settings(CACHES=setting):
        yield caches
        caches.close_all()


def sent_by(alias, cache):
    return {
        "sender": NamespacedCache,
        "alias": alias,
        "namespace": cache.namespace,
        "generation": cache.generation,
    }


@EACH_WAY_TO_INVALIDATE
def test_each_way_to_forget_is_told_once_and_with_its_alias(aliases, invalidate):
    _ = aliases["bare"]  # which has no client, and gets none
    cache = aliases["other"]
    with told() as received:
        invalidate(cache)
    # An asynchronous one is done in another thread, which has caches of its own.
    assert received == [sent_by("other", cache)]
    assert "_cache" not in vars(aliases["bare"])


def test_aliases_that_share_a_namespace_are_told_of_once(aliases):
    with told() as received:
        invalidate_namespaces()
    assert received == [sent_by("one", aliases["one"])]


@pytest.mark.usefixtures("aliases")
def test_a_cache_that_is_no_aliass_has_none(build):
    cache = build(OPTIONS={"NAMESPACE": "apart"})
    with told() as received:
        cache.clear()
        cache._cache.wrapped.get("k")
    assert received == [sent_by(None, cache)]


def test_what_was_not_acknowledged_is_not_told(build, start):
    server = start()
    cache = build(server.location)
    cache.set("k", 1)
    server.kill()
    with told() as received, pytest.raises(NamespaceUnavailable):
        cache.invalidate_namespace()
    assert received == []


def test_when_it_is_told_the_namespace_is_empty(aliases):
    """A receiver may use the cache, and what it raises goes to who invalidates."""
    cache = aliases["one"]
    cache.set("k", 1)
    found = []

    def look(**_):
        found.append(cache.get("k"))
        raise RuntimeError("of the receiver")

    namespace_invalidated.connect(look)
    try:
        with pytest.raises(RuntimeError, match="of the receiver"):
            asyncio.run(cache.aclear())
    finally:
        namespace_invalidated.disconnect(look)
    assert found == [None]
