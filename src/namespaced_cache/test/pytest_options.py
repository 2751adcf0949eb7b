"""What the pytest plugin adds to pytest: options, ini options and a marker."""

from __future__ import annotations

import pytest

from namespaced_cache.test.findings import LEAK_ARGUMENTS


def add_options(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("namespaced_cache", "Django's caches on memcached")
    for name, how in LEAK_ARGUMENTS.items():
        group.addoption(name, **how)
    parser.addini(
        "cache_isolation",
        "when the namespaces of Django's caches are invalidated: function (before each "
        "test, which finds what its set-up has cached), empty (before each test, which "
        "finds nothing), class (before each class), off",
        default="function",
    )
    parser.addini(
        "cache_namespace_wrap",
        "wrap every memcached alias of Django's CACHES for the run",
        type="bool",
        default=False,
    )
    parser.addini(
        "cache_namespace_exclude",
        "aliases of Django's CACHES that are not wrapped for the run, nor isolated",
        type="args",
        default=[],
    )
    parser.addini(
        "cache_namespace_require",
        "fail each test if a memcached server cannot be reached, instead of a warning",
        type="bool",
        default=False,
    )


def add_marker(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "cache_isolation(scope): invalidate the cache's namespaces before each test "
        '("function"; with "empty", also drop what set-up has cached), before each '
        '"class", or never ("off").',
    )
