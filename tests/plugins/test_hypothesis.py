"""hypothesis: a plain function with `@given` empties the cache itself.

pytest runs such a function once for all of its examples. The test cases for Django, in
which each example begins with an empty cache, are tested in `integration/`.
"""

from __future__ import annotations

TESTS = """
from django.core.cache import cache
from hypothesis import given, settings, strategies
from namespaced_cache import invalidate_namespaces

added = []

@settings(max_examples=5, database=None, derandomize=True)
@given(strategies.integers())
def test_emptied(number):
    invalidate_namespaces()
    assert cache.add("k", number)
    assert cache.get("k") == number

@settings(max_examples=5, database=None, derandomize=True)
@given(strategies.integers())
def test_kept(number):
    added.append(cache.add("k", number))

def teardown_module():
    print("added", added)
"""


def test_each_example_of_a_function_can_empty_the_cache(project):
    project.write("test_it.py", TESTS)
    run = project.pytest("-s", "-p", "hypothesispytest")
    assert (run.code, run.count("passed")) == (0, 2), run.output
    # Both tests begin with an empty cache, but the examples of one test share it.
    assert f"added {[True] + [False] * 4}" in run.output
