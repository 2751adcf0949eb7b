"""Scopes of isolation: when the namespaces of a test run are invalidated.

It imports nothing, because the pytest plugin imports it in projects without Django.
"""

from __future__ import annotations

#: unittest leaves the frames of this module out of the tracebacks that it prints.
__unittest = True

#: Before each test, and what set-up has cached is stored again; before each test, which
#: then finds nothing; before each class; never.
SCOPES = ("function", "empty", "class", "off")


def checked(scope: object, source: str) -> str:
    """Return a valid scope. For any other, raise ValueError, which names the source."""
    if isinstance(scope, str) and scope in SCOPES:
        return scope
    raise ValueError(f"{source} is {scope!r}: it takes {', '.join(SCOPES)}.")


def scope_of(test_class: type) -> str:
    """Return the scope of a test class, or "function" if it sets no scope.

    Raises ValueError for an unknown scope.
    """
    scope = getattr(test_class, "cache_isolation", None)
    if scope is None:
        return "function"
    return checked(scope, f"{test_class.__qualname__}.cache_isolation")
