"""Scopes of isolation: when the namespaces of a test run are invalidated.

Imports nothing, because the pytest plugin reads it in projects without Django.
"""

from __future__ import annotations

#: Before each test, before each class, never.
SCOPES = ("function", "class", "off")


def checked(scope: object, source: str) -> str:
    """Return the scope, or raise ValueError, which names its source."""
    if isinstance(scope, str) and scope in SCOPES:
        return scope
    raise ValueError(f"{source} is {scope!r}: it takes {', '.join(SCOPES)}.")


def scope_of(test_class: type) -> str:
    """Return the scope of isolation of a test class, "function" if it names none.

    Raises ValueError for an unknown scope.
    """
    scope = getattr(test_class, "cache_isolation", None)
    if scope is None:
        return "function"
    return checked(scope, f"{test_class.__qualname__}.cache_isolation")
