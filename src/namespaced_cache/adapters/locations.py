"""Locations: parses the entries of LOCATION, in all forms that clients accept."""

from __future__ import annotations

import re
from typing import Any

#: memcached's default port, for entries without a port.
_PORT = 11211

#: A host, its port, and libmemcached's optional weight.
_ADDRESS = re.compile(r"(?:\[(.+)\]|([^:]+))(?::(\d+))?(?::\d+)?")


def name(location: Any) -> str:
    """Return the name of a server. Different forms of an entry give the same name."""
    # pymemcache needs "unix:" before a socket's path; Django removes it for pylibmc.
    if isinstance(location, str):
        return location.removeprefix("unix:")
    return ":".join(map(str, location))


def address(location: Any) -> str | tuple[str, int]:
    """Return the path of a socket, or a host and its port.

    Raises ValueError for any other location.
    """
    if not isinstance(location, str):
        host, port = location
        return host, int(port)
    path = name(location)
    if path.startswith("/"):
        return path
    found = _ADDRESS.fullmatch(location)
    if found is None:
        raise ValueError(
            f"LOCATION has {location!r}: it takes HOST:PORT or unix:/PATH."
        )
    bracketed, host, port = found.groups()
    return bracketed or host, int(port or _PORT)
