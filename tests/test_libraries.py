"""libraries: what is said of pymemcache and pylibmc holds of the real clients."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pylibmc
import pymemcache
import pytest
from pymemcache.client.retrying import RetryingClient

from namespaced_cache import libraries
from namespaced_cache.errors import NamespaceError

NOWHERE = "127.0.0.1:1"


class SitesPymemcache(pymemcache.HashClient):
    """A project's own client."""


class SitesPylibmc(pylibmc.Client):
    """A project's own client."""


class Stranger:
    """A client from a library that nobody looked at."""


class Lookalike:
    """A client from a library whose name begins like one that we know."""

    __module__ = "pymemcache_fork.client"


@pytest.mark.parametrize(
    ("made", "library"),
    [
        (pymemcache.Client(NOWHERE), libraries.PyMemcache),
        (pymemcache.PooledClient(NOWHERE), libraries.PyMemcache),
        (pymemcache.HashClient([NOWHERE]), libraries.PyMemcache),
        (SitesPymemcache([NOWHERE]), libraries.PyMemcache),
        (pylibmc.Client([NOWHERE]), libraries.PyLibMC),
        (SitesPylibmc([NOWHERE]), libraries.PyLibMC),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_clients_and_what_derives_from_them_are_known(made, library):
    assert type(libraries.of(made)) is library
    assert libraries.is_client(made)


@pytest.mark.parametrize("kind", [Stranger, Lookalike, object])
def test_another_librarys_client_is_refused(kind):
    with pytest.raises(NamespaceError) as caught:
        libraries.of(kind())
    assert str(caught.value) == (
        f"The wrapped backend's client is a {kind.__module__}.{kind.__qualname__}: "
        f"only clients made from pymemcache's and pylibmc's can be namespaced."
    )
    assert not libraries.is_client(kind())


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
        limit = libraries.of(real).key_limit(real)
        assert limit == 250 - len(prefix)
        assert real.set("k" * limit, b"v", noreply=False)
        with pytest.raises(pymemcache.exceptions.MemcacheIllegalInputError):
            real.set("k" * (limit + 1), b"v")
        real.close()


def test_the_key_limit_is_what_pylibmc_takes(server):
    real = pylibmc.Client([server.location])
    limit = libraries.of(real).key_limit(real)
    assert limit == 250
    assert real.set("k" * limit, "v")
    with pytest.raises(ValueError, match="key length 251 too long"):
        real.set("k" * (limit + 1), "v")


def test_pymemcache_checks_its_keys(server):
    real = pymemcache.Client(server.location)
    assert libraries.of(real).checks_keys(real)
    for end in "\0\t\n\v\f\r ":
        with pytest.raises(pymemcache.exceptions.MemcacheIllegalInputError):
            real.get(f"k{end}k")


def test_pylibmc_checks_no_keys_in_the_text_protocol(server):
    """It asks for the words of one key and answers with the value of another."""
    real = pylibmc.Client([server.location])
    assert not libraries.of(real).checks_keys(real)
    real.set("word", "of somebody else")
    assert real.get("no word") == "of somebody else"


def test_pylibmc_needs_no_check_in_the_binary_protocol(server):
    real = pylibmc.Client([server.location], binary=True)
    assert libraries.of(real).checks_keys(real)
    real.set("word", "of somebody else")
    assert real.get("no word") is None


def test_pymemcache_answers_none_for_a_number_that_is_not_there(server):
    real = pymemcache.HashClient([server.location])
    assert libraries.of(real).not_found == ()
    assert real.incr("missing", 1) is None
    real.close()


def test_pylibmc_raises_for_a_number_that_is_not_there(server):
    real = pylibmc.Client([server.location])
    assert libraries.of(real).not_found == (pylibmc.NotFound,)
    with pytest.raises(pylibmc.NotFound):
        real.incr("missing", 1)


@pytest.mark.parametrize("verb", libraries.PyMemcache.many_parameters)
def test_pymemcaches_parameters_after_the_keys_are_as_said(verb):
    taken = inspect.signature(getattr(pymemcache.HashClient, verb)).parameters
    _, _keys, *rest = (name for name in taken if name not in ("args", "kwargs"))
    assert tuple(rest) == libraries.PyMemcache.many_parameters[verb]


def test_fetch_finds_what_is_there_in_one_round_trip(build, proxy):
    real = build(proxy.location)._cache.wrapped
    real.set_multi({"a": 1, "b": 2})
    found = []
    trips = proxy.during(
        lambda: found.append(
            libraries.of(real).fetch(real, ["a", "b", "missing"], cas=False)
        )
    )
    assert found == [{"a": 1, "b": 2}]
    assert trips == 1


def test_pymemcache_fetches_with_tokens_in_one_round_trip(proxy):
    real = pymemcache.HashClient([proxy.location])
    real.set_multi({"a": b"1", "b": b"2"}, noreply=False)
    found = {}
    trips = proxy.during(
        lambda: found.update(libraries.of(real).fetch(real, ["a", "b"], cas=True))
    )
    assert {key: value for key, (value, _) in found.items()} == {"a": b"1", "b": b"2"}
    assert trips == 1
    for key, (_, token) in found.items():
        assert real.cas(key, b"3", token, noreply=False) is True
        assert real.cas(key, b"4", token, noreply=False) is False
    real.close()


def test_pylibmc_has_no_fetch_with_tokens():
    real = pylibmc.Client([NOWHERE], behaviors={"cas": True})
    with pytest.raises(NotImplementedError):
        libraries.of(real).fetch(real, ["a"], cas=True)


def test_leaving_a_pymemcache_client_closes_its_sockets(server):
    real = pymemcache.HashClient([server.location])
    real.get("k")
    (inner,) = real.clients.values()
    assert inner.sock is not None
    libraries.of(real).leave(real)
    assert inner.sock is None


def test_leaving_a_pylibmc_client_keeps_it_for_ever():
    """One reference more than Python knows of, or it would say `quit` when freed."""
    real = pylibmc.Client([NOWHERE])
    before = sys.getrefcount(real)
    libraries.of(real).leave(real)
    assert sys.getrefcount(real) == before + 1


def test_a_client_that_has_every_attribute_is_refused():
    """pymemcache's RetryingClient answers to any name, so it cannot be asked."""
    with pytest.raises(NamespaceError, match="RetryingClient: only clients made from"):
        libraries.of(RetryingClient(pymemcache.Client(NOWHERE)))
