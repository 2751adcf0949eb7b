"""Locations: the entries of LOCATION, as each client library takes them."""

from __future__ import annotations

import re
from typing import Any

#: memcached's default, if LOCATION names no port.
_PORT = 11211

#: A host, its port, and the weight that libmemcached takes behind it.
_ADDRESS = re.compile(r"(?:\[(.+)\]|([^:]+))(?::(\d+))?(?::\d+)?")


def name(location: Any) -> str:
    """Return the one name of a server that may be written in several ways."""
    # pymemcache needs "unix:" before a socket's path; Django removes it for pylibmc.
    if isinstance(location, str):
        return location.removeprefix("unix:")
    return ":".join(map(str, location))


def address(location: Any) -> str | tuple[str, int]:
    """Return the path of a socket, or a host and its port.

    Raises ValueError for what is neither.
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
