"""The rules of the guard. test_pytest_plugin.py tests it in a run."""

from __future__ import annotations

import tempfile
import warnings

import pytest

from namespaced_cache import NamespaceWarning
from namespaced_cache.test.guard import Guard, is_private
from tests.support.caches import bare_cache


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
def test_a_server_of_the_run_is_private(address):
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
def test_other_servers_may_be_shared(address):
    assert not is_private(address)


def test_one_flush_of_several_servers_is_reported_once(backend, start):
    """pymemcache's HashClient flushes each server with a client of its own."""
    cache = bare_cache(backend, [start().location, start().location])
    cache.set("key", "value")  # this imports the client library
    guard = Guard(remedy="")
    guard.watch_clients()
    guard.watch_clients()
    try:
        with pytest.warns(NamespaceWarning) as reported:
            cache.clear()
    finally:
        guard.close()
        cache.close()
    assert len(reported) == 1
    assert reported[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.clear()  # the guard is closed
    cache.close()
