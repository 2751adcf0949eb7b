"""Projects whose BACKEND is a function: pytest and Django's runner isolate them."""

from __future__ import annotations

import pytest

from tests.support.projects import RUNNER, Project

BACKENDS = """
import functools
import os
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache

def chosen(location, params):
    from django.conf import settings  # not while the settings are read
    backend = LocMemCache if params.get("KEY_PREFIX") == "local" else PyMemcacheCache
    assert settings.USE_TZ
    return backend(location, params)

def broken(location, params):
    raise RuntimeError("no server is known")

class Chooser:
    def __call__(self, location, params):
        return PyLibMCCache(location, params)

chooser = Chooser()
part = functools.partial(PyMemcacheCache)
"""

SETTINGS = """
from settings import *
INSTALLED_APPS = []
del ROOT_URLCONF
at = {"LOCATION": os.environ["MEMCACHED_LOCATION"]}
CACHES = {
    "default": {"BACKEND": "site_backends.chosen", **at},
    "local": {"BACKEND": "site_backends.chosen", "KEY_PREFIX": "local"},
    "chooser": {"BACKEND": "site_backends.chooser", "KEY_PREFIX": "c", **at},
    "part": {"BACKEND": "site_backends.part", "KEY_PREFIX": "part", **at},
}
if "broken" in os.environ:  # Django's own checks, before the tests, open each alias
    CACHES["broken"] = {"BACKEND": "site_backends.broken", **at}
"""

NAMESPACED = """
from functions_settings import *
from namespaced_cache import namespaced
CACHES = namespaced(CACHES)
"""

TESTS = """
import os
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.test import SimpleTestCase
from namespaced_cache import NamespacedCache

class Tests(SimpleTestCase):
    def check(self):
        for alias in ("default", "chooser", "part"):
            assert isinstance(caches[alias], NamespacedCache), alias
            assert caches[alias].add("k", 1), alias
        assert type(caches["local"]) is LocMemCache
        # Both tests run in this process, in any order.
        assert caches["local"].get_or_set("pid", os.getpid()) == os.getpid()
        if "broken" in caches.settings:
            with self.assertRaisesMessage(RuntimeError, "no server is known"):
                caches["broken"]

    def test_one(self):
        self.check()

    def test_other(self):
        self.check()

    def test_in_a_child(self):
        caches["default"].set("parents", 1)
        child = os.fork()
        if not child:
            for number in range(50):
                caches["default"].set("childs", number)
            os._exit(caches["default"].get("parents") != 1)
        for number in range(50):
            caches["default"].set("k", number)
            assert caches["default"].get("k") == number
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert caches["default"].get("childs") == 49
"""


@pytest.fixture
def project(tmp_path, server):
    made = Project(tmp_path, server.location, settings="functions_settings")
    made.write("site_backends.py", BACKENDS)
    made.write("functions_settings.py", SETTINGS)
    made.write("functions_namespaced_settings.py", NAMESPACED)
    made.write("suite/test_every_kind.py", TESTS)
    return made


@pytest.mark.parametrize("wrapped_by", ["the ini option", "the settings"])
def test_pytest_isolates_what_a_function_returns(project, wrapped_by, bare):
    if wrapped_by == "the settings":
        project.environment["DJANGO_SETTINGS_MODULE"] = "functions_namespaced_settings"
        wrap = []
    else:
        wrap = ["-o", "cache_namespace_wrap=true"]
    run = project.pytest("-p", "no:randomly", *wrap, "suite", broken="yes")
    assert (run.code, run.count("passed")) == (0, 3), run.output
    assert bare.get_many(["k", "parents", "childs"]) == {}


@pytest.mark.parametrize("settings", ["", "_namespaced"])
def test_the_runner_isolates_what_a_function_returns(project, settings, bare):
    project.environment["DJANGO_SETTINGS_MODULE"] = f"functions{settings}_settings"
    run = project.manage("test", RUNNER, "suite")
    assert (run.code, run.ran) == (0, 3), run.output
    assert bare.get_many(["k", "parents", "childs"]) == {}
