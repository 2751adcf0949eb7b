"""Locations: parses the entries of LOCATION, in all forms that clients accept."""

from __future__ import annotations

import re
import socket
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


def check_system(location: Any) -> None:
    """Raise ValueError for a unix socket on a system that has none, such as Windows."""
    is_socket = isinstance(location, str) and name(location).startswith("/")
    if is_socket and not hasattr(socket, "AF_UNIX"):
        raise ValueError(
            f"LOCATION has {location!r}, but this system has no unix sockets: it takes "
            f"HOST:PORT."
        )


def address(location: Any) -> str | tuple[str, int]:
    """Return the path of a socket, or a host and its port.

    Raises ValueError for any other location, and as `check_system` does.
    """
    check_system(location)
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
