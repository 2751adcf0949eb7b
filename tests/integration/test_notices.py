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


def test_each_alias_of_one_class_is_named_or_isolated(project):
    project.write(
        "mixed_library.py",
        """
        from django.core.cache.backends.memcached import PyMemcacheCache
        from django.utils.functional import cached_property
        import other_library

        class MixedCache(PyMemcacheCache):
            @cached_property
            def _cache(self):
                if self.key_prefix == "other":
                    return other_library.Client(self.client_servers)
                return self._class(self.client_servers, **self._options)
        """,
    )
    project.write(
        "mixed_settings.py",
        """
        from other_settings import *
        location = CACHES["default"]["LOCATION"]
        mixed = {"BACKEND": "mixed_library.MixedCache", "LOCATION": location}
        CACHES = {
            "third": {**mixed, "KEY_PREFIX": "other"},
            "default": mixed,
            "other": {**mixed, "KEY_PREFIX": "other"},
        }
        """,
    )
    run = project.pytest("-W", "default", DJANGO_SETTINGS_MODULE="mixed_settings")
    assert (run.count("passed"), run.count("failed")) == (2, 1), run.output
    assert run.output.count(NOTICE) == 1, run.output
    assert run.output.count(NOTICE.replace("'other'", "'third'", 1)) == 1, run.output


def test_the_notices_of_workers_are_shown_once(project):
    warnings_are_errors = ("-W", "error::namespaced_cache.NamespaceWarning")
    run = project.pytest(*warnings_are_errors, "-n", "2")
    assert run.output.count(f"cache isolation: {NOTICE}") == 1, run.output


@pytest.mark.parametrize(
    ("exclude", "said"),
    [
        (
            "defalt",
            "cache_namespace_exclude: CACHES has no alias 'defalt': it has 'default',",
        ),
        (
            "other\n    def",
            "cache_namespace_exclude: CACHES has no alias 'def': it has ",
        ),
    ],
)
def test_an_excluded_alias_has_to_exist(project, exclude, said):
    project.write("pytest.ini", f"{INI}cache_namespace_exclude =\n    {exclude}\n")
    run = project.pytest()
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    assert f"ERROR: {said}" in run.output


@pytest.mark.parametrize(
    ("exclude", "said"),
    [
        (["defalt"], "cache_namespace_exclude: CACHES has no alias 'defalt': it has "),
        ("other", "cache_namespace_exclude is 'other': it takes a list of aliases."),
    ],
)
def test_the_runner_checks_its_exclude_too(project, exclude, said):
    project.write(
        "own_runner.py",
        f"""
        from namespaced_cache.test import NamespacedDiscoverRunner

        class Runner(NamespacedDiscoverRunner):
            cache_namespace_exclude = {exclude!r}
        """,
    )
    run = project.manage("test", "--testrunner=own_runner.Runner")
    assert run.code == 1, run.output
    assert f"ImproperlyConfigured: {said}" in run.output


@pytest.mark.parametrize("way", ["ini", "runner"])
def test_an_excluded_memcached_alias_is_not_warned_of(project, way):
    project.write(
        "own_runner.py",
        """
        from namespaced_cache.test import NamespacedDiscoverRunner

        class Runner(NamespacedDiscoverRunner):
            cache_namespace_exclude = ["default", "other"]
        """,
    )
    project.write(
        "test_it.py",
        """
        from django.core.cache import caches
        from django.test import SimpleTestCase

        class Test(SimpleTestCase):
            def test_it(self):
                caches["default"]
        """,
    )
    # On a port where the site's own memcached could be. Nothing connects to it.
    site = {"MEMCACHED_LOCATION": "127.0.0.1:1"}
    if way == "ini":
        project.write("pytest.ini", INI + "cache_namespace_exclude = default other\n")
        run = project.pytest("-W", "default", **site)
    else:
        arguments = ("-m", "django", "test", "--testrunner=own_runner.Runner")
        run = project.run("-W", "default", *arguments, **site)
    assert "without a namespace" not in run.output, run.output


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
    text = "CACHES['default'] has no NAMESPACE, and this is not a test run"
    assert run.output.count(f"WARNING {text}") == 1, run.output
    assert run.output.count(f"<string>:8: NamespaceWarning: {text}") == 1, run.output
    assert 'CACHES = namespaced(CACHES, NAMESPACE="site")' in run.output


def test_a_site_whose_warnings_are_errors_works(project):
    project.write("live.py", WRAPPED + "CACHES = namespaced(CACHES)\n")
    run = project.run("-W", "error", "-c", SITE, DJANGO_SETTINGS_MODULE="live")
    assert run.code == 0, run.output
    assert "WARNING CACHES['default'] has no NAMESPACE" in run.output


#: Lines that a site runs before it uses the cache.
BEFORE = {
    "Python is embedded": "sys.argv = []",
    "a path": "sys.argv = ['/srv/unittest-portal/manage.py']",
    "a handler that uses the cache": """
def emit(record):
    print(record.getMessage())
    caches["default"].set("throttle", 1)

logging.root.handlers[0].emit = emit
""",
    "a handler that raises": """
def emit(record):
    print(record.getMessage())
    raise ZeroDivisionError

logging.root.handlers[0].emit = emit
""",
    "a child, as of runserver": """
import os, subprocess
if len(sys.argv) == 1:
    from namespaced_cache.core import identity
    identity.run()
    child = [sys.executable, "-W", "ignore", "-c", os.environ["CODE"], "child"]
    sys.exit(subprocess.call(child))
""",
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_the_warning_does_not_depend_on_the_process_and_disturbs_nothing(
    project, before
):
    project.write("live.py", WRAPPED + "CACHES = namespaced(CACHES)\n")
    code = SITE.replace("for _ in range(2)", f"{before}\nfor _ in range(2)")
    environment = {"DJANGO_SETTINGS_MODULE": "live", "CODE": code}
    run = project.run("-W", "ignore", "-c", code, **environment)
    assert run.code == 0, run.output
    assert run.output.count("CACHES['default'] has no NAMESPACE") == 1, run.output


@pytest.mark.parametrize(
    ("setting", "environment"),
    [
        ('namespaced(CACHES, NAMESPACE="site")', {}),
        ("namespaced(CACHES)", {"NAMESPACED_CACHE_RUN": "named-by-hand"}),
        ("namespaced(CACHES)", {"NAMESPACED_CACHE_TESTS": "1"}),
    ],
    ids=["named", "named by hand", "started by a test"],
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
