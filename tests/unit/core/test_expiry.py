"""MAX_TIMEOUT: no item stays longer, whichever command stored it."""

from __future__ import annotations

import socket

import pytest

from namespaced_cache.core import clock
from namespaced_cache.core.expiry import LONGEST_RELATIVE, capped
from namespaced_cache.keys import base36

DAY = 24 * 60 * 60
NEVER = -1


@pytest.mark.parametrize(
    ("expiry", "longest", "expected"),
    [
        (0, 60, 60),
        (59, 60, 59),
        (60, 60, 60),
        (61, 60, 60),
        (-1, 60, -1),
        (LONGEST_RELATIVE, LONGEST_RELATIVE, LONGEST_RELATIVE),
        (LONGEST_RELATIVE, 60, 60),
        (True, 60, True),
        # The client refuses anything else than a whole number.
        (None, 60, None),
        ("9", 60, "9"),
        (1.5, 60, 1.5),
    ],
)
def test_seconds_are_capped(expiry, longest, expected):
    assert capped(expiry, longest) == expected


@pytest.mark.parametrize(
    ("expiry", "longest", "expected"),
    [
        (0, LONGEST_RELATIVE + 1, 5000 + LONGEST_RELATIVE + 1),
        (10**9 + 60, 60, 10**9 + 60),
        (10**9 + 61, 60, 60),
        (10**9 - 5, 60, 10**9 - 5),
    ],
)
def test_moments_are_capped(monkeypatch, expiry, longest, expected):
    now = 5000 if expiry == 0 else 10**9
    monkeypatch.setattr(clock, "wall", lambda: now + 0.5)
    assert capped(expiry, longest) == expected


def seconds_left(server, cache, key):
    """Return the seconds that an item will stay, or NEVER if it has no expiry."""
    wire_key = f"nsc:{cache.namespace}:{base36(cache.generation)}:{key}"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"mg {wire_key} t\r\n".encode())
        answer = connection.recv(100)
    assert answer.startswith(b"HD t"), answer
    return int(answer[4:])


def gets_token(raw):
    raw.set("k", 1)
    return raw.gets("k")[1]


WRITES = {
    "set": lambda raw, *more: raw.set("k", 1, *more),
    "add": lambda raw, *more: raw.add("k", 1, *more),
    "replace": lambda raw, *more: raw.set("k", 1) and raw.replace("k", 1, *more),
    "cas": lambda raw, *more: raw.cas("k", 1, gets_token(raw), *more),
    "touch": lambda raw, *more: raw.set("k", 1) and raw.touch("k", *(more or [0])),
    "set_multi": lambda raw, *more: raw.set_multi({"k": 1}, *more),
}


@pytest.mark.parametrize("command", [*WRITES, "add_multi"])
@pytest.mark.parametrize("asked", [None, 0, 50, 500])
def test_every_write_is_capped(build, server, client, command, asked):
    if command == "add_multi":
        if client == "pymemcache":
            return  # pymemcache has no such command
        write = lambda raw, *more: raw.add_multi({"k": 1}, *more)  # noqa: E731
    else:
        write = WRITES[command]
    behaviors = {"behaviors": {"cas": True}} if client == "pylibmc" else {}
    cache = build(OPTIONS={"MAX_TIMEOUT": 100, **behaviors})
    write(cache._cache, *([] if asked is None else [asked]))
    expected = min(asked or 100, 100)
    assert expected - 5 < seconds_left(server, cache, "k") <= expected


NAMED = {"pymemcache": "expire", "pylibmc": "time"}


@pytest.mark.parametrize("asked", [0, 50, 500])
def test_an_expiry_by_name_is_capped(build, server, client, asked):
    cache = build(OPTIONS={"MAX_TIMEOUT": 100})
    cache._cache.set("k", 1, **{NAMED[client]: asked})
    expected = min(asked or 100, 100)
    assert expected - 5 < seconds_left(server, cache, "k") <= expected


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_an_item_assignment_is_capped(build, server):
    cache = build(OPTIONS={"MAX_TIMEOUT": 100})
    cache._cache["k"] = 1
    assert 95 < seconds_left(server, cache, "k") <= 100


@pytest.mark.parametrize("longest", [100, 40 * DAY])
@pytest.mark.parametrize("timeout", [None, 50 * DAY])
def test_djangos_timeouts_are_capped(build, server, longest, timeout):
    """Also None, which means no expiry, and timeouts of more than 30 days."""
    cache = build(OPTIONS={"MAX_TIMEOUT": longest})
    cache.set("k", 1, timeout)
    cache.set_many({"m": 1}, timeout)
    for key in ("k", "m"):
        left = seconds_left(server, cache, cache.make_key(key))
        assert longest - 5 < left < longest + 5  # the clock of memcached may lag


def test_without_a_max_timeout_timeouts_are_unchanged(build, server):
    cache = build(OPTIONS={"MAX_TIMEOUT": None})
    cache.set("k", 1, None)
    assert seconds_left(server, cache, cache.make_key("k")) == NEVER


def test_a_counter_outlives_the_items(build, server):
    """MAX_TIMEOUT does not apply to the counter.

    Without it, all items would be lost.
    """
    cache = build(OPTIONS={"MAX_TIMEOUT": 1})
    cache.set("k", 1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"mg nsc:{cache.namespace} t\r\n".encode())
        assert connection.recv(100) == b"HD t-1\r\n"
