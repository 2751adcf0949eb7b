"""pytest-rerunfailures: a rerun finds the same items as the first run did."""

from __future__ import annotations

TESTS = """
import pytest
from django.core.cache import cache
from django.test import SimpleTestCase

added = {}

def fail_twice(test):
    '''Store an item, and fail in the first two runs of this test.'''
    runs = added.setdefault(test, [])
    runs.append(cache.add("k", 1))
    assert len(runs) == 3, f"run {len(runs)} of {test}"

@pytest.fixture(scope="class")
def of_the_class():
    cache.set("k", "of the class")

@pytest.fixture
def of_the_test():
    assert cache.get("k") is None

def test_function(of_the_test):
    fail_twice("function")

def test_after_a_fixture_of_the_module(of_the_class):
    fail_twice("fixture")

class TestClass:
    def test_method(self, of_the_class):
        fail_twice("method")

class Case(SimpleTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache.set("k", "of the class")

    def test_method(self):
        fail_twice("case")

class TestOneCache:
    cache_isolation = "class"

    def test_method(self):
        fail_twice("one cache")

def teardown_module():
    print("added", sorted(added.items()))
"""


def test_a_rerun_finds_the_same_items(project):
    project.write("test_it.py", TESTS)
    run = project.pytest("-s", "--reruns", "2")
    assert (run.code, run.count("passed")) == (0, 5), run.output
    assert run.count("rerun") == 10, run.output
    added = {
        "case": [False] * 3,  # what its class has cached is there
        "fixture": [False] * 3,  # the fixture is the test's own, as it has no class
        "function": [True] * 3,
        "method": [False] * 3,  # as with "case"
        "one cache": [True, False, False],  # a rerun is no new class
    }
    assert f"added {sorted(added.items())}" in run.output
