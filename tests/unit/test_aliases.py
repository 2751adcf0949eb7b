"""aliases: namespaced() for settings, invalidate_namespaces() for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from copy import deepcopy

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache, InvalidCacheBackendError
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from namespaced_cache import (
    NamespacedCache,
    NamespaceError,
    NamespaceUnavailable,
    get_namespaced,
    invalidate_namespaces,
    namespaced,
)
from tests.support.caches import BACKENDS

OURS = "namespaced_cache.NamespacedCache"
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
DUMMY = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}


class SitesCache(PyMemcacheCache):
    """A project's own backend."""


class SitesNamespacedCache(NamespacedCache):
    """A project's own wrapper."""


def alias(location, namespace, client="pymemcache"):
    """Make the setting of an alias that has a namespace."""
    ours = {"WRAPPED_BACKEND": BACKENDS[client], "NAMESPACE": namespace}
    return {"BACKEND": OURS, "LOCATION": location, "OPTIONS": ours}


@pytest.fixture
def site(server, client):
    """A site with two namespaces and an alias without one."""
    setting = {
        "default": alias(server.location, "first", client),
        "other": alias(server.location, "second", client),
        "local": LOCMEM,
    }
    with override_settings(CACHES=setting):
        yield caches


# namespaced()


def test_every_memcached_alias_is_wrapped(backend):
    setting = {
        "default": {
            "BACKEND": backend,
            "LOCATION": "127.0.0.1:1",
            "TIMEOUT": 7,
            "KEY_PREFIX": "site",
            "OPTIONS": {"no_delay": True},
        },
        "other": {"BACKEND": backend, "LOCATION": ["127.0.0.1:2"], "OPTIONS": None},
    }
    assert namespaced(setting) == {
        "default": {
            "BACKEND": OURS,
            "LOCATION": "127.0.0.1:1",
            "TIMEOUT": 7,
            "KEY_PREFIX": "site",
            "OPTIONS": {"no_delay": True, "WRAPPED_BACKEND": backend},
        },
        "other": {
            "BACKEND": OURS,
            "LOCATION": ["127.0.0.1:2"],
            "OPTIONS": {"WRAPPED_BACKEND": backend},
        },
    }


@pytest.mark.parametrize(
    "setting",
    [
        {**LOCMEM, "LOCATION": "a", "OPTIONS": {"MAX_ENTRIES": 7}},
        DUMMY,
        alias("127.0.0.1:1", "shop"),
        {"BACKEND": f"{__name__}.SitesNamespacedCache", "LOCATION": "127.0.0.1:1"},
    ],
    ids=["locmem", "dummy", "namespaced", "namespaced subclass"],
)
def test_other_aliases_are_not_changed(setting):
    """namespaced() adds no options to them either."""
    assert namespaced({"x": setting}, NAMESPACE="added") == {"x": setting}


def test_a_backend_of_the_projects_own_is_wrapped():
    path = f"{__name__}.SitesCache"
    wrapped = namespaced({"default": {"BACKEND": path, "LOCATION": "127.0.0.1:1"}})
    assert wrapped["default"]["BACKEND"] == OURS
    assert wrapped["default"]["OPTIONS"] == {"WRAPPED_BACKEND": path}
    with override_settings(CACHES=wrapped):
        assert isinstance(caches["default"], SitesCache)


def test_options_are_added_to_each_alias_that_is_wrapped(backend):
    """They replace options that an alias has."""
    setting = {
        "default": {"BACKEND": backend},
        "other": {"BACKEND": backend, "OPTIONS": {"NAMESPACE": "old", "timeout": 1}},
    }
    wrapped = namespaced(setting, NAMESPACE="new", connect_timeout=2)
    added = {"WRAPPED_BACKEND": backend, "NAMESPACE": "new", "connect_timeout": 2}
    assert wrapped["default"]["OPTIONS"] == added
    assert wrapped["other"]["OPTIONS"] == {**added, "timeout": 1}


def test_the_settings_are_not_changed(backend):
    setting = {
        "default": {
            "BACKEND": backend,
            "LOCATION": ["127.0.0.1:1"],
            "OPTIONS": {"behaviors": {"ketama": True}},
        },
        "local": {**LOCMEM, "OPTIONS": {"MAX_ENTRIES": 7}},
    }
    before = deepcopy(setting)
    wrapped = namespaced(setting, NAMESPACE="shop")
    wrapped["default"]["OPTIONS"]["no_delay"] = True
    wrapped["default"]["OPTIONS"]["behaviors"]["ketama"] = False
    wrapped["default"]["LOCATION"].append("127.0.0.1:2")
    wrapped["local"]["OPTIONS"]["MAX_ENTRIES"] = 8
    for copied in wrapped.values():
        copied["LOCATION"] = "elsewhere"
    wrapped["new"] = {}
    assert setting == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"NAMESPACES": "shop"},
            (
                "OPTIONS has 'NAMESPACES', which NamespacedCache does not know: it is "
                "spelled 'NAMESPACE'."
            ),
        ),
        (
            {"NAMESPACE": "my shop"},
            (
                "OPTIONS['NAMESPACE'] is 'my shop': it takes 1 to 32 letters, digits, "
                "'_' and '-', or None for one namespace for each run."
            ),
        ),
    ],
)
def test_wrong_options_are_refused(backend, options, text):
    with pytest.raises(ImproperlyConfigured) as caught:
        namespaced({"default": {"BACKEND": backend}}, **options)
    assert str(caught.value) == f"CACHES['default']: {text}"


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        (
            {"BACKEND": "nowhere.Cache"},
            "'nowhere.Cache', which cannot be imported (No module named 'nowhere')",
        ),
        (
            {"BACKEND": "c"},
            "'c', which cannot be imported (c doesn't look like a module path)",
        ),
        (
            {"BACKEND": ".Cache"},
            "'.Cache', which cannot be imported (Empty module name)",
        ),
        ({"BACKEND": "os.path"}, "'os.path', neither a class nor a function"),
        ({"BACKEND": 5}, "5"),
        ({}, "None"),
    ],
)
def test_a_backend_that_does_not_exist_is_refused(setting, fault):
    with pytest.raises(InvalidCacheBackendError) as caught:
        namespaced({"default": DUMMY, "other": setting})
    assert str(caught.value) == (
        f"CACHES['other']['BACKEND'] is {fault}: it takes the dotted path of a "
        f"backend, or of a function that returns one."
    )


def test_it_works_in_a_settings_module(tmp_path, backend, server):
    """The settings are read in a new process, in which Django is not set up yet."""
    (tmp_path / "sites_settings.py").write_text(
        "from namespaced_cache import namespaced\n"
        f"CACHES = {{'default': {{'BACKEND': {backend!r},\n"
        f"                       'LOCATION': {server.location!r}}}}}\n"
        "CACHES = namespaced(CACHES, NAMESPACE='shop')\n"
    )
    code = (
        "import django; django.setup()\n"
        "from django.core.cache import cache\n"
        "cache.set('k', 'v')\n"
        "print(cache.namespace, cache.get('k'), cache.invalidate_namespace() > 0,\n"
        "      cache.get('k'))\n"
        "cache.close()\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": path,
            "DJANGO_SETTINGS_MODULE": "sites_settings",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert child.stdout == "shop v True None\n"


# invalidate_namespaces()


def test_every_namespace_is_invalidated_and_nothing_else(site, bare):
    bare.set("k", "neighbour")
    for name in site:
        site[name].set("k", name)
    before = {name: site[name].generation for name in ("default", "other")}
    assert invalidate_namespaces() == {name: n + 1 for name, n in before.items()}
    assert {name: site[name].get("k") for name in site} == {
        "default": None,
        "other": None,
        "local": "local",
    }
    assert bare.get("k") == "neighbour"


@pytest.mark.parametrize(
    ("using", "invalidated"),
    [
        ("other", ["other"]),
        (["other"], ["other"]),
        (("other", "default"), ["other", "default"]),
        (["default", "default"], ["default"]),
        ({"default": "any iterable"}, ["default"]),
        ([], []),
    ],
    ids=["str", "list", "tuple", "twice", "dict", "none"],
)
def test_using_selects_aliases(server, using, invalidated):
    setting = {
        "default": alias(server.location, "first"),
        "other": alias(server.location, "second"),
    }
    with override_settings(CACHES=setting):
        before = {name: caches[name].generation for name in setting}
        expected = {name: before[name] + 1 for name in invalidated}
        generations = invalidate_namespaces(using)
        assert generations == expected
        assert list(generations) == invalidated
        assert {name: caches[name].generation for name in setting} == {
            **before,
            **expected,
        }


def test_aliases_that_were_never_opened_are_invalidated(site, build):
    neighbour = build(OPTIONS={"NAMESPACE": "second"})
    neighbour.set("k", "v")
    assert not site.all(initialized_only=True)
    invalidate_namespaces()
    assert neighbour.get("k") is None


def test_aliases_that_were_never_opened_in_this_thread_are_invalidated(site):
    site["default"].set("k", "v")
    opened = []

    def invalidate():
        opened.extend(site.all(initialized_only=True))
        invalidate_namespaces()
        site.close_all()

    thread = threading.Thread(target=invalidate)
    thread.start()
    thread.join()
    assert opened == []
    assert site["default"].get("k") is None


def test_aliases_that_share_a_namespace_cost_one_round_trip(proxy):
    """They may use either client: they share one counter."""
    setting = {
        "one": alias(proxy.location, "shared"),
        "two": alias(proxy.location, "shared", "pylibmc"),
        "three": alias(proxy.location, "apart"),
    }
    with override_settings(CACHES=setting):
        before = {name: caches[name].generation for name in setting}
        generations = {}
        trips = proxy.during(lambda: generations.update(invalidate_namespaces()))
        assert generations == {name: number + 1 for name, number in before.items()}
        assert generations["one"] == generations["two"]
        assert trips == 2


def test_an_alias_on_a_subclass_of_ours_has_a_namespace(server):
    setting = alias(server.location, "shop")
    setting["BACKEND"] = f"{__name__}.SitesNamespacedCache"
    with override_settings(CACHES={"default": setting}):
        before = caches["default"].generation
        assert invalidate_namespaces() == {"default": before + 1}


def test_without_a_namespace_there_is_nothing_to_invalidate():
    with override_settings(CACHES={"default": LOCMEM, "other": DUMMY}):
        caches["default"].set("k", "v")
        assert invalidate_namespaces() == {}
        assert caches["default"].get("k") == "v"
        caches["default"].clear()


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "ask",
    [
        lambda: invalidate_namespaces("local"),
        lambda: invalidate_namespaces(["default", "local"]),
        lambda: get_namespaced("local"),
    ],
    ids=["one", "among others", "its backend"],
)
def test_a_named_alias_without_a_namespace_is_refused(ask):
    with pytest.raises(ImproperlyConfigured) as caught:
        ask()
    assert str(caught.value) == (
        "The cache alias 'local' has no namespace: its BACKEND is "
        "django.core.cache.backends.locmem.LocMemCache, not "
        "namespaced_cache.NamespacedCache."
    )


def test_rubbish_in_one_counter_does_not_stop_other_invalidations(server, start):
    other = start()
    setting = {
        "bad": alias(server.location, "rubbish"),
        "good": alias(other.location, "rubbish"),
    }
    with override_settings(CACHES=setting):
        caches["good"].set("k", "v")
        caches["bad"]._cache.wrapped.set("nsc:rubbish", "rubbish")
        with pytest.raises(NamespaceError, match="holds 'rubbish'"):
            invalidate_namespaces()
        assert caches["good"].get("k") is None
        caches.close_all()


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("ask", [invalidate_namespaces, get_namespaced])
def test_an_unknown_alias_raises_djangos_error(ask):
    with pytest.raises(InvalidCacheBackendError) as caught:
        ask("nope")
    said = "CACHES has no alias 'nope': it has 'default', 'other', 'local'."
    assert str(caught.value) == said


def test_get_namespaced_returns_djangos_own_instance(site):
    assert get_namespaced() is site["default"]
    assert get_namespaced("other") is site["other"]


def test_a_namespace_whose_server_is_down_raises(start):
    server = start()
    with override_settings(CACHES={"default": alias(server.location, "shop")}):
        assert invalidate_namespaces()
        server.kill()
        with pytest.raises(NamespaceUnavailable):
            invalidate_namespaces()


def test_a_server_that_is_down_does_not_stop_other_invalidations(server, start):
    down = start()
    setting = {
        "down": alias(down.location, "shop"),
        "default": alias(server.location, "shop"),
    }
    with override_settings(CACHES=setting):
        caches["default"].set("k", "v")
        caches["down"].get("k")
        down.kill()
        with pytest.raises(NamespaceUnavailable, match=down.location):
            invalidate_namespaces()
        assert caches["default"].get("k") is None
        caches.close_all()


class Unopened(BaseCache):
    """A backend whose library is not installed."""

    def __init__(self, *_):
        raise ImportError("Its library is not installed.")


def test_aliases_on_other_backends_are_not_opened(backend, server):
    """Only aliases on memcached backends are opened.

    A bare one is opened because a test run may have wrapped it. It is not invalidated.
    """
    bare = {"BACKEND": backend, "LOCATION": server.location}
    setting = {
        "default": bare,
        "broken": {"BACKEND": f"{__name__}.Unopened"},
    }
    with override_settings(CACHES=setting):
        caches["default"].set("k", 1)
        assert invalidate_namespaces() == {}
        assert caches["default"].get("k") == 1
        caches.close_all()


def test_dir_lists_the_names_that_are_imported_later():
    """Django is not imported before one of the names is used."""
    code = (
        "import sys, namespaced_cache as n; "
        "assert set(n.__all__) <= set(dir(n)) and not hasattr(n, 'nope'); "
        "assert 'django' not in sys.modules; "
        "assert n.NamespacedCache.__name__ == 'NamespacedCache'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
