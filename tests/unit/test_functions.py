"""BACKEND and WRAPPED_BACKEND may name functions and other callables, as in Django."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from namespaced_cache import (
    NamespacedCache,
    get_namespaced,
    invalidate_namespaces,
    namespaced,
)
from namespaced_cache.checks import check_caches, check_deployment
from namespaced_cache.core import identity
from namespaced_cache.core.options import read
from namespaced_cache.core.wrapped_backend import ClientBoundary
from namespaced_cache.management.commands import cache_namespace
from namespaced_cache.test.isolation import Isolation
from tests.support.backends import HoldingCache
from tests.unit.test_forks import FORKING, run_script

CALLS = []


def function(location, params):
    CALLS.append((location, params))
    return PyMemcacheCache(location, params)


def local(location, params):
    return LocMemCache(location, params)


def ours(location, params):
    return NamespacedCache(location, params)


def nothing(*_):
    return None


def failing(location, params):
    CALLS.append((location, params))
    raise RuntimeError("no server is known")


class Chooser:
    """An object that can be called."""

    def __call__(self, location, params):
        return PyLibMCCache(location, params)


class Factory:
    """A class that is no backend, and makes one."""

    def __new__(cls, location, params):
        return PyMemcacheCache(location, params)


chooser = Chooser()
part = functools.partial(PyMemcacheCache)
kept = []


def singleton(location, params):
    """Return the same backend each time."""
    if not kept:
        kept.append(PyMemcacheCache(location, params))
    return kept[0]


class RegionalCache(HoldingCache):
    """Takes one argument more than Django gives, and makes its client at once."""

    def __init__(self, region, server, params):
        super().__init__(server, params)
        self.region = region


def regional(location, params):
    return RegionalCache("eu", location, params)


CALLABLES = ["function", "chooser", "part", "Factory", "singleton", "regional"]


@pytest.fixture(autouse=True)
def _forget():
    CALLS.clear()
    yield
    kept.clear()


def path(name):
    return f"{__name__}.{name}"


def setting(name, server, **options):
    return {
        "BACKEND": path(name),
        "LOCATION": server.location,
        "TIMEOUT": 7,
        "OPTIONS": options,
    }


# In the settings.


@pytest.mark.parametrize("name", CALLABLES)
def test_namespaced_wraps_what_a_callable_returns(name, server, bare):
    with override_settings(CACHES=namespaced({"default": setting(name, server)})):
        cache = get_namespaced()
        assert type(cache).__mro__[-4:] == NamespacedCache.__mro__[-4:]
        assert isinstance(cache, (PyMemcacheCache, PyLibMCCache))
        cache.set("k", 1)
        assert cache.get("k") == 1
        assert bare.get("k") is None
        assert cache.default_timeout == 7
        assert repr(cache).endswith(f"of {cache.__class__.__name__}>")
        assert invalidate_namespaces() == {"default": cache.generation}
        assert cache.get("k") is None
        cache.close()


def test_a_function_gets_the_arguments_that_django_gives_it(server):
    caches_setting = {"default": setting("function", server, no_delay=True)}
    with override_settings(CACHES=caches_setting):
        assert type(caches["default"]) is PyMemcacheCache
    with override_settings(CACHES=namespaced(caches_setting, MAX_STALENESS=1)):
        assert type(caches["default"]) is NamespacedCache
    given = server.location, {"TIMEOUT": 7, "OPTIONS": {"no_delay": True}}
    assert [given, given] == CALLS


def test_other_backends_are_left_as_they_are(server):
    with override_settings(CACHES=namespaced({"default": setting("local", server)})):
        assert type(caches["default"]) is LocMemCache
        assert invalidate_namespaces() == {}
        assert check_caches() == check_deployment() == []
        with pytest.raises(ImproperlyConfigured, match="'default' has no namespace"):
            get_namespaced()


def test_a_backend_that_a_function_has_namespaced_is_left_as_it_is(server):
    for caches_setting in (
        {"default": setting("ours", server)},
        namespaced({"default": setting("ours", server)}),
    ):
        with override_settings(CACHES=caches_setting):
            cache = get_namespaced()
            assert type(cache) is NamespacedCache
            assert not isinstance(cache.wrapped, NamespacedCache)
            assert [*invalidate_namespaces()] == ["default"]


def test_namespaced_may_be_called_twice(server):
    once = namespaced({"default": setting("function", server)}, NAMESPACE="shop")
    assert namespaced(once) == once
    assert not CALLS


@pytest.mark.parametrize("name", CALLABLES)
def test_wrapped_backend_may_be_a_callable(name, server, bare):
    options = {"WRAPPED_BACKEND": path(name), "NAMESPACE": "shop"}
    cache = NamespacedCache(server.location, {"OPTIONS": options})
    cache.set("k", 1)
    assert bare.get("k") is None
    for other in (copy.copy(cache), pickle.loads(pickle.dumps(cache))):
        assert other.get("k") == 1
        other.close()
    assert issubclass(type(cache.wrapped), ClientBoundary)
    assert type(cache.wrapped).__mro__.count(ClientBoundary) == 1
    client = cache._cache.wrapped
    if name != "regional":  # its `_cache` cannot be assigned
        cache._cache = client
    assert cache._cache.wrapped is client
    cache.close()


@pytest.mark.parametrize("name", ["local", "nothing", "ours"])
def test_a_wrapped_backend_that_cannot_be_wrapped_is_refused(name, server):
    params = {"OPTIONS": {"WRAPPED_BACKEND": path(name)}}
    with pytest.raises(InvalidCacheBackendError) as caught:
        NamespacedCache(server.location, params)
    text = str(caught.value)
    assert text.startswith(
        f"OPTIONS['WRAPPED_BACKEND'] is {path(name)!r}, which has returned "
    )
    assert text.endswith(
        ": it takes the dotted path of a memcached backend, such as "
        "'django.core.cache.backends.memcached.PyMemcacheCache', or of a function that "
        "returns one."
    )


def test_an_error_of_the_function_is_its_own(server):
    wrapped = namespaced({"default": setting("failing", server)})
    failure = pytest.raises(RuntimeError, match="no server is known")
    with override_settings(CACHES=wrapped), failure:
        assert caches["default"]


def test_a_misspelled_option_of_ours_is_refused(server):
    production = {"default": setting("function", server, MAX_TIMOUT=1)}
    with pytest.raises(ImproperlyConfigured) as caught:
        namespaced(production)
    assert str(caught.value) == (
        "CACHES['default']: OPTIONS has 'MAX_TIMOUT', which NamespacedCache does not "
        "know: it is spelled 'MAX_TIMEOUT'."
    )
    assert read(
        {"OPTIONS": {"WRAPPED_BACKEND": path("part"), "OWN": 1}}, NamespacedCache
    ).wrapped_params == {"OPTIONS": {"OWN": 1}}


# The checks and the command.


@pytest.mark.parametrize("wrap", [True, False])
def test_the_checks_read_a_function(wrap, server, monkeypatch):
    monkeypatch.setattr(identity, "is_test_run", lambda: False)
    production = {"default": setting("function", server)}
    with override_settings(CACHES=namespaced(production) if wrap else production):
        found = check_caches() + check_deployment()
    ids = [message.id for message in found]
    assert ids == (["namespaced_cache.W003"] if wrap else [])
    assert bool(CALLS) is wrap


def test_the_command_finds_what_a_function_returns(server):
    production = {
        "default": setting("function", server),
        "local": setting("local", server),
    }
    for caches_setting in (production, namespaced(production)):
        with override_settings(CACHES=caches_setting):
            assert [*filter(cache_namespace._is_memcached, caches)] == ["default"]


# In a test run.


@pytest.fixture
def isolation():
    started = []

    def start(**options):
        started.append(Isolation(**options))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("name", [*CALLABLES, "ours"])
def test_a_run_isolates_what_a_callable_returns(name, opened, server, bare, isolation):
    production = {
        "default": setting(name, server),
        "local": setting("local", server),
        "broken": setting("failing", server),
    }
    with override_settings(CACHES=production):
        if opened:
            taken = caches["default"]
        run = isolation(wrap=True)
        if opened:  # before the first test
            taken.set("early", 1)
            assert bare.get("early") is None
            taken.close()
        run.invalidate()
        assert len(run.invalidations) == 1
        cache = caches["default"]
        assert isinstance(cache, NamespacedCache)
        assert cache.get("early") is None
        cache.set("k", 1)
        caches["local"].set("k", 1)
        assert bare.get("k") is None
        run.invalidate()
        assert caches["default"].get("k") is None
        assert type(caches["local"]) is LocMemCache
        assert caches["local"].get("k") == 1
        with pytest.raises(RuntimeError, match="no server is known"):
            assert caches["broken"]
        caches["local"].clear()
        cache.close()


def test_a_function_that_fails_is_not_called_before_each_test(server, isolation):
    with override_settings(CACHES={"default": setting("failing", server)}):
        run = isolation(wrap=True)
        for _ in range(3):
            run.invalidate()
        assert len(CALLS) == 1


def test_a_run_without_wrapping_leaves_functions_alone(server, isolation):
    production = {"default": setting("function", server)}
    with override_settings(CACHES=production):
        run = isolation(wrap=False)
        run.invalidate()
        assert not CALLS
    with override_settings(CACHES=namespaced(production)):
        run.invalidate()
        assert len(CALLS) == 1
        cache = caches["default"]
        cache.set("k", 1, timeout=None)
        run.invalidate()
        assert cache.get("k") is None
        cache.close()


# After a fork.


@pytest.mark.parametrize("name", CALLABLES)
def test_a_child_never_shares_a_socket_with_its_parent(name, server):
    done = run_script(FORKING, path(name), server.location)
    assert done.stdout == "parent ok\n", done.stderr
