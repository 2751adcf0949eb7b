"""Each invalidation by this process sends one signal for its namespace."""

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
def received_signals():
    """Collect the arguments of all signals."""
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
    """A site's aliases: two in one namespace, and two without a namespace."""
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
def test_each_way_to_invalidate_sends_one_signal_with_its_alias(aliases, invalidate):
    _ = aliases["bare"]  # has no client yet, and must not get one
    cache = aliases["other"]
    with received_signals() as received:
        invalidate(cache)
    # An asynchronous call runs in another thread, which has its own caches.
    assert received == [sent_by("other", cache)]
    assert "_cache" not in vars(aliases["bare"])


def test_aliases_that_share_a_namespace_send_one_signal(aliases):
    with received_signals() as received:
        invalidate_namespaces()
    assert received == [sent_by("one", aliases["one"])]


@pytest.mark.usefixtures("aliases")
def test_a_cache_without_an_alias_sends_none_as_alias(build):
    cache = build(OPTIONS={"NAMESPACE": "apart"})
    with received_signals() as received:
        cache.clear()
        cache._cache.wrapped.get("k")
    assert received == [sent_by(None, cache)]


def test_an_invalidation_that_fails_sends_no_signal(build, start):
    server = start()
    cache = build(server.location)
    cache.set("k", 1)
    server.kill()
    with received_signals() as received, pytest.raises(NamespaceUnavailable):
        cache.invalidate_namespace()
    assert received == []


def test_the_namespace_is_empty_when_the_signal_is_sent(aliases):
    """A receiver may use the cache. An error in it reaches the caller."""
    cache = aliases["one"]
    cache.set("k", 1)
    found = []

    def receive(**_):
        found.append(cache.get("k"))
        raise RuntimeError("in the receiver")

    namespace_invalidated.connect(receive)
    try:
        with pytest.raises(RuntimeError, match="in the receiver"):
            asyncio.run(cache.aclear())
    finally:
        namespace_invalidated.disconnect(receive)
    assert found == [None]
