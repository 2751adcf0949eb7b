"""django-bmemcached, a backend on a client library that cannot be namespaced."""

from __future__ import annotations

import pytest

from tests.plugins.conftest import INI, SETTINGS

ALIAS = """
CACHES["binary"] = {
    "BACKEND": "django_bmemcached.memcached.BMemcached",
    "LOCATION": os.environ["BINARY_LOCATION"],
    "KEY_PREFIX": "binary",
}
"""

TESTS = """
from django.core.cache import caches

def test_first():
    assert caches["default"].add("k", 1)

test_second = test_first

def test_of_the_other():
    caches["binary"].set("k", 1)
    assert caches["binary"].get("k") == 1
"""

NOTICE = (
    "CACHES['binary'] is not isolated: The wrapped backend's client is a "
    "bmemcached.client.replicating.ReplicatingClient: only clients made from "
    "pymemcache's and pylibmc's can be namespaced. To use this one bare, exclude its "
    "alias: cache_namespace_exclude."
)


@pytest.fixture
def binary(project, server):
    """A project with such an alias, on the server of the other aliases."""
    project.environment["BINARY_LOCATION"] = server.location
    project.write("plain_settings.py", SETTINGS + ALIAS)
    project.write("test_it.py", TESTS)
    return project


def test_the_other_aliases_are_isolated_and_this_one_is_named_once(binary, start, bare):
    run = binary.pytest("-W", "default", BINARY_LOCATION=start().location)
    assert (run.count("passed"), run.count("failed")) == (2, 1), run.output
    assert run.output.count(NOTICE) == 1, run.output
    assert bare.get("k") is None


def test_the_other_aliases_of_its_server_are_isolated(binary, bare):
    """It is named too, although its namespace is another's, which is invalidated."""
    run = binary.pytest("-W", "default")
    assert (run.count("passed"), run.count("failed")) == (2, 1), run.output
    assert run.output.count(NOTICE) == 1, run.output
    assert f"UnsupportedClientError: {NOTICE.partition(': ')[2]}" in run.output
    assert bare.get("k") is None


def test_an_excluded_alias_is_bare(binary, bare):
    binary.write("pytest.ini", INI + "cache_namespace_exclude = binary\n")
    run = binary.pytest("-W", "error::namespaced_cache.NamespaceWarning")
    assert (run.code, run.count("passed")) == (0, 3), run.output
    assert "is not isolated" not in run.output
    assert bare.get("k") is None
    assert bare._cache.get("binary:1:k") is not None
