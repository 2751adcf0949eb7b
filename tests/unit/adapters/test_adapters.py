"""What the adapters say of pymemcache and pylibmc holds of the real clients."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys

import pylibmc
import pymemcache
import pytest
from django.utils.functional import SimpleLazyObject
from pymemcache.client.retrying import RetryingClient

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
    """Put a value on the server that no client of ours would write."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        line = f"set {key} {flags} 0 {len(value)}\r\n{value}\r\n"
        connection.sendall(line.encode())
        assert connection.recv(65536) == b"STORED\r\n"


def error_of(act) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which is what we ask
        act()
    return caught.value


class Stranger:
    """A client from a library that nobody looked at."""


class Proxy:
    """What a tracer puts before a client: it passes for what it wraps."""

    __wrapped__ = None
    __class__ = property(lambda self: type(self.__wrapped__))

    def __init__(self, client):
        self.__wrapped__ = client

    def __getattr__(self, name):
        return getattr(self.__wrapped__, name)


class Lookalike:
    """A client from a library whose name begins like one that we know."""

    __module__ = "pymemcache_fork.client"


@pytest.mark.parametrize(
    ("made", "library"),
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
def test_clients_and_what_derives_from_them_are_known(made, library):
    assert type(adapter.adapter_of(made)) is library
    assert adapter.is_client(made)


@pytest.mark.parametrize("kind", [Stranger, Lookalike, object])
def test_another_librarys_client_is_refused(kind):
    with pytest.raises(NamespaceError) as caught:
        adapter.adapter_of(kind())
    assert str(caught.value) == (
        f"The wrapped backend's client is a {kind.__module__}.{kind.__qualname__}: "
        f"only clients made from pymemcache's and pylibmc's can be namespaced."
    )
    assert not adapter.is_client(kind())


def test_what_a_backend_has_left_for_later_is_not_asked_what_it_is():
    """A lazy object's class is that of what it wraps, which would be made for it."""
    made = []
    lazy = SimpleLazyObject(lambda: made.append("early"))
    assert not adapter.is_client(lazy)
    assert made == []


def test_neither_library_is_imported_before_a_backend_needs_it():
    """A site has the one it uses, and may lack the other."""
    code = (
        "import sys, namespaced_cache; "
        "print({'pymemcache', 'pylibmc', '_pylibmc'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    assert child.stdout == "set()\n"


@pytest.mark.parametrize("prefix", [b"", b"site:", b"p" * 100])
def test_the_key_limit_is_what_pymemcache_takes(server, prefix):
    """A `key_prefix` takes its share of memcached's 250 bytes."""
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


def test_the_key_limit_is_what_pylibmc_takes(server):
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


def test_pylibmc_checks_no_keys_in_the_text_protocol(server):
    """It asks for the words of one key and answers with the value of another."""
    real = pylibmc.Client([server.location])
    assert not adapter.adapter_of(real).checks_keys(real)
    real.set("word", "of somebody else")
    assert real.get("no word") == "of somebody else"


def test_pylibmc_needs_no_check_in_the_binary_protocol(server):
    real = pylibmc.Client([server.location], binary=True)
    assert adapter.adapter_of(real).checks_keys(real)
    real.set("word", "of somebody else")
    assert real.get("no word") is None


def test_pymemcache_answers_none_for_a_number_that_is_not_there(server):
    real = pymemcache.HashClient([server.location])
    assert adapter.adapter_of(real).not_found == ()
    assert real.incr("missing", 1) is None
    real.close()


def test_pylibmc_raises_for_a_number_that_is_not_there(server):
    real = pylibmc.Client([server.location])
    assert adapter.adapter_of(real).not_found == (pylibmc.NotFound,)
    with pytest.raises(pylibmc.NotFound):
        real.incr("missing", 1)


# Swaps.


def swap(client, key, old, new):
    adapter.adapter_of(client).compare_and_swap(client, key, old, new)


def test_a_swap_puts_the_new_in_the_place_of_the_old_for_ever(real, server):
    real.set("k", 5, 100)
    swap(real, "k", 5, 6)
    assert real.get("k") == 6
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"mg k t\r\n")
        assert connection.recv(65536) == b"HD t-1\r\n"


def test_a_swap_leaves_what_somebody_else_has_put_there(real):
    real.set("k", 7)
    swap(real, "k", 5, 6)
    assert real.get("k") == 7


def test_a_swap_puts_nothing_where_nothing_is(real):
    real.delete("k")
    swap(real, "k", 5, 6)
    assert real.get("k") is None


def test_a_swap_that_somebody_overtakes_leaves_theirs(real, monkeypatch):
    """They write after it has seen the old and before it puts the new."""
    real.set("k", 5)
    real_cas = type(real).cas

    def overtaken(self, *args):
        real.set("k", 7)
        return real_cas(self, *args)

    monkeypatch.setattr(type(real), "cas", overtaken)
    swap(real, "k", 5, 6)
    assert real.get("k") == 7


def test_a_swap_of_what_goes_meanwhile_is_none(real, monkeypatch):
    real.set("k", 5)
    real_cas = type(real).cas

    def overtaken(self, *args):
        real.delete("k")
        return real_cas(self, *args)

    monkeypatch.setattr(type(real), "cas", overtaken)
    swap(real, "k", 5, 6)
    assert real.get("k") is None


def test_a_pylibmc_client_swaps_with_what_its_own_serializer_needs(server):
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
    """With pylibmc as well, whose clone then says `quit`."""
    real = pymemcache.HashClient([proxy.location], default_noreply=False)
    real.set("k", b"5")
    assert proxy.during(lambda: swap(real, "k", b"5", 6)) == 2
    assert proxy.during(lambda: swap(real, "k", b"5", 6)) == 1
    real.close()


@pytest.mark.parametrize("options", [{}, {"binary": True}])
def test_pylibmc_swaps_with_a_client_that_was_made_without_cas(server, options):
    """And leaves it without, for `cas` makes every answer longer."""
    real = pylibmc.Client([server.location], **options)
    real.set("k", 5)
    swap(real, "k", 5, 6)
    assert real.get("k") == 6
    assert real.behaviors["cas"] == 0


@pytest.mark.parametrize("kind", [pymemcache.Client, pymemcache.PooledClient])
def test_pymemcaches_other_clients_swap_as_well(server, kind):
    """Without a serializer they store digits and give back bytes."""
    real = kind(server.location, default_noreply=False)
    real.set("k", "5")
    swap(real, "k", b"4", 6)
    assert real.get("k") == b"5"
    swap(real, "k", b"5", 6)
    assert real.get("k") == b"6"
    real.close()


def test_pymemcache_swaps_nothing_while_it_takes_the_server_to_be_away():
    real = pymemcache.HashClient([NOWHERE], ignore_exc=True)
    swap(real, "k", 5, 6)


# What an error means.


@pytest.mark.parametrize("value", ["text", ""])
def test_incr_of_what_is_no_number_is_told_apart(real, value):
    library = adapter.adapter_of(real)
    real.set("k", value)
    error = error_of(lambda: real.incr("k", 1))
    assert isinstance(error, library.not_a_number)
    assert not library.is_outage(error, None)
    assert not library.is_undecodable(error)


#: Flags that say "a pickle", "an integer", and, to pylibmc, "compressed" and nothing.
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
def test_a_value_that_cannot_be_decoded_is_told_apart(real, server, flags, read):
    library = adapter.adapter_of(real)
    key = secrets.token_hex(8)  # the server is shared
    put(server, key, flags, "abc")
    error = error_of(lambda: read(real, key))
    assert library.is_undecodable(error)
    assert not isinstance(error, library.not_a_number)


@pytest.mark.parametrize("verb", ["set", "incr"])
def test_a_server_that_is_away_is_told_apart(build, start, verb):
    """First the connection that is there breaks, then there is none to be had."""
    server = start()
    real = build(server.location)._cache.wrapped
    library = adapter.adapter_of(real)
    real.set("k", 1)
    server.kill()
    for _ in range(2):
        error = error_of(lambda: getattr(real, verb)("k", 1))
        assert library.is_outage(error, None)
        assert not library.is_undecodable(error)


def test_leaving_a_pymemcache_client_closes_its_sockets(server):
    real = pymemcache.HashClient([server.location])
    real.get("k")
    (inner,) = real.clients.values()
    assert inner.sock is not None
    adapter.adapter_of(real).release(real)
    assert inner.sock is None


def test_leaving_a_pool_takes_no_lock_and_ends_its_use(server):
    real = pymemcache.HashClient([server.location], use_pooling=True)
    real.set("k", "v")
    (member,) = real.clients.values()
    (connection,) = member.client_pool.free
    with member.client_pool._lock:
        assert adapter.adapter_of(real).release(real) is False
    assert connection.sock is None


def test_what_cannot_be_left_is_logged_and_not_used_again(monkeypatch, caplog):
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


def test_leaving_a_pylibmc_client_keeps_it_for_ever():
    """One reference more than Python knows of, or it would say `quit` when freed."""
    real = pylibmc.Client([NOWHERE])
    before = sys.getrefcount(real)
    adapter.adapter_of(real).release(real)
    assert sys.getrefcount(real) == before + 1


def test_a_client_that_has_every_attribute_is_refused():
    """pymemcache's RetryingClient answers to any name, so it cannot be asked."""
    with pytest.raises(NamespaceError, match="RetryingClient: only clients made from"):
        adapter.adapter_of(RetryingClient(pymemcache.Client(NOWHERE)))


@pytest.mark.parametrize("key", ["k", b"k"])
def test_pylibmc_is_asked_for_tokens_by_bytes(server, key):
    """It frees the bytes that it makes of a text before it sends them."""
    cache = our_cache(BACKENDS["pylibmc"], server.location)
    real, asked = cache._cache.wrapped, []
    real.gets = lambda name: (None, asked.append(type(name)))
    assert cache._cache.gets(key) == (None, None)
    adapter.adapter_of(real).compare_and_swap(real, key, "old", 1)
    assert asked == [bytes, bytes]
