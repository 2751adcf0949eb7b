"""Connections of this package's own to a memcached, without a client library."""

from __future__ import annotations

import socket


def connect(address: str | tuple[str, int], patience: float) -> socket.socket:
    """Connect to the path of a socket, or to a host and its port.

    `patience` is the timeout in seconds, of the connection too. Raises OSError.
    """
    if not isinstance(address, str):
        connection = socket.create_connection(address, patience)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(patience)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection
