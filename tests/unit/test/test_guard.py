"""The guard's own rules; test_pytest_plugin.py has it at work."""

from __future__ import annotations

import tempfile
import warnings

import pytest

from namespaced_cache.test.guard import Guard, NamespaceWarning, is_private
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


def test_one_flush_of_several_servers_is_reported_once(backend, start):
    """Although pymemcache's HashClient has each of its clients flush its server."""
    cache = bare_cache(backend, [start().location, start().location])
    cache.set("key", "value")  # the library is imported
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
        cache.clear()  # nobody watches any more
    cache.close()
