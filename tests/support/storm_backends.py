"""Backends of pylibmc whose clients survive signals that raise.

pylibmc 1.6.3 encodes an integer with the interpreter's own conversion to text. For a
large integer, the conversion runs signal handlers. If one raises, pylibmc uses the
missing result, and the process crashes. So these clients encode integers in Python.
"""

from __future__ import annotations

from typing import Any

import pylibmc
from django.core.cache.backends.memcached import PyLibMCCache

from tests.support.backends import LocalCache

_, _INTEGER = pylibmc.Client(["127.0.0.1"]).serialize(1)


class Client(pylibmc.Client):
    """A client that encodes integers in Python."""

    def serialize(self, value: Any) -> tuple[bytes, int]:
        """Return the bytes of a value, and its flags."""
        if type(value) is int:
            return str(value).encode(), _INTEGER
        encoded: tuple[bytes, int] = super().serialize(value)
        return encoded


class StormCache(PyLibMCCache):
    """Django's backend with such a client."""

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = Client


class LocalStormCache(LocalCache, StormCache):
    """A backend that has such a client for each thread."""
