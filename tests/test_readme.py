"""The README's Python blocks work as they stand, one after another, on both clients."""

import re
import unittest
from pathlib import Path

import pytest
from conftest import BACKENDS
from django.core.cache import cache, caches
from django.test import override_settings

from namespaced_cache import options

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETTINGS, TEARDOWN, NAMESPACED, USE = re.findall(
    r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE
)


@pytest.fixture
def settings(server):
    """The CACHES of the first block, on the tests' own server."""
    scope: dict = {}
    exec(SETTINGS.replace("127.0.0.1:11211", server.location), scope)
    return scope["CACHES"]


def test_the_settings_and_the_uses(settings):
    with override_settings(CACHES=settings):
        exec(USE, {})
        caches.close_all()


def test_the_teardown(settings):
    scope: dict = {}
    exec(TEARDOWN, scope)

    class Suite(scope["IsolatedTestCase"]):
        def test_one(self):
            assert cache.add("k", 1)

        test_two = test_one

    with override_settings(CACHES=settings):
        outcome = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Suite).run(outcome)
        caches.close_all()
    assert outcome.testsRun == 2
    assert outcome.wasSuccessful(), outcome.errors + outcome.failures


@pytest.mark.parametrize("backend", BACKENDS.values())
def test_wrapping_the_production_settings(backend):
    scope = {"CACHES": {"default": {"BACKEND": backend, "LOCATION": "127.0.0.1:1"}}}
    exec(NAMESPACED, scope)
    assert scope["CACHES"]["default"]["BACKEND"] == "namespaced_cache.NamespacedCache"
    assert scope["CACHES"]["default"]["OPTIONS"] == {"WRAPPED_BACKEND": backend}


def test_every_option_has_its_row():
    table = README.partition("## Options")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == options.NAMES


def test_every_target_of_make_that_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README):
        assert re.search(rf"^[\w -]*\b{target}\b[\w -]*:", makefile, re.MULTILINE)
