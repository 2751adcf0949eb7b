"""`manage.py cache_namespace` on servers of every kind: old, new, with TLS, logins."""

from __future__ import annotations

import ssl
import time
from contextlib import closing

import pytest
from django.core.management import CommandError

from tests.integration.test_cache_namespace import (
    NEWEST,
    Wire,
    listed,
    run,
    setting,
)
from tests.support.caches import BACKENDS, our_cache
from tests.support.wires import answering

CLOCK = b"STAT curr_items 2\r\nEND\r\n", b"STAT time 100\r\nEND\r\n"
OTHERS = b"key=other exp=-1 la=90 cas=1 fetch=no cls=1 size=85\n"
COUNTERS = b"key=nsc%3Ashop exp=-1 la=90 cas=1 fetch=no cls=1 size=85\n"
AFTER = (
    b"HD l10 c1\r\n",
    (b"VA 19\r\n%d\r\n" % NEWEST),
)


def test_a_walk_may_begin_with_ok(client):
    """As it does since memcached 1.6.43."""
    answers = [*CLOCK, b"OK\r\n" + OTHERS + COUNTERS + b"END\r\n", *AFTER]
    with answering(*answers) as (host, port):
        found = listed({"default": setting(client, f"{host}:{port}")})
    assert list(found) == ["shop"]


def test_a_walk_that_a_growing_hash_table_ends_is_made_again(client, monkeypatch):
    """What it has listed so far is discarded. So does memcached since 1.6.28."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    locked = b"ERROR locked try again later\r\n"
    answers = [
        *CLOCK,
        b"OK\r\n" + COUNTERS + COUNTERS.replace(b"shop", b"gone") + OTHERS + locked,
        locked,
        COUNTERS + b"END\r\n",
        *AFTER,
    ]
    with answering(*answers) as (host, port):
        out, err = run({"default": setting(client, f"{host}:{port}")}, "list")
    said = f"{host}:{port} is making its hash table larger: waiting.\n"
    assert err == 2 * said
    assert "shop" in out
    assert "gone" not in out


@pytest.mark.parametrize("way", ["list", "purge"])
@pytest.mark.parametrize("version", [b"1.4.8", b"1.5.22", b"1.6.8"])
def test_an_old_memcached_is_named(client, way, version):
    with (
        answering(*CLOCK, version=version) as (host, port),
        pytest.raises(CommandError) as caught,
    ):
        run({"default": setting(client, f"{host}:{port}")}, way)
    assert str(caught.value) == (
        f"memcached at {host}:{port} is version {version.decode()}: its items can be "
        f"listed from 1.6.9 on."
    )


def test_a_name_is_invalidated_on_an_old_memcached(client):
    """With commands that it has, and without the meta commands of later versions."""
    stored = b"VALUE nsc:shop 0 19\r\n%d\r\nEND\r\n" % NEWEST
    answers = [stored, b"%d\r\n" % (NEWEST + 1)]
    with answering(*answers, version=b"1.4.8") as (host, port):
        caches = {"default": setting(client, f"{host}:{port}")}
        out, _ = run(caches, "invalidate", "shop")
    assert out == f"{host}:{port}: namespace shop, generation {NEWEST + 1}\n"


# Ways to reach a server.


@pytest.mark.parametrize("namespaced", [True, False])
def test_over_tls_it_connects_as_the_alias_does(encrypted, certificate, namespaced):
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.check_hostname = False
    options = {"tls_context": context}
    cache = our_cache(
        BACKENDS["pymemcache"],
        encrypted.location,
        OPTIONS={**options, "NAMESPACE": "tls-list"},
    )
    cache.set("k", 1)
    alias = setting("pymemcache", encrypted.location, **options)
    if namespaced:
        alias["BACKEND"] = "namespaced_cache.NamespacedCache"
    caches = {"default": alias}
    assert listed(caches)["tls-list"]["live"]["items"] == 1
    out, _ = run(caches, "invalidate", "tls-list")
    assert f"generation {cache.generation}" in out
    run(caches, "purge", "--older-than=1d")
    cache.close()


@pytest.fixture
def passwords(tmp_path):
    """A file of logins that memcached can read as the user `nobody`."""
    path = tmp_path / "logins"
    path.write_text("name:secret\n")
    for each in (path, *list(path.parents)[:4]):
        each.chmod(each.stat().st_mode | 0o755)
    return path


LOGIN = {"username": "name", "password": "secret", "binary": True}


def test_with_a_login_in_the_options_it_logs_in(start, passwords):
    server = start("-Y", str(passwords))
    with closing(Wire(server)) as wire:
        wire.ask(b"set auth 0 0 11\r\nname secret\r\n", b"STORED\r\n")
        wire.fill([(b"nsc:shop", b"%d" % NEWEST)])
    caches = {"default": setting("pylibmc", server.location, **LOGIN)}
    assert list(listed(caches)) == ["shop"]
    caches["default"]["OPTIONS"]["password"] = "wrong"
    with pytest.raises(CommandError, match="a login that the OPTIONS"):
        listed(caches)


@pytest.fixture
def with_sasl(start, tmp_path, monkeypatch):
    """A memcached that takes the binary protocol alone, because it has SASL."""
    (tmp_path / "memcached.conf").write_text("mech_list: plain\n")
    monkeypatch.setenv("SASL_CONF_PATH", str(tmp_path))
    return start("-S")


@pytest.fixture
def with_logins(start, passwords):
    return start("-Y", str(passwords))


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("encrypted", "list"),
        ("encrypted", "invalidate"),
        ("with_sasl", "list"),
        ("with_logins", "purge"),
        ("with_logins", "invalidate"),
        ("twemproxy", "list"),
        ("twemproxy", "purge"),
    ],
)
def test_a_server_that_cannot_be_asked_is_named(request, kind, way):
    location = request.getfixturevalue(kind).location
    arguments = [way, "shop"] if way == "invalidate" else [way]
    with pytest.raises(CommandError) as caught:
        run({"default": setting("pymemcache", location)}, *arguments)
    said = str(caught.value)
    name = location.removeprefix("unix:")
    assert said.startswith(f"No answer from memcached at {name}: ")
    for word in ("a proxy", "TLS", "a login", "SASL"):
        assert word in said


def test_a_name_is_invalidated_through_a_proxy(twemproxy):
    options = {"NAMESPACE": "proxied"}
    cache = our_cache(BACKENDS["pymemcache"], twemproxy.location, OPTIONS=options)
    cache.set("k", 1)
    caches = {"default": setting("pymemcache", twemproxy.location)}
    out, _ = run(caches, "invalidate", "proxied")
    assert f"generation {cache.generation}" in out
    assert cache.get("k") is None
    cache.close()
