"""Examples of hypothesis: each finds the items of its class and no others."""

from __future__ import annotations

import pytest

from tests.support.projects import RUNNER, Project

TESTS = """
from django.core.cache import cache
from hypothesis import given, settings, strategies
from hypothesis.extra.django import TestCase
from django.test import SimpleTestCase
from namespaced_cache.test import NamespacedCacheMixin

class Own(SimpleTestCase):
    begun = 0

    def setup_example(self):
        self.begun += 1
        assert cache.get("k") is None

    def tearDown(self):
        assert self.begun >= 5

class Tests({bases}):
    cache_isolation = "function"
    {scope}
    examples = []

    @settings(max_examples=5, database=None)
    @given(strategies.integers())
    def test_added(self, number):
        self.examples.append(cache.add("k", number))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache.set("class", 1)

    @settings(max_examples=5, database=None)
    @given(strategies.integers())
    def test_what_the_class_has_cached(self, number):
        assert cache.incr("class") == 2 or self.cache_isolation == "class"

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        print("added", cls.examples)
"""


@pytest.fixture
def project(tmp_path, server):
    made = Project(tmp_path, server.location)
    made.write("suite/test_every_kind.py", "")
    made.write(
        "wrapped.py",
        """
        from settings import *
        from namespaced_cache import namespaced
        CACHES = namespaced(CACHES)
        """,
    )
    return made


WAYS = {
    "runner": lambda project: project.manage("test", RUNNER),
    "mixin": lambda project: project.manage("test", DJANGO_SETTINGS_MODULE="wrapped"),
    "pytest": lambda project: project.pytest(
        *("-s", "-p", "hypothesispytest", "-o", "cache_namespace_wrap=true")
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("base", "scope", "added"),
    [
        ("TestCase", "", [True] * 5),
        ("TestCase", 'cache_isolation = "class"', [True] + [False] * 4),
        ("Own", "", [True] * 5),
    ],
    ids=["hypothesis", "class", "own"],
)
def test_each_example_begins_with_an_empty_cache(project, way, base, scope, added):
    bases = f"NamespacedCacheMixin, {base}" if way == "mixin" else base
    project.write("suite/test_examples.py", TESTS.format(bases=bases, scope=scope))
    run = WAYS[way](project)
    assert run.code == 0, run.output
    assert f"added {added}" in run.output
