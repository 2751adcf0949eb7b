"""Errors name the alias or the test, the value, and what to do."""

from __future__ import annotations

import re
import sys

import pytest
from django.core.cache import CacheHandler, caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.test import override_settings

from namespaced_cache import (
    NamespacedCache,
    get_namespaced,
    invalidate_namespaces,
    namespaced,
)
from namespaced_cache.admin.server import Server
from namespaced_cache.checks import check_caches
from namespaced_cache.management.commands import cache_namespace
from namespaced_cache.test.isolation import Isolation
from tests.integration.test_cache_namespace import run
from tests.integration.test_pytest_plugin import INI, WRAP
from tests.support.caches import BACKENDS
from tests.support.projects import Project

OURS = "namespaced_cache.NamespacedCache"
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
MEMCACHED = {"BACKEND": BACKENDS["pymemcache"], "LOCATION": "127.0.0.1:1"}


# Settings.


def isolated(setting, *, wrap):
    """Open the alias `second` as in a test run."""
    with override_settings(CACHES={"default": LOCMEM, "second": setting}):
        isolation = Isolation(wrap=wrap)
        isolation.start()
        try:
            return caches["second"]
        finally:
            isolation.stop()


def opened(setting):
    with override_settings(CACHES={"default": LOCMEM, "second": setting}):
        return caches["second"]


def checked(setting):
    with override_settings(CACHES={"default": LOCMEM, "second": setting}):
        return check_caches()


def commanded(setting):
    try:
        return run({"default": LOCMEM, "second": setting}, "list")
    except CommandError as error:
        raise error.__cause__ or error from None


WAYS = [
    opened,
    lambda setting: isolated(setting, wrap=True),
    lambda setting: isolated(setting, wrap=False),
    checked,
    commanded,
]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"NAMESPACE": "a b"}, "OPTIONS['NAMESPACE'] is 'a b': it takes 1 to 32"),
        ({"MAX_STALENESS": -1}, "OPTIONS['MAX_STALENESS'] is -1: it takes"),
        ({"MAX_TIMOUT": 1}, "OPTIONS has 'MAX_TIMOUT', which"),
        ({"WRAPPED_BACKEND": "no.such"}, "OPTIONS['WRAPPED_BACKEND'] is 'no.such'"),
        (["NAMESPACE"], "OPTIONS is ['NAMESPACE']: it takes a dictionary."),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", WAYS)
def test_an_invalid_option_names_its_alias_once(way, options, said):
    setting = {"BACKEND": OURS, "LOCATION": "127.0.0.1:1", "OPTIONS": options}
    with pytest.raises(ImproperlyConfigured) as caught:
        way(setting)
    assert str(caught.value).startswith(f"CACHES['second']: {said}")
    assert str(caught.value).count("CACHES") == 1
    is_backend = "WRAPPED_BACKEND" in options
    kind = InvalidCacheBackendError if is_backend else ImproperlyConfigured
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            MEMCACHED | {"OPTIONS": {"NAMESPACE": "a b"}},
            "CACHES['second']: OPTIONS['NAMESPACE'] is 'a b': it takes 1 to 32",
        ),
        (MEMCACHED | {"OPTIONS": ["x"]}, "CACHES['second']: OPTIONS is ['x']: it"),
        (BACKENDS["pymemcache"], "CACHES['second'] is 'django.core"),
        ({"BACKEND": "no.such"}, "CACHES['second']['BACKEND'] is 'no.such', which"),
    ],
    ids=str,
)
def test_namespaced_names_the_alias_of_an_invalid_setting(setting, said):
    with pytest.raises(ImproperlyConfigured) as caught:
        namespaced({"default": LOCMEM, "second": setting})
    assert str(caught.value).startswith(said)


NO_NAME = {"BACKEND": OURS, "OPTIONS": {"NAMESPACE": "a b"}}


@pytest.mark.parametrize(
    "open_it",
    [
        lambda: NamespacedCache("127.0.0.1:1", {"OPTIONS": NO_NAME["OPTIONS"]}),
        lambda: CacheHandler({"default": NO_NAME})["default"],
    ],
)
def test_a_backend_that_belongs_to_no_alias_names_none(open_it):
    with pytest.raises(ImproperlyConfigured) as caught:
        open_it()
    assert str(caught.value).startswith("OPTIONS['NAMESPACE'] is 'a b': it takes")


def test_an_invalid_location_names_its_alias(monkeypatch):
    # pymemcache refuses this one itself, at another time.
    monkeypatch.setattr(
        cache_namespace, "Server", lambda _, *others: Server("a:b:c", *others)
    )
    with pytest.raises(CommandError) as caught:
        run({"default": LOCMEM, "second": MEMCACHED}, "list")
    said = "CACHES['second']: LOCATION has 'a:b:c': it takes HOST:PORT or unix:/PATH."
    assert str(caught.value) == said


# Client libraries.


@pytest.fixture(params=["pymemcache", "pylibmc"])
def missing(request, monkeypatch):
    """A client library that is not installed."""
    for name in [*sys.modules]:
        if name.partition(".")[0] == request.param:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, request.param, None)
    return request.param


@pytest.mark.parametrize("way", WAYS)
def test_a_missing_library_names_its_alias_and_the_extra(missing, way):
    setting = {"BACKEND": OURS, "OPTIONS": {"WRAPPED_BACKEND": BACKENDS[missing]}}
    with pytest.raises(ModuleNotFoundError) as caught:
        way(setting | {"LOCATION": "127.0.0.1:1"})
    assert str(caught.value) == (
        f"CACHES['second'] cannot be opened: {missing} is not installed: "
        f"pip install 'django-namespaced-cache[{missing}]'"
    )
    assert caught.value.name.partition(".")[0] == missing


def test_the_command_names_the_extra_for_a_bare_alias(missing):
    with pytest.raises(CommandError) as caught:
        run({"default": {"BACKEND": BACKENDS[missing], "LOCATION": "h:1"}}, "list")
    said = f"CACHES['default'] cannot be opened: {missing} is not installed: pip ins"
    assert str(caught.value).startswith(said)


def test_a_backend_whose_module_imports_the_library_names_the_extra(
    missing, tmp_path, monkeypatch
):
    name = f"backend_of_{missing}"
    (tmp_path / f"{name}.py").write_text(f"import {missing}\nclass Backend: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidCacheBackendError) as caught:
        opened({"BACKEND": OURS, "OPTIONS": {"WRAPPED_BACKEND": f"{name}.Backend"}})
    assert str(caught.value) == (
        f"CACHES['second']: OPTIONS['WRAPPED_BACKEND'] is '{name}.Backend', which "
        f"cannot be imported: {missing} is not installed: "
        f"pip install 'django-namespaced-cache[{missing}]'"
    )


def test_any_other_missing_module_is_left_as_it_is():
    setting = {"BACKEND": OURS, "OPTIONS": {"WRAPPED_BACKEND": "no.such"}}
    with pytest.raises(InvalidCacheBackendError, match=r"\(No module named 'no'\)"):
        opened(setting)


# Names of aliases.


@pytest.mark.parametrize(
    "use",
    [
        lambda: run({"default": MEMCACHED, "second": LOCMEM}, "list", "--alias", "no"),
        lambda: run({"default": MEMCACHED, "second": LOCMEM}, "purge", "--alias=no"),
        lambda: run(
            {"default": LOCMEM, "second": LOCMEM}, "invalidate", "--alias", "no"
        ),
        lambda: get_namespaced("no"),
        lambda: invalidate_namespaces(using="no"),
        lambda: invalidate_namespaces(using=["no", "default"]),
    ],
)
def test_an_unknown_alias_lists_the_existing_ones(use):
    with (
        override_settings(CACHES={"default": LOCMEM, "second": LOCMEM}),
        pytest.raises((CommandError, InvalidCacheBackendError)) as caught,
    ):
        use()
    assert str(caught.value) == "CACHES has no alias 'no': it has 'default', 'second'."


@pytest.mark.parametrize("way", ["list", "invalidate", "purge"])
def test_an_alias_that_is_not_on_memcached_lists_those_that_are(way):
    caches = {"default": MEMCACHED, "second": LOCMEM, "third": MEMCACHED}
    with pytest.raises(CommandError) as caught:
        run(caches, way, "--alias", "second")
    assert str(caught.value) == (
        f"The cache alias 'second' is not on memcached: its BACKEND is "
        f"{LOCMEM['BACKEND']!r}. On memcached: 'default', 'third'."
    )


# Scopes.


@pytest.mark.parametrize(
    ("text", "test", "source"),
    [
        (
            "@pytest.mark.cache_isolation('session')\ndef test_it(): pass",
            "test_it",
            "The marker cache_isolation of test_wrong.py::test_it is 'session'",
        ),
        (
            "class TestIt:\n    cache_isolation = 1\n    def test_it(self): pass",
            "TestIt::test_it",
            "test_wrong.py::TestIt.cache_isolation is 1",
        ),
        (
            "pytestmark = pytest.mark.cache_isolation()\ndef test_it(): pass",
            "test_it",
            "The marker cache_isolation of test_wrong.py is ()",
        ),
    ],
    ids=["test", "class", "module"],
)
def test_pytest_shows_an_invalid_scope_in_one_line(
    tmp_path, server, text, test, source
):
    project = Project(tmp_path, server.location)
    project.write("pytest.ini", INI + WRAP)
    project.write("test_wrong.py", f"import pytest\n{text}\n")
    project.write("test_right.py", "def test_right(): pass\n")
    found = project.run("-m", "pytest", "test_wrong.py", "test_right.py", COLUMNS="300")
    said = f"{source}: it takes function, empty, class, off."
    _, _, after = found.output.partition(f"ERROR at setup of {test.replace('::', '.')}")
    shown, _, summary = after.partition("short test summary info")
    report = "cache isolation: 1 namespace, invalidated 2 times"
    assert shown.splitlines()[1:-1] == [said, report], found.output
    assert f"ERROR test_wrong.py::{test} - Failed: {said}\n" in summary
    assert "1 passed, 1 error" in summary


def test_djangos_runner_shows_an_invalid_scope_in_one_line(tmp_path, server):
    project = Project(tmp_path, server.location)
    project.write(
        "test_wrong.py",
        """
        from django.test import SimpleTestCase
        class Wrong(SimpleTestCase):
            cache_isolation = "session"
            def test_it(self): pass
        """,
    )
    runner = "--testrunner=namespaced_cache.test.NamespacedDiscoverRunner"
    found = project.manage("test", runner)
    said = "ValueError: Wrong.cache_isolation is 'session': it takes function, empty, c"
    assert re.search(
        rf"^ERROR: setUpClass \(.*\)\n-+\n{said}", found.output, re.MULTILINE
    )
    assert "Traceback" not in found.output
