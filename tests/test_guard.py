"""The guard's own rules; test_pytest_plugin.py has it at work."""

from __future__ import annotations

import tempfile

import pytest

from namespaced_cache.guard import is_private


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:32768",
        "127.0.0.2:61000",
        "localhost:49152",
        "[::1]:49152",
        ("127.0.0.1", 49152),
        ("localhost", "49152"),
        f"{tempfile.gettempdir()}/run-1/memcached.sock",
        f"unix:{tempfile.gettempdir()}/memcached.sock",
    ],
)
def test_what_a_run_has_started_is_private(address):
    assert is_private(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:11211",
        "localhost:11211",
        "127.0.0.1:32767",
        "127.0.0.1",
        "localhost",
        "10.0.0.1:49152",
        "cache.example.com:49152",
        "[::1]:11211",
        ("127.0.0.1", 11211),
        "/run/memcached/memcached.sock",
        "unix:/var/run/memcached.sock",
        "127.0.0.1:port",
    ],
)
def test_others_may_be_shared(address):
    assert not is_private(address)
