"""options: the values that OPTIONS accepts, and the errors for others."""

from __future__ import annotations

import threading
from copy import deepcopy
from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from namespaced_cache import NamespacedCache
from namespaced_cache.core.options import read
from tests.support.caches import BACKENDS

TAKES = (
    "it takes the dotted path of a memcached backend, such as "
    "'django.core.cache.backends.memcached.PyMemcacheCache', or of a function that "
    "returns one."
)


class NamespacedSubclass(NamespacedCache):
    """A subclass of the wrapper."""


def options(**given):
    return read({"OPTIONS": given}, wrapper=NamespacedCache)


def refusal(error, **given) -> str:
    """Return the text of the error for a NamespacedCache with these options."""
    with pytest.raises(error) as caught:
        NamespacedCache("127.0.0.1:1", {"OPTIONS": given})
    # InvalidCacheBackendError is a subclass of ImproperlyConfigured.
    assert caught.type is error
    return str(caught.value)


@pytest.mark.parametrize("params", [{}, {"OPTIONS": {}}, {"OPTIONS": None}])
def test_the_defaults_are_pymemcache_strict_and_one_namespace_per_run(params):
    settings = read(params, wrapper=NamespacedCache)
    assert settings.wrapped_class is PyMemcacheCache
    assert settings.namespace is None
    assert settings.max_staleness == 0
    assert settings.wrapped_params == {"OPTIONS": {}}


@pytest.mark.parametrize("params", [{}, {"OPTIONS": {}}, {"OPTIONS": None}])
def test_a_cache_without_options_works(server, params):
    cache = NamespacedCache(server.location, params)
    cache.set("k", "v")
    assert cache.get("k") == "v"
    cache.close()


def test_our_options_are_read_and_do_not_reach_the_wrapped_backend():
    settings = read(
        {
            "TIMEOUT": 7,
            "OPTIONS": {
                "WRAPPED_BACKEND": BACKENDS["pylibmc"],
                "NAMESPACE": "shop",
                "MAX_STALENESS": 5,
                "binary": True,
            },
        },
        wrapper=NamespacedCache,
    )
    assert settings.wrapped_class is PyLibMCCache
    assert settings.namespace == "shop"
    assert settings.max_staleness == 5
    assert settings.wrapped_params == {"TIMEOUT": 7, "OPTIONS": {"binary": True}}


def test_a_namespace_of_none_means_one_namespace_per_run():
    assert options(NAMESPACE=None).namespace is None


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("MAX_TIMOUT", "MAX_TIMEOUT"),
        ("max_timeout", "MAX_TIMEOUT"),
        ("NAMESPACES", "NAMESPACE"),
        ("namespace", "NAMESPACE"),
        ("Max_Stalenes", "MAX_STALENESS"),
        ("wrapped_backend", "WRAPPED_BACKEND"),
    ],
)
def test_a_misspelled_option_is_refused_with_the_right_spelling(name, right):
    assert refusal(ImproperlyConfigured, **{name: 1}) == (
        f"OPTIONS has {name!r}, which NamespacedCache does not know: it is spelled "
        f"{right!r}."
    )


class DiscoveringCache(PyMemcacheCache):
    """A backend that is not Django's, with options of its own."""


@pytest.mark.parametrize("name", ["IGNORE_CLUSTER_ERRORS", "namespace", "X"])
def test_a_backend_that_is_not_djangos_gets_its_own_options(name):
    path = f"{__name__}.DiscoveringCache"
    given = {"OPTIONS": {"WRAPPED_BACKEND": path, name: 1, "NAMESPACE": "shop"}}
    found = read(given, wrapper=NamespacedCache)
    assert found.wrapped_params["OPTIONS"] == {name: 1}


@pytest.mark.parametrize("name", ["dead_timeout", "connect_timeout", "timeout"])
def test_an_option_of_the_client_is_no_misspelling(name):
    given = {"OPTIONS": {name: 1}}
    assert read(given, wrapper=NamespacedCache).wrapped_params["OPTIONS"] == {name: 1}


@pytest.mark.parametrize("name", ["MAX_ENTRIES", "WRAPPED", "X"])
def test_an_unknown_option_in_upper_case_is_refused(name):
    assert refusal(ImproperlyConfigured, **{name: 1}) == (
        f"OPTIONS has {name!r}, which NamespacedCache does not know: its own options "
        f"are WRAPPED_BACKEND, NAMESPACE, MAX_STALENESS, MAX_TIMEOUT; options in lower "
        f"case go to the client."
    )


@pytest.mark.parametrize(
    "name", ["", "shop tests", "shop.tests", "shop:1", "shop\n", "é", "x" * 33, 1, b"a"]
)
def test_an_invalid_namespace_is_refused(name):
    assert refusal(ImproperlyConfigured, NAMESPACE=name) == (
        f"OPTIONS['NAMESPACE'] is {name!r}: it takes 1 to 32 letters, digits, '_' and "
        f"'-', or None for one namespace for each run."
    )


@pytest.mark.parametrize(
    "seconds", [0, 0.0, 0.25, 1, 60.5, pytest.param(10**400, id="huge")]
)
def test_max_staleness_is_a_number_of_seconds(seconds):
    assert options(MAX_STALENESS=seconds).max_staleness == seconds


@pytest.mark.parametrize(
    "seconds",
    [
        -1,
        -0.001,
        float("nan"),
        float("inf"),
        float("-inf"),
        True,
        False,
        "60",
        b"60",
        None,
        timedelta(seconds=60),
        Decimal(60),
        [60],
    ],
    ids=repr,
)
def test_an_invalid_max_staleness_is_refused(seconds):
    assert refusal(ImproperlyConfigured, MAX_STALENESS=seconds) == (
        f"OPTIONS['MAX_STALENESS'] is {seconds!r}: it takes a number of seconds, 0 or "
        f"more."
    )


@pytest.mark.parametrize("backend", [None, 1, PyMemcacheCache, ["a.B"]])
def test_a_wrapped_backend_that_is_not_a_path_is_refused(backend):
    assert refusal(InvalidCacheBackendError, WRAPPED_BACKEND=backend) == (
        f"OPTIONS['WRAPPED_BACKEND'] is {backend!r}: {TAKES}"
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", " doesn't look like a module path"),
        ("nowhere", "nowhere doesn't look like a module path"),
        ("nowhere.Cache", "No module named 'nowhere'"),
        (
            "django.core.cache.backends.memcached.Nope",
            (
                'Module "django.core.cache.backends.memcached" does not define a '
                '"Nope" attribute/class'
            ),
        ),
    ],
)
def test_a_wrapped_backend_that_does_not_exist_is_refused(path, reason):
    assert refusal(InvalidCacheBackendError, WRAPPED_BACKEND=path) == (
        f"OPTIONS['WRAPPED_BACKEND'] is {path!r}, which cannot be imported "
        f"({reason}): {TAKES}"
    )


@pytest.mark.parametrize(
    "path",
    [
        "django.core.cache.backends.locmem.LocMemCache",
        "django.core.cache.backends.base.BaseCache",
        "django.core.cache.backends.memcached.BaseMemcachedCache",
    ],
)
def test_a_wrapped_backend_for_another_server_is_refused(path):
    assert refusal(InvalidCacheBackendError, WRAPPED_BACKEND=path) == (
        f"OPTIONS['WRAPPED_BACKEND'] is {path!r}, which is no memcached backend: "
        f"{TAKES}"
    )


@pytest.mark.parametrize("path", ["django.core.cache.cache", "os.path", "os.sep"])
def test_a_wrapped_backend_that_is_no_class_and_no_function_is_refused(path):
    assert refusal(InvalidCacheBackendError, WRAPPED_BACKEND=path) == (
        f"OPTIONS['WRAPPED_BACKEND'] is {path!r}, neither a class nor a function: "
        f"{TAKES}"
    )


@pytest.mark.parametrize("given", ["no_delay", 5, ["no_delay"]])
def test_options_that_are_not_a_dictionary_are_refused(given):
    with pytest.raises(ImproperlyConfigured) as caught:
        NamespacedCache("127.0.0.1:1", {"OPTIONS": given})
    assert str(caught.value) == f"OPTIONS is {given!r}: it takes a dictionary."


@pytest.mark.parametrize(
    "path",
    [
        "namespaced_cache.NamespacedCache",
        "namespaced_cache.backend.NamespacedCache",
        f"{__name__}.NamespacedSubclass",
    ],
)
def test_the_wrapper_does_not_wrap_itself(path):
    assert refusal(InvalidCacheBackendError, WRAPPED_BACKEND=path) == (
        f"OPTIONS['WRAPPED_BACKEND'] is {path!r}, the wrapper itself: {TAKES}"
    )


def test_options_in_lower_case_reach_pymemcache():
    """Both values are tested, because one of them is the client's default."""
    for given in (True, False):
        cache = NamespacedCache("127.0.0.1:1", {"OPTIONS": {"no_delay": given}})
        assert cache._cache.default_kwargs["no_delay"] is given


def test_options_in_lower_case_reach_pylibmc():
    for given in (True, False):
        ours = {"WRAPPED_BACKEND": BACKENDS["pylibmc"], "NAMESPACE": "shop"}
        theirs = {"binary": given, "behaviors": {"tcp_nodelay": given}}
        cache = NamespacedCache("127.0.0.1:1", {"OPTIONS": {**ours, **theirs}})
        assert cache._cache.binary is given
        assert bool(cache._cache.behaviors["tcp_nodelay"]) is given


def test_the_settings_are_not_changed(backend, server):
    """Django builds the backends of all threads from the same dictionaries."""
    params = {
        "TIMEOUT": 7,
        "KEY_PREFIX": "site",
        "OPTIONS": {"WRAPPED_BACKEND": backend, "NAMESPACE": "shop"},
    }
    before = deepcopy(params)
    cache = NamespacedCache(server.location, params)
    cache.set("k", "v")
    cache.close()
    assert params == before


def test_each_thread_gets_the_same_options(backend, server):
    setting = {
        "BACKEND": "namespaced_cache.NamespacedCache",
        "LOCATION": server.location,
        "OPTIONS": {"WRAPPED_BACKEND": backend, "NAMESPACE": "shop"},
    }
    seen = []

    def use():
        seen.append((caches["default"].namespace, caches["default"]._class))

    with override_settings(CACHES={"default": setting}):
        for _ in range(2):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
        use()
    assert [namespace for namespace, _ in seen] == ["shop"] * 3
    assert len(set(seen)) == 1


@pytest.mark.parametrize("seconds", [None, 1, 60, 10**9])
def test_max_timeout_is_a_whole_number_of_seconds(seconds):
    assert options(MAX_TIMEOUT=seconds).max_timeout == seconds


@pytest.mark.parametrize("seconds", [0, -1, 1.0, True, "60", b"1", [60]], ids=repr)
def test_an_invalid_max_timeout_is_refused(seconds):
    assert refusal(ImproperlyConfigured, MAX_TIMEOUT=seconds) == (
        f"OPTIONS['MAX_TIMEOUT'] is {seconds!r}: it takes a whole number of seconds "
        f"above 0, or None to leave timeouts alone."
    )
