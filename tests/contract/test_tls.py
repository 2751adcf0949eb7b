"""TLS: nothing waits for ever, whatever the sizes of values and records are."""

from __future__ import annotations

import ssl
import subprocess
import sys
from contextlib import closing

import pytest

from tests.support.caches import BACKENDS, bare_cache, our_cache

#: Bytes of values, at the boundaries of records (16,384) and of buffers.
SIZES = [
    1,
    100,
    2000,
    2048,
    16000,
    16300,
    *range(16383 - 130, 16386, 13),
    16383,
    16384,
    16385,
    17000,
    32768,
    65536,
    10**6,
]

#: Seconds after which a command that gets no reply fails.
PATIENCE = 10


@pytest.fixture
def client():
    return "pymemcache"


@pytest.fixture
def tls(certificate):
    """The option of pymemcache."""
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.check_hostname = False
    return {"tls_context": context, "timeout": PATIENCE}


@pytest.fixture
def caches(backend, encrypted, tls):
    """A namespaced cache and a bare one, with the same OPTIONS."""
    opened = []

    def open_both(**options):
        location = encrypted.location
        given = {"OPTIONS": {**tls, **options}}
        opened.append(our_cache(backend, location, **given))
        opened.append(bare_cache(backend, location, **given))
        return opened[-2:]

    yield open_both
    for cache in opened:
        cache.close()


WRITES = {
    "set": lambda raw, value: raw.set("k", value),
    "add": lambda raw, value: raw.add("new", value),
    "replace": lambda raw, value: raw.replace("k", value),
    "append": lambda raw, value: raw.append("k", value),
    "prepend": lambda raw, value: raw.prepend("k", value),
    "cas": lambda raw, value: raw.cas("k", value, raw.gets("k")[1]),
    "set_many": lambda raw, value: raw.set_many({"k": value, "l": value}),
    "noreply": lambda raw, value: raw.set("k", value, noreply=True),
}

EACH_SETTING = pytest.mark.parametrize(
    "options",
    [{}, {"no_delay": True}, {"use_pooling": True}, {"default_noreply": True}],
    ids=["", "no_delay", "pool", "noreply"],
)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@EACH_SETTING
def test_a_value_of_any_size_is_stored(caches, options, write):
    """As by the bare client, and within its timeout."""
    ours, bare = (cache._cache for cache in caches(**options))
    for size in SIZES:
        value = b"v" * size
        for raw in (ours, bare):
            raw.delete_many(["new", "l"], noreply=False)
            raw.set("k", b"old", noreply=False)
        assert write(ours, value) == write(bare, value), size
        found = ours.get_many(["k", "l", "new"])
        assert found == bare.get_many(["k", "l", "new"]), size
        assert size < 1000 or any(len(each) >= size for each in found.values())


@EACH_SETTING
@pytest.mark.parametrize("size", [100, 500, 1000, 2000, 5000, 16385, 17000, 100_000])
def test_many_large_values_are_stored(caches, options, size):
    """The bare client waits for ever for some of them: 30 of 1,000 bytes."""
    ours, _ = caches(**options)
    values = {f"k{number}": b"v" * (size + number) for number in range(30)}
    assert ours.set_many(values) == []
    assert ours.get_many(values) == values
    ours.delete_many(values)
    assert ours.get_many(values) == {}


def test_a_read_of_many_keys_is_complete(caches):
    ours, _ = caches()
    keys = [f"{'k' * 150}{number}" for number in range(1000)]
    assert ours.set_many(dict.fromkeys(keys, b"v" * 100)) == []
    assert len(ours.get_many(keys)) == 1000


@pytest.mark.parametrize("size", [17000, 65536, 10**6])
def test_it_is_strict(caches, size):
    """Another connection's invalidation is seen by the next operation."""
    ours, _ = caches()
    raw = ours._cache.wrapped
    for _ in range(5):
        ours.set("k", b"v" * size)
        raw.incr(ours._cache.counter.key, 1)
        assert ours.get("k") is None
        ours.set("k", b"v" * size)
        assert ours.get("k") == b"v" * size


@EACH_SETTING
def test_on_several_servers_nothing_hangs(backend, encrypted, tls, options):
    """The counter is read in parallel. Two names of one server count as two servers."""
    second = encrypted.location.replace("127.0.0.1", "localhost")
    given = {**tls, **options}
    with closing(
        our_cache(backend, [encrypted.location, second], OPTIONS=given)
    ) as ours:
        for size in SIZES:
            ours.set("k", b"v" * size)
            assert ours.get("k") == b"v" * size
        for size in (100, 1000, 5000, 17000):
            values = {f"k{number}": b"v" * (size + number) for number in range(30)}
            assert ours.set_many(values) == []
            assert ours.get_many(values) == values
            ours.invalidate_namespace()
            assert ours.get_many(values) == {}
        (connection,) = ours._cache._binder.binding().counter_reader._idle
        assert isinstance(connection, ssl.SSLSocket)


def test_without_a_timeout_nothing_hangs(encrypted, certificate):
    """In a process of its own, which is ended if it does."""
    code = f"""
import ssl
from tests.support import django_settings
django_settings.configure()
from tests.support.caches import our_cache
context = ssl.create_default_context(cafile={str(certificate[0])!r})
context.check_hostname = False
options = dict(tls_context=context)
cache = our_cache({BACKENDS["pymemcache"]!r}, {encrypted.location!r}, OPTIONS=options)
for size in {SIZES!r}:
    cache.set("k", b"v" * size)
    assert cache.get("k") == b"v" * size
    cache.set_many(dict.fromkeys("abc", b"v" * size))
    assert cache.get_many("abc") == dict.fromkeys("abc", b"v" * size)
cache.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
