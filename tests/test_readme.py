"""The README's Python blocks work as they stand, one after another, on both clients."""

import re
import subprocess
import sys
import unittest
from pathlib import Path

import pytest
from conftest import BACKENDS
from django.core.cache import cache, caches
from django.test import override_settings

from namespaced_cache import options

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NAMESPACED, TEARDOWN, SETTINGS, FIXTURE, USE, PINNED = re.findall(
    r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE
)


@pytest.fixture
def settings(server):
    """The CACHES that are written out, on the tests' own server."""
    scope: dict = {}
    exec(SETTINGS.replace("127.0.0.1:11211", server.location), scope)
    return scope["CACHES"]


def test_the_settings_and_the_uses(settings):
    with override_settings(CACHES=settings):
        scope: dict = {}
        exec(USE, scope)
        exec(PINNED, scope)
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


def test_the_fixture(settings, tmp_path):
    """In a pytest of its own, for tests of any kind."""
    test = "@pytest.mark.parametrize('_', range(3))\ndef test_it(_):\n"
    test += "    assert cache.add('k', 1)\n"
    head = "import pytest\nfrom django.core.cache import cache\n\n"
    (tmp_path / "test_it.py").write_text(head + test)
    configure = (
        f"from django.conf import settings\nsettings.configure(CACHES={settings!r})\n"
    )
    (tmp_path / "conftest.py").write_text(configure + FIXTURE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tmp_path)],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("backend", BACKENDS.values())
def test_wrapping_the_production_settings(backend):
    scope = {"CACHES": {"default": {"BACKEND": backend, "LOCATION": "127.0.0.1:1"}}}
    exec(NAMESPACED, scope)
    assert scope["CACHES"]["default"]["BACKEND"] == "namespaced_cache.NamespacedCache"
    assert scope["CACHES"]["default"]["OPTIONS"] == {"WRAPPED_BACKEND": backend}


def test_every_option_has_its_row():
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == options.NAMES


def test_every_target_of_make_that_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README):
        assert re.search(rf"^[\w -]*\b{target}\b[\w -]*:", makefile, re.MULTILINE)
