"""Server: it takes every form of an address, and its errors name the server."""

from __future__ import annotations

import socket
import threading

import pytest

from namespaced_cache import NamespaceError
from namespaced_cache.admin import server
from namespaced_cache.admin.server import Server
from tests.support.servers import Memcached
from tests.support.wires import answering


def forms(memcached: Memcached):
    """Return the forms in which LOCATION may name the server."""
    if memcached.unix:
        path = memcached.location.removeprefix("unix:")
        return [f"unix:{path}", path]
    port = memcached.port
    return [f"127.0.0.1:{port}", ("127.0.0.1", port), f"localhost:{port}:2"]


@pytest.mark.parametrize("unix", [False, True])
def test_each_form_of_an_address_reaches_the_server(start, unix):
    for form in forms(start(unix=unix)):
        with Server(form) as asked:
            assert asked.count() == 0
            assert list(asked.items(b"")) == []
            assert (
                asked.idle(b"k") is asked.value(b"k") is asked.increment(b"k") is None
            )


def test_a_server_has_one_name_in_all_forms(start):
    assert len({Server(form).name for form in forms(start(unix=True))}) == 1


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("localhost", ("localhost", 11211)),
        ("[::1]", ("::1", 11211)),
        ("[::1]:5", ("::1", 5)),
    ],
)
def test_parts_that_an_address_lacks_are_memcacheds_defaults(
    monkeypatch, location, address
):
    asked = []

    def refuse(address, _):
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(NamespaceError, match="No answer"):
        Server(location).count()
    assert asked == [address]


def test_an_invalid_address_is_named():
    with pytest.raises(NamespaceError, match=r"'a:b:c': it takes HOST:PORT or unix:/P"):
        Server("a:b:c")


CLOCK = b"STAT time 100\r\nEND\r\n"


@pytest.mark.parametrize(
    ("answers", "ask"),
    [
        ([b"ERROR\r\n"], lambda asked: asked.count()),
        ([b"ERROR\r\n"], lambda asked: asked.idle(b"k")),
        ([b"ERROR\r\n"], lambda asked: asked.value(b"k")),
        ([b"ERROR\r\n"], lambda asked: asked.get(b"k")),
        ([b"ERROR\r\n"], lambda asked: asked.delete([])),
        ([b"CLIENT_ERROR no number\r\n"], lambda asked: asked.increment(b"k")),
        ([CLOCK, b"ERROR\r\n"], lambda asked: [*asked.items(b"")]),
        ([CLOCK, b"key=a is odd\r\nEND\r\n"], lambda asked: [*asked.items(b"")]),
    ],
)
def test_an_unexpected_answer_is_shown(answers, ask):
    with (
        answering(*answers) as location,
        Server(location) as asked,
        pytest.raises(NamespaceError, match=r"127\.0\.0\.1:\d+ answers b'") as caught,
    ):
        ask(asked)
    assert "this takes a memcached that is reached directly" in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"VA 19\r\n123"])
def test_a_server_that_hangs_up_is_named(answer):
    with (
        answering(answer) as location,
        Server(location) as asked,
        pytest.raises(NamespaceError, match=r"127\.0\.0\.1:\d+: it ended the connec"),
    ):
        asked.value(b"k")


@pytest.mark.parametrize("begun", [b"", b"VA 19\r\n"])
def test_a_server_that_stops_answering_is_named(monkeypatch, begun):
    monkeypatch.setattr(server, "_PATIENCE", 0.1)
    silent = threading.Event()
    with (
        answering(begun, before_it_hangs_up=silent.wait) as location,
        Server(location) as asked,
    ):
        with pytest.raises(NamespaceError, match=r"No answer from .*: timed out\."):
            asked.value(b"k")
        silent.set()


def test_a_walk_returns_only_keys_with_the_prefix(start):
    """The keys may contain any bytes. Other keys are only counted."""
    memcached = start()
    keys = {b"a:1", b"a:1%", b"a%3A1", b"b:1", "a:ü".encode()}
    with Server(memcached.location) as asked:
        with socket.create_connection(("127.0.0.1", memcached.port)) as connection:
            connection.sendall(b"".join(b"set %b 0 0 1\r\nv\r\n" % k for k in keys))
            while asked.count() < len(keys):
                pass
        assert {item.key for item in asked.items(b"a:")} == {
            key for key in keys if key.startswith(b"a:")
        }
        assert asked.walked == len(keys)


def test_deleting_missing_keys_is_no_error(start):
    with Server(start().location) as asked:
        asked.delete([(b"a", 1), (b"b c", 2)])
        assert asked.count() == 0


def test_a_server_that_was_killed_gives_no_answer(start):
    memcached = start()
    with Server(memcached.location) as asked:
        assert asked.count() == 0
        memcached.kill()
        for _ in range(3):  # the system may still accept the first request
            with pytest.raises(NamespaceError, match="No answer"):
                asked.count()
