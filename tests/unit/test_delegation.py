"""The methods of the proxy have the parameters of the wrapped backend's methods."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import traceback
from unittest import mock

import pytest
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache

from namespaced_cache import NamespacedCache
from namespaced_cache.proxy.signatures import is_method
from tests.support.caches import BACKENDS, bare_cache, our_cache

FLAGS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_COROUTINE


def decorated(method):
    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        return method(*args, **kwargs)

    wrapper.is_decorated = True
    return wrapper


class ShopCache(PyMemcacheCache):
    """Methods whose parameters differ in each way from Django's."""

    def get(self, key, default=None, version=None, *, fresh: bool = False):
        return "fresh" if fresh else super().get(key, default, version)

    def set(self, name, value, /, timeout=60, *tags, version=None, **extra):
        super().set(name, (value, timeout, tags, extra), version=version)

    def delete(self, key):
        return super().delete(key)

    @decorated
    def touch(self, key, timeout=5):
        return super().touch(key, timeout)

    def has_key(cache, key, version=7):  # noqa: N805  # the name is free
        return cache.get(key, version=version) is not None

    async def aget(self, key, default=None, version=None, *, fresh=False):
        return self.get(key, default, version, fresh=fresh)

    def aclear(self):
        return super().aclear()

    def take_one(self, key, of=1):
        """Only this backend has it."""
        return self.decr(key, of)

    async def atake_one(self, key, *, of=1):
        return self.take_one(key, of)

    def _private(self, key):
        return self._cache.get(key)


class ShopLibMCCache(PyLibMCCache):
    """A subclass that adds a parameter."""

    def touch(self, key, timeout=DEFAULT_TIMEOUT, version=None, by=None):
        return super().touch(key, timeout, version) and (by or True)


OWN = {
    "PyMemcacheCache": BACKENDS["pymemcache"],
    "PyLibMCCache": BACKENDS["pylibmc"],
    "ShopCache": f"{__name__}.ShopCache",
    "ShopLibMCCache": f"{__name__}.ShopLibMCCache",
}


@pytest.fixture
def pair(request, server):
    """A namespaced and a bare backend of one class."""
    path = OWN[request.param]
    caches = our_cache(path, server.location), bare_cache(path, server.location)
    yield caches
    for cache in caches:
        cache.close()


@pytest.fixture
def strict_again():
    """Restore methods that accept all parameters since a tracer replaced them."""
    methods = [each for each in vars(NamespacedCache).values() if is_method(each)]
    before = [(method, method.__code__, method.__defaults__) for method in methods]
    yield
    for method, code, defaults in before:
        vars(method).pop("__signature__", None)
        method.__code__, method.__defaults__ = code, defaults


def each_of(*names):
    return pytest.mark.parametrize("pair", names or [*OWN], indirect=True)


def public_methods(cache):
    return [
        name
        for name in dir(cache)
        if inspect.ismethod(getattr(cache, name))
        and (not name.startswith("__") or name == "__contains__")
    ]


def shown(method) -> dict:
    """Return everything that a spy can read of a bound method's parameters."""
    code = method.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS)
    count += bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return {
        "signature": inspect.signature(method),
        "full": inspect.getfullargspec(method),
        "counts": (
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
        ),
        "names": code.co_varnames[:count],
        "flags": code.co_flags & FLAGS,
        "defaults": (method.__defaults__, method.__kwdefaults__),
        "name": method.__name__,
        "documentation": method.__doc__,
        "attributes": vars(method.__func__).keys(),
    }


@each_of()
def test_every_method_shows_the_parameters_of_the_bare_one(pair):
    cache, bare = pair
    names = public_methods(bare)
    assert len(names) >= 37
    for name in names:
        ours, theirs = shown(getattr(cache, name)), shown(getattr(bare, name))
        assert ours == theirs, name


@each_of("PyMemcacheCache", "PyLibMCCache")
def test_a_call_is_recorded_with_its_names(pair):
    """As kgb records it."""
    for cache in pair:
        recorded = inspect.getcallargs(cache.touch, "a", 30)
        recorded.pop("self")
        assert recorded == {"key": "a", "timeout": 30, "version": None}
        names = inspect.getfullargspec(cache.touch).args
        assert names == ["self", "key", "timeout", "version"]


@each_of("PyMemcacheCache")
def test_a_method_has_code_of_its_own_and_no_wrapped_function(pair):
    cache, _ = pair
    method = cache.get.__func__
    assert method.__qualname__ == method.__code__.co_qualname == "NamespacedCache.get"
    assert method.__module__ == "namespaced_cache.backend"
    assert not hasattr(method, "__wrapped__")
    assert "self._namespaced_backend.get(key, default, version)" in inspect.getsource(
        method
    )
    with pytest.raises(TypeError) as caught:
        cache.get_many(5)
    assert "_namespaced_backend.get_many(" in "".join(
        traceback.format_exception(caught.value)
    )


@each_of("PyMemcacheCache", "PyLibMCCache")
def test_a_wrong_call_is_refused_with_the_same_text(pair):
    texts = []
    for cache in pair:
        with pytest.raises(TypeError) as caught:
            cache.touch("a", 30, None, 5)
        texts.append(str(caught.value).rpartition(".")[2])
        with pytest.raises(TypeError) as caught:
            cache.get("a", vresion=1)
        texts.append(str(caught.value).rpartition(".")[2])
    assert texts[:2] == texts[2:]


@each_of("ShopCache")
def test_parameters_of_the_backends_own_reach_it(pair):
    for cache in pair:
        cache.set("k", 1, 30, "tag", version=7, colour="red")
        assert cache.get("k", version=7) == (1, 30, ("tag",), {"colour": "red"})
        assert cache.get("k", fresh=True) == "fresh"
        assert asyncio.run(cache.aget("k", fresh=True)) == "fresh"
        assert cache.has_key("k")
        assert cache.touch("k") is False
        assert cache.delete(key="k") is False
        cache._cache.set("n", b"5")
        cache.key_func = lambda key, *_: key
        assert cache.take_one("n") == 4
        assert asyncio.run(cache.atake_one("n", of=2)) == 2
        assert cache._private("n") == b"2"
        asyncio.run(cache.aclear())
        assert cache._private("n") is None


@each_of("ShopCache", "ShopLibMCCache")
@pytest.mark.usefixtures("strict_again")
def test_a_patch_of_the_class_sees_the_calls_with_other_parameters(pair):
    """Tracers patch the class that BACKEND names, before or after it is used."""
    cache, _ = pair
    name = "take_one" if hasattr(cache, "take_one") else "touch"
    calls = {
        "touch": lambda: cache.touch("k", 30),
        "get": lambda: cache.get("k"),
        "delete": lambda: cache.delete("k"),
        "has_key": lambda: cache.has_key("k"),
    }
    if name == "take_one":
        calls["get "] = lambda: cache.get("k", None, None, fresh=True)
    else:
        calls["touch "] = lambda: cache.touch("k", by="me")
    seen = []
    for method, call in calls.items():
        expected = call()
        original = vars(NamespacedCache)[method.strip()]

        def traced(self, *args, original=original, **kwargs):
            seen.append(self)
            return original(self, *args, **kwargs)

        with mock.patch.object(NamespacedCache, method.strip(), traced):
            seen.clear()
            assert call() == expected
        assert seen == [cache]
        with mock.patch.object(NamespacedCache, method.strip()) as spy:
            assert call() is spy.return_value
        assert spy.call_args.args[0] == "k"


class Outside(NamespacedCache):
    """A project's own proxy, with a method before ours."""

    def get(self, key, *args, **kwargs):
        return "outside", super().get(key, *args, **kwargs)


@pytest.mark.usefixtures("strict_again")
def test_a_subclass_of_the_proxy_keeps_its_own_methods(server):
    params = {"OPTIONS": {"WRAPPED_BACKEND": OWN["ShopCache"]}}
    cache = Outside(server.location, params)
    assert isinstance(cache, Outside)
    assert cache.get("k", fresh=True) == ("outside", "fresh")
    assert [*inspect.signature(cache.get).parameters] == ["key", "args", "kwargs"]
    assert [*inspect.signature(cache.delete).parameters] == ["key"]
    assert cache.take_one.__qualname__ == "Outside.take_one"
    cache.close()


@each_of("ShopCache")
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))],
)
def test_a_backend_with_other_parameters_can_be_copied(pair, duplicate):
    cache, _ = pair
    cache.set("k", 1)
    other = duplicate(cache)
    assert type(other) is type(cache)
    assert other.get("k") == cache.get("k") == (1, 60, (), {})
    other.close()


def test_the_class_differs_from_the_proxys_only_where_it_must(server):
    plain, shop, shop_too = (
        our_cache(OWN[name], server.location)
        for name in ("PyMemcacheCache", "ShopCache", "ShopCache")
    )
    assert type(plain) is NamespacedCache
    assert type(shop) is type(shop_too) is not NamespacedCache
    assert issubclass(type(shop), NamespacedCache)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(type(shop), name) == getattr(NamespacedCache, name)
    assert isinstance(shop, NamespacedCache)
    assert isinstance(shop, ShopCache)
    for cache in (plain, shop, shop_too):
        cache.close()


def test_members_that_are_no_methods_are_not_copied():
    assert is_method(ShopCache.get)
    assert not is_method(property(lambda self: self))
    assert not is_method(lambda: None)
    assert not is_method(functools.partial(print))
