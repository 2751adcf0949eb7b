"""djblets: its forwarding backend around ours, its cache functions and its own tests.

Its tests for caches and locks use kgb's spies. They run against the forwarding backend.
"""

from __future__ import annotations

import re

import pytest

from tests.support.projects import RUNNER

SETTINGS = """
import os

SECRET_KEY = "not a secret, but as long as a secret has to be"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
SITE_ID = 1
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sites",
    "django.contrib.sessions",
    "djblets.siteconfig",
    "djblets.cache",
]
CACHES = {
    "default": {
        "BACKEND": "djblets.cache.forwarding_backend.ForwardingCacheBackend",
        "LOCATION": "forwarded_backend",
    },
    "forwarded_backend": {
        "BACKEND": os.environ["WRAPPED_BACKEND"],
        "LOCATION": os.environ["MEMCACHED_LOCATION"],
        "KEY_PREFIX": "forwarded",
        "VERSION": 3,
        "TIMEOUT": 60,
    },
}
"""

TESTS = """
from django.core.cache import cache, caches
from django.core.cache.backends.base import default_key_func
from django.test import TestCase
from djblets.cache.backend import cache_memoize, cache_memoize_iter, make_cache_key
from namespaced_cache import NamespacedCache, invalidate_namespaces

class Tests(TestCase):
    def test_its_attributes_are_those_of_the_backend_behind_it(self):
        ours = caches["forwarded_backend"]
        self.assertIsInstance(ours, NamespacedCache)
        self.assertEqual(cache.key_prefix, "forwarded")
        self.assertEqual(cache.version, 3)
        self.assertEqual(cache.default_timeout, 60)
        self.assertIs(cache.key_func, default_key_func)
        self.assertEqual(cache.make_key("k"), "forwarded:3:k")
        self.assertEqual(cache.namespace, ours.namespace)
        self.assertIs(cache._cache, ours._cache)
        with self.assertRaises(AttributeError):
            cache.no_such_attribute

    def use(self):
        self.assertNotIn("k", cache)
        cache.set("k", "v")
        self.assertIn("k", cache)
        self.assertEqual(caches["forwarded_backend"].get("k"), "v")

    def test_a_test_begins_with_an_empty_cache(self):
        self.use()

    def test_another_test_does(self):
        self.use()

    def memoized(self):
        made = []

        def make():
            made.append(True)
            return {"answer": 42}

        for _ in range(2):
            self.assertEqual(cache_memoize("one", make), {"answer": 42})
            many = cache_memoize_iter("many", lambda: made.append(True) or range(3))
            self.assertEqual(list(many), [0, 1, 2])
            large = cache_memoize("large", lambda: made.append(True) or "x" * 3_000_000,
                                  large_data=True, compress_large_data=False)
            self.assertEqual(len(large), 3_000_000)
        return len(made)

    def test_what_its_functions_store_is_found_until_the_next_generation(self):
        self.assertEqual(self.memoized(), 3)
        self.assertEqual(self.memoized(), 0)
        self.assertIn(make_cache_key("one"), cache)
        cache.invalidate_namespace()
        self.assertNotIn(make_cache_key("one"), cache)
        self.assertEqual(self.memoized(), 3)
        self.assertEqual(list(invalidate_namespaces()), ["forwarded_backend"])
        self.assertEqual(self.memoized(), 3)

    def test_a_backend_that_is_reset_stays_in_the_namespace(self):
        cache.set("k", "v")
        before = caches["forwarded_backend"]
        cache.reset_backend()
        self.assertIsNot(caches["forwarded_backend"], before)
        self.assertEqual(cache.get("k"), "v")
"""

#: Its tests expect a backend without a prefix.
ITS_SETTINGS = """
from djblets_settings import *

CACHES["forwarded_backend"].update(KEY_PREFIX="", VERSION=1)
"""

ITS_TESTS = ["djblets.cache", "djblets.protect.tests.test_cache_lock"]


@pytest.fixture
def djblets(project, backend):
    project.environment |= {
        "DJANGO_SETTINGS_MODULE": "djblets_settings",
        "WRAPPED_BACKEND": backend,
    }
    project.write("djblets_settings.py", SETTINGS)
    project.write("test_forwarding.py", TESTS)
    return project


def test_its_backend_and_its_functions_work(djblets, bare):
    run = djblets.manage("test", RUNNER, "test_forwarding")
    assert (run.code, run.ran) == (0, 5), run.output
    assert bare._cache.get("forwarded:3:k") is None


def test_its_own_tests_find_no_difference(djblets):
    """Some of them expect another SECRET_KEY, and one fails with pylibmc."""
    djblets.write("its_settings.py", ITS_SETTINGS)

    def fails(*runner):
        run = djblets.manage(
            *("test", *runner, *ITS_TESTS), DJANGO_SETTINGS_MODULE="its_settings"
        )
        assert run.ran > 80, run.output
        failed = re.findall(r"^(?:FAIL|ERROR): (\w+)", run.output, re.MULTILINE)
        return sorted(failed), run.output

    bare, _ = fails()
    assert [name for name in bare if "encrypt" not in name] in (
        [],
        ["test_with_lock_and_wait_with_prev_lock_expired"],
    )
    ours, output = fails(RUNNER)
    assert ours == bare, output
