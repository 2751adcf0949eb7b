"""The lines in which a run says what is isolated, and how often it was emptied."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.test import override_settings

from namespaced_cache.test import report
from namespaced_cache.test.isolation import Isolation
from tests.support.caches import BACKENDS

WRAPPED = {
    "BACKEND": "namespaced_cache.NamespacedCache",
    "LOCATION": "127.0.0.1:1",
    "OPTIONS": {"WRAPPED_BACKEND": BACKENDS["pymemcache"]},
}


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("127.0.0.1:1;127.0.0.1:2", "127.0.0.1:1+127.0.0.1:2"),
        ("127.0.0.1:1,127.0.0.1:2", "127.0.0.1:1+127.0.0.1:2"),
        (["127.0.0.1:1", "unix:/run/m.sock"], "127.0.0.1:1+/run/m.sock"),
        (("localhost",), "localhost"),
    ],
)
def test_it_names_each_server_of_an_alias(location, named):
    caches = {"default": {"BACKEND": BACKENDS["pymemcache"], "LOCATION": location}}
    with override_settings(CACHES=caches):
        (line,) = report.first_lines(Isolation(wrap=True), "function")
    assert line.startswith(f"cache isolation: default on {named}: invalidated before")


def test_it_names_a_fixed_namespace():
    named = {**WRAPPED, "OPTIONS": {**WRAPPED["OPTIONS"], "NAMESPACE": "shop"}}
    with override_settings(CACHES={"default": named}):
        (line,) = report.first_lines(Isolation(wrap=False), "off")
    assert line.startswith(
        "cache isolation: default on 127.0.0.1:1 in namespace shop: never invalidated;"
    )


@pytest.mark.parametrize(
    ("namespaces", "invalidations", "line"),
    [
        (1, 13, "cache isolation: 1 namespace, invalidated 13 times"),
        (2, 1202, "cache isolation: 2 namespaces, invalidated 1,202 times"),
    ],
)
def test_it_says_how_often_namespaces_were_invalidated(namespaces, invalidations, line):
    assert report.last_line(namespaces, invalidations) == line


@pytest.mark.parametrize(
    ("apps", "said"),
    [
        ([], "processes that tests start are not (add"),
        (["my_namespaced_cache_tools"], "processes that tests start are not (add"),
        (["namespaced_cache"], "processes that tests start are isolated too"),
        (["namespaced_cache.apps.Config"], "processes that tests start are isolated"),
    ],
)
def test_it_says_for_each_alias_whether_child_processes_are_isolated(apps, said):
    bare = {"BACKEND": BACKENDS["pymemcache"], "LOCATION": "127.0.0.1:1"}
    caches = {"default": bare, "wrapped": WRAPPED, "second": bare}
    with override_settings(CACHES=caches), override_settings():
        settings.INSTALLED_APPS = apps
        run, wrapped = report.first_lines(Isolation(wrap=True), "function")
    assert run.startswith("cache isolation: default on 127.0.0.1:1, second on 127.0")
    assert said in run
    assert wrapped.endswith(
        "wrapped on 127.0.0.1:1: invalidated before each test; processes that tests "
        "start are isolated too, if they use these settings"
    )


def made(location, params):
    """A BACKEND that is a function."""


def test_a_function_may_know_the_servers_alone():
    caches = {"default": {"BACKEND": f"{__name__}.made"}}
    with override_settings(CACHES=caches):
        (line,) = report.first_lines(Isolation(wrap=True), "function")
    assert line.startswith("cache isolation: default on the servers of made(): ")
