"""Scopes of isolation: when the namespaces of a test run are invalidated.

Imports nothing, because the pytest plugin reads it in projects without Django.
"""

from __future__ import annotations

#: Before each test, before each class, never.
SCOPES = ("function", "class", "off")


def checked(scope: object, source: str) -> str:
    """Return the scope, or raise ValueError, which names where it stands."""
    if isinstance(scope, str) and scope in SCOPES:
        return scope
    raise ValueError(f"{source} is {scope!r}: it takes {', '.join(SCOPES)}.")
