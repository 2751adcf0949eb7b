"""The lines in which a run says what is isolated, and how often it was emptied."""

from __future__ import annotations

import pytest
from django.test import override_settings

from namespaced_cache.test import report
from namespaced_cache.test.isolation import Isolation
from tests.support.caches import BACKENDS


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
    assert line.startswith(f"cache isolation: default on {named}: emptied before each")


@pytest.mark.parametrize(
    ("namespaces", "invalidations", "line"),
    [
        (1, 13, "cache isolation: 1 namespace, invalidated 13 times"),
        (2, 1202, "cache isolation: 2 namespaces, invalidated 1,202 times"),
    ],
)
def test_it_says_how_often_namespaces_were_invalidated(namespaces, invalidations, line):
    assert report.last_line(namespaces, invalidations) == line
