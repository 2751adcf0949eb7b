"""The adapters describe the real clients of pymemcache and pylibmc correctly."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys

import pylibmc
import pymemcache
import pytest
from django.utils.functional import SimpleLazyObject

from namespaced_cache import forks
from namespaced_cache.adapters import adapter
from namespaced_cache.adapters import pylibmc as pylibmc_adapter
from namespaced_cache.adapters import pymemcache as pymemcache_adapter
from namespaced_cache.errors import NamespaceError
from tests.support.caches import BACKENDS, our_cache

NOWHERE = "127.0.0.1:1"


class SitesPymemcache(pymemcache.HashClient):
    """A project's own client."""


class SitesPylibmc(pylibmc.Client):
    """A project's own client."""


@pytest.fixture
def real(build):
    """The real client that Django's own backend makes."""
    return build()._cache.wrapped


def put(server, key, flags, value):
    """Store a value that none of our clients would write."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        line = f"set {key} {flags} 0 {len(value)}\r\n{value}\r\n"
        connection.sendall(line.encode())
        assert connection.recv(65536) == b"STORED\r\n"


def error_of(act) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # any error
        act()
    return caught.value


class Stranger:
    """A client of a library that has no adapter."""


class Proxy:
    """A tracer's proxy for a client. Its class is that of the client."""

    __wrapped__ = None
    __class__ = property(lambda self: type(self.__wrapped__))

    def __init__(self, client):
        self.__wrapped__ = client

    def __getattr__(self, name):
        return getattr(self.__wrapped__, name)


class Lookalike:
    """A client of a library whose name begins like pymemcache."""

    __module__ = "pymemcache_fork.client"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (pymemcache.Client(NOWHERE), pymemcache_adapter.PyMemcacheAdapter),
        (pymemcache.PooledClient(NOWHERE), pymemcache_adapter.PyMemcacheAdapter),
        (pymemcache.HashClient([NOWHERE]), pymemcache_adapter.PyMemcacheAdapter),
        (SitesPymemcache([NOWHERE]), pymemcache_adapter.PyMemcacheAdapter),
        (pylibmc.Client([NOWHERE]), pylibmc_adapter.PyLibMCAdapter),
        (SitesPylibmc([NOWHERE]), pylibmc_adapter.PyLibMCAdapter),
        (Proxy(pymemcache.HashClient([NOWHERE])), pymemcache_adapter.PyMemcacheAdapter),
        (Proxy(pylibmc.Client([NOWHERE])), pylibmc_adapter.PyLibMCAdapter),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_clients_and_subclasses_have_an_adapter(made, expected):
    assert type(adapter.adapter_of(made)) is expected
    assert adapter.is_client(made)


@pytest.mark.parametrize("kind", [Stranger, Lookalike, object])
def test_another_librarys_client_is_refused(kind):
    with pytest.raises(NamespaceError) as caught:
        adapter.adapter_of(kind())
    assert str(caught.value) == (
        f"The wrapped backend's client is a {kind.__module__}.{kind.__qualname__}: "
        f"only clients made from pymemcache's and pylibmc's can be namespaced. "
        f"To use this one bare, exclude its alias: cache_namespace_exclude."
    )
    assert not adapter.is_client(kind())


def test_a_lazy_object_is_not_evaluated():
    """Reading the class of a lazy object would make the object that it wraps."""
    made = []
    lazy = SimpleLazyObject(lambda: made.append("early"))
    assert not adapter.is_client(lazy)
    assert made == []


def test_neither_library_is_imported_before_a_backend_needs_it():
    """A site has the library that it uses, and may lack the other."""
    code = (
        "import sys, namespaced_cache; "
        "print({'pymemcache', 'pylibmc', '_pylibmc'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    assert child.stdout == "set()\n"


@pytest.mark.parametrize("prefix", [b"", b"site:", b"p" * 100])
def test_the_key_limit_is_that_of_pymemcache(server, prefix):
    """A `key_prefix` uses some of memcached's 250 bytes."""
    for kind, servers in (
        (pymemcache.Client, server.location),
        (pymemcache.PooledClient, server.location),
        (pymemcache.HashClient, [server.location]),
    ):
        real = kind(servers, key_prefix=prefix)
        limit = adapter.adapter_of(real).key_limit(real, {})
        assert limit == 250 - len(prefix)
        assert real.set("k" * limit, b"v", noreply=False)
        with pytest.raises(pymemcache.exceptions.MemcacheIllegalInputError):
            real.set("k" * (limit + 1), b"v")
        real.close()


def test_the_key_limit_is_that_of_pylibmc(server):
    real = pylibmc.Client([server.location])
    limit = adapter.adapter_of(real).key_limit(real, {})
    assert limit == 250
    assert real.set("k" * limit, "v")
    with pytest.raises(ValueError, match="key length 251 too long"):
        real.set("k" * (limit + 1), "v")


def test_pymemcache_checks_its_keys(server):
    real = pymemcache.Client(server.location)
    assert adapter.adapter_of(real).checks_keys(real)
    for end in "\0\t\n\v\f\r ":
        with pytest.raises(pymemcache.exceptions.MemcacheIllegalInputError):
            real.get(f"k{end}k")


def test_pylibmc_does_not_check_keys_in_the_text_protocol(server):
    """It sends each word of a key as a key, and returns another key's value."""
    real = pylibmc.Client([server.location])
    assert not adapter.adapter_of(real).checks_keys(real)
    real.set("word", "another key's value")
    assert real.get("no word") == "another key's value"


def test_pylibmc_needs_no_check_in_the_binary_protocol(server):
    real = pylibmc.Client([server.location], binary=True)
    assert adapter.adapter_of(real).checks_keys(real)
    real.set("word", "another key's value")
    assert real.get("no word") is None


def test_pymemcache_returns_none_for_a_missing_number(server):
    real = pymemcache.HashClient([server.location])
    assert adapter.adapter_of(real).not_found == ()
    assert real.incr("missing", 1) is None
    real.close()


def test_pylibmc_raises_for_a_missing_number(server):
    real = pylibmc.Client([server.location])
    assert adapter.adapter_of(real).not_found == (pylibmc.NotFound,)
    with pytest.raises(pylibmc.NotFound):
        real.incr("missing", 1)


# Swaps.


def swap(client, key, old, new):
    adapter.adapter_of(client).compare_and_swap(client, key, old, new)


def test_a_swap_replaces_the_old_value_without_an_expiry(real, server):
    real.set("k", 5, 100)
    swap(real, "k", 5, 6)
    assert real.get("k") == 6
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"mg k t\r\n")
        assert connection.recv(65536) == b"HD t-1\r\n"


def test_a_swap_leaves_the_value_of_another_client(real):
    real.set("k", 7)
    swap(real, "k", 5, 6)
    assert real.get("k") == 7


def test_a_swap_stores_nothing_under_a_missing_key(real):
    real.delete("k")
    swap(real, "k", 5, 6)
    assert real.get("k") is None


def test_a_swap_leaves_a_value_that_was_stored_meanwhile(real, monkeypatch):
    """The other client writes after the swap has read the old value."""
    real.set("k", 5)
    real_cas = type(real).cas

    def overtaken(self, *args):
        real.set("k", 7)
        return real_cas(self, *args)

    monkeypatch.setattr(type(real), "cas", overtaken)
    swap(real, "k", 5, 6)
    assert real.get("k") == 7


def test_a_swap_stores_nothing_if_the_key_is_deleted_meanwhile(real, monkeypatch):
    real.set("k", 5)
    real_cas = type(real).cas

    def overtaken(self, *args):
        real.delete("k")
        return real_cas(self, *args)

    monkeypatch.setattr(type(real), "cas", overtaken)
    swap(real, "k", 5, 6)
    assert real.get("k") is None


def test_a_pylibmc_swap_uses_the_clients_own_serializer(server):
    class Coded(pylibmc.Client):
        def __init__(self, *args):
            super().__init__(*args)
            self.code = 1

        def deserialize(self, value, flags):
            return super().deserialize(value, flags) + self.code

    real = Coded([server.location])
    real.set("k", 5)
    swap(real, "k", 6, 9)
    assert real.get("k") == 10


def test_a_swap_takes_two_round_trips(proxy):
    """pylibmc takes as many. Afterwards its clone says `quit`."""
    real = pymemcache.HashClient([proxy.location], default_noreply=False)
    real.set("k", b"5")
    assert proxy.during(lambda: swap(real, "k", b"5", 6)) == 2
    assert proxy.during(lambda: swap(real, "k", b"5", 6)) == 1
    real.close()


@pytest.mark.parametrize("options", [{}, {"binary": True}])
def test_pylibmc_swaps_with_a_client_that_was_made_without_cas(server, options):
    """The client stays without `cas`, which makes every answer longer."""
    real = pylibmc.Client([server.location], **options)
    real.set("k", 5)
    swap(real, "k", 5, 6)
    assert real.get("k") == 6
    assert real.behaviors["cas"] == 0


@pytest.mark.parametrize("kind", [pymemcache.Client, pymemcache.PooledClient])
def test_pymemcaches_other_clients_can_swap(server, kind):
    """Without a serializer they store digits and return bytes."""
    real = kind(server.location, default_noreply=False)
    real.set("k", "5")
    swap(real, "k", b"4", 6)
    assert real.get("k") == b"5"
    swap(real, "k", b"5", 6)
    assert real.get("k") == b"6"
    real.close()


def test_pymemcache_swaps_nothing_while_the_server_is_down():
    real = pymemcache.HashClient([NOWHERE], ignore_exc=True)
    swap(real, "k", 5, 6)


# What an error means.


@pytest.mark.parametrize("value", ["text", ""])
def test_the_error_for_incr_of_a_text_is_recognized(real, value):
    its_adapter = adapter.adapter_of(real)
    real.set("k", value)
    error = error_of(lambda: real.incr("k", 1))
    assert isinstance(error, its_adapter.not_a_number)
    assert not its_adapter.is_outage(error, None)
    assert not its_adapter.is_undecodable(error)


#: Flags that mean a pickle or an integer. For pylibmc, also "compressed" and an unknown
#: flag.
UNDECODABLE = {"pymemcache": [2, 4], "pylibmc": [1, 2, 3, 8]}


@pytest.mark.parametrize(
    ("client", "flags"),
    [(client, flags) for client in BACKENDS for flags in UNDECODABLE[client]],
    indirect=["client"],
)
@pytest.mark.parametrize(
    "read",
    [lambda real, key: real.get(key), lambda real, key: real.get_multi([key])],
    ids=["get", "get_multi"],
)
def test_the_error_for_an_undecodable_value_is_recognized(real, server, flags, read):
    its_adapter = adapter.adapter_of(real)
    key = secrets.token_hex(8)  # the server is shared
    put(server, key, flags, "abc")
    error = error_of(lambda: read(real, key))
    assert its_adapter.is_undecodable(error)
    assert not isinstance(error, its_adapter.not_a_number)


@pytest.mark.parametrize("command", ["set", "incr"])
def test_the_error_of_an_outage_is_recognized(build, start, command):
    """First the open connection breaks. Then no other can be opened."""
    server = start()
    real = build(server.location)._cache.wrapped
    its_adapter = adapter.adapter_of(real)
    real.set("k", 1)
    server.kill()
    for _ in range(2):
        error = error_of(lambda: getattr(real, command)("k", 1))
        assert its_adapter.is_outage(error, None)
        assert not its_adapter.is_undecodable(error)


def test_releasing_a_pymemcache_client_closes_its_sockets(server):
    real = pymemcache.HashClient([server.location])
    real.get("k")
    (inner,) = real.clients.values()
    assert inner.sock is not None
    adapter.adapter_of(real).release(real)
    assert inner.sock is None


def test_releasing_a_pool_takes_no_lock_and_ends_its_use(server):
    real = pymemcache.HashClient([server.location], use_pooling=True)
    real.set("k", "v")
    (member,) = real.clients.values()
    (connection,) = member.client_pool.free
    with member.client_pool._lock:
        assert adapter.adapter_of(real).release(real) is False
    assert connection.sock is None


def test_a_client_that_cannot_be_released_is_logged_and_unusable(monkeypatch, caplog):
    class Rude(pymemcache.Client):
        def close(self):
            raise RuntimeError

    rude, polite = Rude(NOWHERE), pymemcache.Client(NOWHERE)
    release = adapter.adapter_of(polite).release
    inherited = [(rude, release), (polite, release)]
    monkeypatch.setattr(forks._forking, "clients", inherited)
    monkeypatch.setattr(forks, "_renewals", [])
    forks._after_in_child()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert forks.is_unusable(rude)
    assert not forks.is_unusable(polite)


def test_releasing_a_pylibmc_client_keeps_it_for_ever():
    """An extra reference prevents that it is freed. When freed, it would say `quit`."""
    real = pylibmc.Client([NOWHERE])
    before = sys.getrefcount(real)
    adapter.adapter_of(real).release(real)
    assert sys.getrefcount(real) == before + 1


@pytest.mark.parametrize("key", ["k", b"k"])
def test_pylibmc_gets_byte_keys_for_tokens(server, key):
    """pylibmc frees the bytes that it makes of a text before it sends them."""
    cache = our_cache(BACKENDS["pylibmc"], server.location)
    real, asked = cache._cache.wrapped, []
    real.gets = lambda name: (None, asked.append(type(name)))
    assert cache._cache.gets(key) == (None, None)
    adapter.adapter_of(real).compare_and_swap(real, key, "old", 1)
    assert asked == [bytes, bytes]


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
@pytest.mark.parametrize("pooled", [True, False])
def test_an_error_of_a_guard_against_connections_is_raised_unchanged(
    build, server, monkeypatch, pooled
):
    """It does not say that the counter's value is bad."""
    cache = build(server.location, OPTIONS={"use_pooling": pooled})

    def blocked(*_):
        raise RuntimeError("a test may not connect")

    monkeypatch.setattr(socket.socket, "connect", blocked)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^a test may not connect$"):
            cache.get("k")
    monkeypatch.undo()
    assert cache.get("k") is None
