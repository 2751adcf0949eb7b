"""NamespacedCache as a proxy: what it passes on, what it keeps, its type."""

import asyncio
import contextlib
import copy
import inspect
import pickle
import threading
from unittest import mock

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.signals import request_finished
from django.test import override_settings

from namespaced_cache import NamespacedCache
from namespaced_cache.proxy.delegation import HELPERS

METHODS = [
    name
    for name, member in vars(BaseCache).items()
    if inspect.isfunction(member)
    and (name[0] != "_" or name == "__contains__")
    and name not in HELPERS
]


# Django's methods that its memcached backends inherit. `aclose` does nothing.
CALL_OTHERS = [
    method for method in METHODS if method not in {*vars(BaseMemcachedCache), "aclose"}
]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_on_the_class(method):
    """Tracers patch the methods of the class that BACKEND names."""
    member = vars(NamespacedCache)[method]
    assert inspect.isfunction(member)
    assert inspect.iscoroutinefunction(member) == inspect.iscoroutinefunction(
        getattr(BaseCache, method)
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_code_of_a_method_has_its_name(method):
    """Tracers show this name.

    So each method needs its own code, though all are generated.
    """
    code = vars(NamespacedCache)[method].__code__
    assert (code.co_name, code.co_qualname) == (method, f"NamespacedCache.{method}")


@pytest.mark.parametrize("method", CALL_OTHERS)
def test_a_spy_sees_the_methods_that_a_method_calls(method, cache, bare):
    """As on the bare backend, where `in` and `aget` call `get`."""
    arguments = {
        "get_or_set": ("other", 1),
        "add": ("other", 1),
        "set": ("k", 1),
        "set_many": ({"k": 1},),
        "get_many": (["k"],),
        "delete_many": (["k"],),
        "clear": (),
    }.get(method.removeprefix("a"), ("k",))

    def spied(backend) -> list:
        seen = []
        with contextlib.ExitStack() as stack:
            for name in vars(BaseMemcachedCache).keys() & METHODS:
                real = getattr(type(backend), name)

                def spy(self, *args, name=name, real=real, **kwargs):
                    seen.append((name, *args[:1]))
                    return real(self, *args, **kwargs)

                # Tracers patch the class.
                stack.enter_context(mock.patch.object(type(backend), name, spy))
            backend.set("k", 5)
            got = getattr(backend, method)(*arguments)
            if inspect.iscoroutine(got):
                asyncio.run(got)
        return seen

    seen_on_the_bare_backend = spied(bare)
    assert len(seen_on_the_bare_backend) > 1
    assert spied(cache) == seen_on_the_bare_backend


@pytest.mark.parametrize("method", METHODS)
def test_every_method_calls_that_of_the_wrapped_backend(cache, method):
    """So a backend's own faster `get_many` is used, and its own `close`."""
    answer = object()
    kind = mock.AsyncMock if method[0] == "a" and method != "add" else mock.Mock
    spy = kind(return_value=answer)
    with mock.patch.object(type(cache.wrapped), method, spy):
        call = getattr(cache, method)
        if method == "__contains__":
            got = "k" in cache
            assert got is True
            spy.assert_called_once_with("k")
            return
        required = inspect.signature(call).parameters.values()
        given = [each.name for each in required if each.default is each.empty]
        given = [] if method.endswith(("close", "clear")) else given
        got = call(*given)
        got = asyncio.run(got) if inspect.iscoroutine(got) else got
    assert got is answer
    assert spy.call_args.args[: len(given)] == tuple(given)
    assert spy.call_count == 1


def test_every_attribute_of_the_wrapped_backend_is_available(cache):
    for name in dir(cache.wrapped):
        assert hasattr(cache, name), name
        assert name in dir(cache)


@pytest.mark.parametrize("name", ["key_prefix", "version", "default_timeout", "new"])
def test_an_assigned_attribute_takes_effect(cache, name):
    setattr(cache, name, "assigned")
    assert getattr(cache, name) == getattr(cache.wrapped, name) == "assigned"


def test_mock_patches_data_and_restores_it(cache):
    with mock.patch.object(cache, "key_prefix", "patched"):
        assert cache.make_key("k") == "patched:1:k"
    assert cache.make_key("k") == ":1:k"


@pytest.mark.parametrize("name", sorted(HELPERS))
def test_a_patched_helper_is_used_by_the_methods(cache, name):
    """As on the bare backend, whose methods call it."""
    helper = getattr(cache, name)
    with mock.patch.object(cache, name, side_effect=helper) as spy:
        cache.set("k", 1, timeout=5)
    assert spy.called
    assert not isinstance(getattr(cache, name), mock.Mock)
    assert cache.get("k") == 1


def test_mock_patches_the_client_and_restores_it(cache):
    raw = cache._cache
    real = raw.wrapped
    with mock.patch.object(cache, "_cache", type(real)([cache._servers[0]])):
        assert cache._cache is raw
        assert raw.wrapped is not real
        cache.set("k", b"1")
        assert cache.get("k") == b"1"  # by default, pymemcache waits for no reply
        getattr(raw.wrapped, "close", lambda: None)()
    assert cache.get("k") == b"1"
    cache._cache = raw  # code that keeps the client restores it like this
    assert cache._cache is raw
    assert cache.get("k") == b"1"


def test_a_method_patched_on_the_instance_stays_on_the_proxy(cache):
    """debug-toolbar and Sentry patch like this."""
    seen = []
    original = cache.get

    def spy(key, *args, **kwargs):
        seen.append(key)
        return original(key, *args, **kwargs)

    cache.set("k", 1)
    cache.get = spy
    assert cache.get("k") == 1
    assert seen == ["k"]
    assert cache.wrapped.get("k") == 1
    assert seen == ["k"]
    del cache.get
    assert cache.get("k") == 1
    assert seen == ["k"]


def test_a_method_that_only_the_wrapped_backend_has_is_patched_on_the_proxy(
    cache, monkeypatch
):
    monkeypatch.setattr(type(cache.wrapped), "own", lambda _: "own", raising=False)
    assert cache.own() == "own"
    cache.own = lambda: "spied"
    assert cache.own() == "spied"
    assert cache.wrapped.own() == "own"
    del cache.own
    assert cache.own() == "own"


def test_deleting_a_missing_attribute_is_an_error(cache):
    with pytest.raises(AttributeError):
        del cache.nope


@pytest.mark.parametrize("name", ["namespace", "generation", "wrapped"])
def test_the_namespaces_own_properties_cannot_be_assigned(cache, name):
    with pytest.raises(AttributeError):
        setattr(cache, name, "x")


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))],
)
def test_a_copy_has_the_same_namespace_and_its_own_client(build, duplicate):
    cache = build(KEY_PREFIX="before")
    cache.key_prefix = "assigned"
    cache.set("k", 1)
    other = duplicate(cache)
    assert isinstance(other, NamespacedCache)
    assert other.key_prefix == "assigned"
    assert other.get("k") == 1
    assert other._cache.wrapped is not cache._cache.wrapped
    other.close()


def test_an_instance_before_init_does_not_recurse():
    cache = object.__new__(NamespacedCache)
    assert not hasattr(cache, "nope")
    assert isinstance(cache, NamespacedCache)


def test_it_is_an_instance_of_the_wrapped_backends_class(cache, client):
    assert type(cache) is NamespacedCache
    assert isinstance(cache, NamespacedCache)
    assert isinstance(cache, BaseMemcachedCache)
    name = "PyMemcacheCache" if client == "pymemcache" else "PyLibMCCache"
    assert cache.__class__.__name__ == type(cache.wrapped).__name__ == name
    assert issubclass(NamespacedCache, BaseMemcachedCache)
    assert repr(cache) == f"<NamespacedCache {cache.namespace!r} of {name}>"


def test_it_is_not_an_instance_of_the_other_librarys_backend(cache, client):
    from django.core.cache.backends import memcached

    other = {"pymemcache": "PyLibMCCache", "pylibmc": "PyMemcacheCache"}[client]
    assert not isinstance(cache, getattr(memcached, other))


# The namespace.


def test_an_invalidation_is_one_round_trip_for_20_000_keys(build, proxy):
    cache = build(proxy.location)
    for start in range(0, 20_000, 5_000):
        keys = range(start, start + 5_000)
        assert cache.set_many({f"k{key}": key for key in keys}) == []
    assert cache.get("k19999") == 19_999
    assert proxy.during(cache.invalidate_namespace) == 1
    assert cache.get_many(f"k{key}" for key in range(0, 20_000, 77)) == {}


@pytest.mark.parametrize(
    ("method", "trips"),
    [
        (lambda cache: cache.get("k"), 1),
        (lambda cache: cache.get("none"), 1),
        (lambda cache: cache.get_many(["k", "l", "none"]), 1),
        (lambda cache: cache.has_key("k"), 1),
        (lambda cache: cache.clear(), 1),
        (lambda cache: cache._cache.flush_all(), 1),
        (lambda cache: cache.generation, 1),
        (lambda cache: cache.namespace, 0),
        (lambda cache: cache.set("k", 1), 1),
        (lambda cache: cache.add("k", 1), 1),
        (lambda cache: cache.incr("k"), 1),
        (lambda cache: cache.delete("k"), 1),
        (lambda cache: cache.touch("k"), 1),
    ],
)
def test_the_round_trips_of_a_method(build, proxy, method, trips):
    cache = build(proxy.location)
    cache.set_many({"k": 1, "l": 2})
    assert proxy.during(lambda: method(cache)) == trips


def test_invalidate_namespace_returns_the_new_generation(cache):
    before = cache.generation
    after = cache.invalidate_namespace()
    assert after == before + 1
    assert cache.generation == after
    assert asyncio.run(cache.ainvalidate_namespace()) == after + 1


def test_the_namespace_of_a_run_is_the_same_in_all_threads_and_aliases(server, backend):
    alias = {
        "BACKEND": "namespaced_cache.NamespacedCache",
        "LOCATION": server.location,
        "OPTIONS": {"WRAPPED_BACKEND": backend},
    }
    with override_settings(CACHES={"default": alias, "other": alias}):
        caches["default"].set("k", 1)
        found = []

        def use():
            found.append(caches["other"].get("k"))
            caches["other"].invalidate_namespace()
            caches.close_all()

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert found == [1]
        assert caches["default"].get("k") is None
        caches.close_all()


def test_it_works_on_between_requests_and_under_other_settings(server, backend):
    alias = {
        "BACKEND": "namespaced_cache.NamespacedCache",
        "LOCATION": server.location,
        "OPTIONS": {"WRAPPED_BACKEND": backend},
    }
    with override_settings(CACHES={"default": alias}):
        caches["default"].set("k", 1)
        request_finished.send(sender=None)
        assert caches["default"].get("k") == 1
        local = {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": "only this test",
        }
        with override_settings(CACHES={"default": local}):
            assert caches["default"].get("k") is None
        assert caches["default"].get("k") == 1
        caches.close_all()
