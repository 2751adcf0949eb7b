"""What a run and a live site are told, and that no application call fails for it.

It covers aliases that cannot be namespaced, warnings that are errors, servers that
are down, and a site that uses the settings of its tests.
"""

from __future__ import annotations

import pytest

from tests.support.projects import RUNNER, Project

INI = (
    "[pytest]\npythonpath = .\npython_files = test_*.py\ncache_namespace_wrap = true\n"
)

#: A backend on the client of a library that has no adapter.
OTHER_LIBRARY = """
from django.core.cache.backends.memcached import BaseMemcachedCache

class Client:
    def __init__(self, servers, **options):
        self.items = {}
    def get(self, key, default=None):
        return self.items.get(key, default)
    def set(self, key, value, timeout=None):
        self.items[key] = value
        return True
    def disconnect_all(self):
        pass

class OtherCache(BaseMemcachedCache):
    def __init__(self, server, params):
        import other_library
        super().__init__(server, params, other_library, ValueError)
"""

SETTINGS = """
from settings import *

DATABASES = {}
INSTALLED_APPS = []
del ROOT_URLCONF, SESSION_ENGINE
CACHES["other"] = {
    "BACKEND": "other_library.OtherCache", "LOCATION": "127.0.0.1:1"
}
"""

TESTS = """
from django.core.cache import caches
from django.test import SimpleTestCase

class Isolated(SimpleTestCase):
    def test_one(self):
        assert caches["default"].add("k", 1)
    def test_other(self):
        assert caches["default"].add("k", 1)

class UsesTheOther(SimpleTestCase):
    def test_it(self):
        caches["other"].set("k", 1)
        assert caches["other"].get("k") == 1
"""


@pytest.fixture
def project(tmp_path, server):
    made = Project(tmp_path, server.location, settings="other_settings")
    made.write("pytest.ini", INI)
    made.write("suite/test_every_kind.py", "")
    made.write("other_library.py", OTHER_LIBRARY)
    made.write("other_settings.py", SETTINGS)
    made.write("test_it.py", TESTS)
    return made


NOTICE = (
    "CACHES['other'] is not isolated: The wrapped backend's client is a "
    "other_library.Client: only clients made from pymemcache's and pylibmc's can be "
    "namespaced. To use this one bare, exclude its alias: cache_namespace_exclude."
)


def test_pytest_isolates_the_other_aliases_and_names_this_one_once(project):
    run = project.pytest("-W", "default")
    assert (run.count("passed"), run.count("failed")) == (2, 1), run.output
    assert run.output.count(NOTICE) == 1, run.output


def test_pytest_leaves_an_excluded_alias_bare(project):
    project.write("pytest.ini", INI + "cache_namespace_exclude = other\n")
    run = project.pytest("-W", "error::namespaced_cache.NamespaceWarning")
    assert (run.code, run.count("passed")) == (0, 3), run.output
    assert "is not isolated" not in run.output


def test_djangos_runner_isolates_the_other_aliases_and_names_this_one_once(project):
    run = project.run("-W", "default", "-m", "django", "test", RUNNER)
    assert run.ran == 3, run.output
    assert "FAILED (errors=1)" in run.output
    assert run.output.count(NOTICE) == 1, run.output


@pytest.mark.parametrize("parallel", ["", "--parallel=2"])
def test_djangos_runner_leaves_an_excluded_alias_bare(project, parallel):
    project.write(
        "own_runner.py",
        """
        from namespaced_cache.test import NamespacedDiscoverRunner

        class OwnRunner(NamespacedDiscoverRunner):
            cache_namespace_exclude = ("other",)
        """,
    )
    arguments = filter(None, ["test", "--testrunner=own_runner.OwnRunner", parallel])
    run = project.manage(*arguments)
    assert (run.code, run.ran) == (0, 3), run.output


# Warnings that are errors.

OVERRIDES = """
import pytest
from django.core.cache import caches
from django.test import override_settings

NOWHERE = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": "127.0.0.1:1",
    }
}

def test_a_dead_server():
    with override_settings(CACHES=NOWHERE):
        with pytest.raises(ConnectionRefusedError):
            caches["default"].set("k", 1)

def test_afterwards():
    assert caches["default"].add("k", 1)

def test_flushes():
    caches["default"]._cache.wrapped.flush_all()
"""


def test_no_call_of_the_application_raises_a_warning(project):
    project.write("test_it.py", OVERRIDES)
    run = project.pytest("-W", "error", "-p", "no:randomly")
    assert (run.code, run.count("passed")) == (0, 3), run.output
    named = "cache isolation: CACHES['default'] is not isolated: "
    (dead,) = (line for line in run.output.splitlines() if line.startswith(named))
    assert "on 127.0.0.1:1: no answer" in dead
    assert dead.endswith(
        "Start the server, or point the alias at another: tests that need it will "
        "fail, or find nothing."
    )
    assert "cache isolation: flush_all() on a client without a namespace" in run.output


# A server that is down.


@pytest.mark.parametrize("require", ["", "cache_namespace_require = true\n"])
def test_pytest_warns_of_a_server_that_is_down_or_fails(project, require):
    project.write("pytest.ini", INI + require)
    project.write("test_it.py", "def test_plain():\n    pass\n")
    run = project.pytest("-W", "default", MEMCACHED_LOCATION="127.0.0.1:1")
    if require:
        assert run.count("error") == 1, run.output
        assert "Namespace 'run-" in run.output
    else:
        assert (run.code, run.count("passed")) == (0, 1), run.output
        assert "CACHES['default'] is not isolated: Namespace 'run-" in run.output
        # No place, because no line of the project has caused it.
        assert "cache isolation:0: NamespaceWarning" in run.output


def test_djangos_runner_fails_if_a_required_server_is_down(project):
    project.write(
        "own_runner.py",
        """
        from namespaced_cache.test import NamespacedDiscoverRunner

        class OwnRunner(NamespacedDiscoverRunner):
            cache_namespace_require = True
        """,
    )
    runner = "--testrunner=own_runner.OwnRunner"
    run = project.manage("test", runner, MEMCACHED_LOCATION="127.0.0.1:1")
    assert run.code == 1, run.output
    assert "NamespaceUnavailable: Namespace 'run-" in run.output


# A live site.

SITE = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s")
import django
django.setup()
from django.core.cache import caches
for _ in range(2):
    caches["default"].set("k", 1)
    del caches["default"]
"""

WRAPPED = """
from settings import *
from namespaced_cache import namespaced
DATABASES, INSTALLED_APPS = {}, []
del ROOT_URLCONF, SESSION_ENGINE
"""


def test_a_site_without_a_name_is_warned_once_loudly(project):
    project.write("live.py", WRAPPED + "CACHES = namespaced(CACHES)\n")
    run = project.run("-W", "default", "-c", SITE, DJANGO_SETTINGS_MODULE="live")
    assert run.code == 0, run.output
    text = "A cache alias on NamespacedCache has no NAMESPACE, and this is no test run"
    assert run.output.count(f"WARNING {text}") == 1, run.output
    assert run.output.count(f"NamespaceWarning: {text}") == 1, run.output
    assert 'CACHES = namespaced(CACHES, NAMESPACE="site")' in run.output


def test_a_site_whose_warnings_are_errors_works(project):
    project.write("live.py", WRAPPED + "CACHES = namespaced(CACHES)\n")
    run = project.run("-W", "error", "-c", SITE, DJANGO_SETTINGS_MODULE="live")
    assert run.code == 0, run.output
    assert "WARNING A cache alias" in run.output


@pytest.mark.parametrize(
    ("setting", "environment"),
    [
        ('namespaced(CACHES, NAMESPACE="site")', {}),
        ("namespaced(CACHES)", {"NAMESPACED_CACHE_RUN": "run-of-a-test"}),
    ],
    ids=["named", "started by a test"],
)
def test_no_other_process_is_warned(project, setting, environment):
    project.write("live.py", WRAPPED + f"CACHES = {setting}\n")
    live = {"DJANGO_SETTINGS_MODULE": "live", **environment}
    run = project.run("-W", "default", "-c", SITE, **live)
    assert run.code == 0, run.output
    assert "NAMESPACE" not in run.output


@pytest.mark.parametrize("program", ["pytest", "django", "unittest"])
def test_no_test_run_is_warned(project, program):
    project.write("live.py", WRAPPED + "CACHES = namespaced(CACHES)\n")
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    project.write(
        "test_it.py",
        """
        import unittest, django
        django.setup()
        from django.core.cache import cache

        class Test(unittest.TestCase):
            def test_it(self):
                cache.set("k", 1)
        """,
    )
    arguments = {
        "pytest": ["-m", "pytest", "-p", "no:randomly"],
        "django": ["-m", "django", "test"],
        "unittest": ["-m", "unittest", "test_it"],
    }
    live = {"DJANGO_SETTINGS_MODULE": "live"}
    run = project.run("-W", "default", *arguments[program], **live)
    assert run.code == 0, run.output
    assert "NAMESPACE" not in run.output
