"""The proxy's attributes, for code that looks them up without `getattr()`."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from unittest import mock

import pylibmc
import pytest
from django.core.cache.backends.memcached import PyMemcacheCache
from django.utils.functional import cached_property
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient

from namespaced_cache import NamespacedCache
from namespaced_cache.adapters.adapter import is_client
from namespaced_cache.core.client import NamespacedClient
from tests.support.caches import BACKENDS, bare_cache, our_cache

#: The attributes of instances of Django's backends.
DJANGOS = [
    "LibraryValueNotFoundException",
    "_class",
    "_cull_frequency",
    "_lib",
    "_max_entries",
    "_options",
    "_servers",
    "default_timeout",
    "key_func",
    "key_prefix",
    "version",
]


class RegionCache(PyMemcacheCache):
    """A project's backend with attributes of its own."""

    zone = "a"

    def __init__(self, server, params):
        super().__init__(server, params)
        self.region = "eu"
        self._hook = print

    @property
    def place(self):
        return f"{self.region}-{self.zone}"

    @staticmethod
    def twice(number):
        return number * 2

    @classmethod
    def made_by(cls):
        return cls.__name__

    @cached_property
    def lazy(self):
        return object()


REGIONS = ["region", "_hook", "zone", "place", "twice", "made_by", "lazy"]


@pytest.fixture
def regional(server):
    cache = our_cache(f"{__name__}.RegionCache", server.location)
    yield cache
    cache.close()


def check(cache, bare, names):
    for name in names:
        value = getattr(bare, name)
        found = [
            cache.__getattribute__(name),
            object.__getattribute__(cache, name),
            getattr(cache, name),
        ]
        static = inspect.getattr_static(cache, name)
        if isinstance(static, property):
            found.append(static.fget(cache))
        if name in vars(bare):
            found.append(vars(cache)[name])
        if not inspect.ismethod(value) and name != "lazy":
            assert [each == value for each in found] == [True] * len(found), name
        assert hasattr(cache, name)
        assert name in dir(cache)


def test_djangos_attributes_are_found_in_every_way(cache, bare):
    assert sorted(vars(bare).keys() - {"_cache"}) == DJANGOS
    assert sorted(vars(cache)) == DJANGOS
    check(cache, bare, DJANGOS)


def test_the_attributes_of_a_projects_backend_are_found_in_every_way(regional, server):
    bare = bare_cache(f"{__name__}.RegionCache", server.location)
    check(regional, bare, [*DJANGOS, *REGIONS])
    assert regional.lazy is regional.wrapped.lazy
    assert vars(regional).keys() == {*DJANGOS, "region", "_hook", "lazy"}
    other = our_cache(BACKENDS["pymemcache"], server.location)
    assert not hasattr(other, "region")


def test_an_attribute_that_is_added_later_is_in_vars(cache):
    cache.later = 1
    cache.wrapped.own = 2
    assert (vars(cache)["later"], vars(cache)["own"]) == (1, 2)
    assert (cache.later, cache.own) == (1, 2)


def test_a_backend_that_forwards_by_getattribute_works(cache):
    """As djblets' ForwardingCacheBackend does."""

    class Forwarding:
        def __getattr__(self, name):
            return cache.__getattribute__(name)

    forwarding = Forwarding()
    forwarding.set("k", 1)
    assert forwarding.get("k") == 1
    assert forwarding.key_prefix == ""
    assert forwarding.make_key("k") == ":1:k"
    assert forwarding.namespace == cache.namespace
    with pytest.raises(AttributeError):
        assert forwarding.nope


def test_vars_never_shows_the_bare_client(cache):
    cache.set("k", 1)
    assert "_cache" in vars(cache.wrapped)
    shown = vars(cache)
    assert not any(map(is_client, shown.values()))
    assert not any("amespaced" in name for name in shown)
    assert inspect.getattr_static(cache, "_cache").fget(cache) is cache._cache


# Changes.


@pytest.mark.parametrize("name", [*DJANGOS, "region", "zone", "_hook"])
def test_mock_patches_each_attribute_and_restores_it(regional, name):
    before, wrapped = dict(vars(regional)), dict(vars(regional.wrapped))
    value = getattr(regional, name)
    with mock.patch.object(regional, name, "first"):
        with mock.patch.object(regional, name, "second"):
            assert getattr(regional, name) == "second"
            assert getattr(regional.wrapped, name) == "second"
            assert vars(regional)[name] == "second"
        assert getattr(regional, name) == "first"
    assert getattr(regional, name) == value
    assert vars(regional) == before
    assert vars(regional.wrapped) == wrapped


@pytest.mark.parametrize("name", ["get", "aget", "has_key", "make_key", "twice"])
def test_mock_patches_each_method_and_restores_it(regional, name):
    before, wrapped = dict(vars(regional)), dict(vars(regional.wrapped))
    with mock.patch.object(regional, name) as first:
        with mock.patch.object(regional, name) as second:
            assert getattr(regional, name) is vars(regional)[name] is second
        assert getattr(regional, name) is vars(regional)[name] is first
    assert vars(regional) == before
    assert vars(regional.wrapped) == wrapped
    assert callable(getattr(regional, name))
    regional.set("k", 1)
    assert regional.get("k") == 1


def test_pytest_patches_and_restores(regional):
    before = dict(vars(regional))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regional, "region", "us")
        patch.setattr(regional, "key_prefix", "patched")
        patch.setitem(vars(regional), "version", 7)
        assert regional.place == "us-a"
        assert regional.make_key("k") == "patched:7:k"
    assert {**vars(regional), "version": 1} == before


def test_a_change_of_vars_changes_the_attribute(regional):
    shown = vars(regional)
    shown["key_prefix"] = "a"
    shown.update(version=5, region="us")
    shown.setdefault("other", 1)
    assert shown.setdefault("region", "") == "us"
    assert regional.make_key("k") == regional.wrapped.make_key("k") == "a:5:k"
    assert (regional.region, regional.other) == ("us", 1)
    del shown["other"]
    assert shown.pop("region") == "us"
    assert not hasattr(regional, "other")
    assert not hasattr(regional, "region")
    with pytest.raises(KeyError):
        del shown["other"]
    with mock.patch.dict(shown, version=9):
        assert regional.version == 9
    assert regional.version == 5
    assert type(copy.copy(shown)) is type(shown.copy()) is dict
    assert copy.copy(shown) == shown


class OwnProxy(NamespacedCache):
    """A project's own proxy, with properties that store their value."""

    @cached_property
    def by_django(self):
        return object()

    @functools.cached_property
    def by_python(self):
        return object()


def test_cached_properties_of_a_subclass_are_cached(server):
    cache = OwnProxy(server.location, {})
    assert cache.by_django is cache.by_django
    assert cache.by_python is cache.by_python
    assert {"by_django", "by_python"} <= vars(cache).keys()
    assert not hasattr(cache.wrapped, "by_django")


# Copies, and instances that are not ready.


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))],
)
def test_a_copy_has_the_same_attributes(regional, duplicate):
    regional.key_prefix = "assigned"
    other = duplicate(regional)
    assert type(other) is type(regional)
    # The key function is a local function of Django's, but the same one.
    assert vars(other) == vars(regional)
    other.close()


def test_an_instance_before_init_has_no_attributes():
    cache = object.__new__(NamespacedCache)
    assert vars(cache) == {}
    assert not hasattr(cache, "key_prefix")
    assert not hasattr(cache, "nope")
    with pytest.raises(AttributeError):
        cache.__getattribute__("key_prefix")


# The client.


def test_the_client_is_an_instance_of_the_real_clients_class(cache, bare, client):
    kinds = {"pymemcache": HashClient, "pylibmc": pylibmc.Client}
    for each in (cache, bare):
        assert isinstance(each._cache, kinds[client])
        assert not isinstance(each._cache, (Client, PooledClient))
    assert isinstance(cache._cache, NamespacedClient)
    assert type(cache._cache) is NamespacedClient
    assert not is_client(cache._cache)
    uninitialized = object.__new__(NamespacedClient)
    assert isinstance(uninitialized, NamespacedClient)
    assert not isinstance(uninitialized, kinds[client])
