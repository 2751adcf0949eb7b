"""Outages: in each, ours behaves like the bare backend.

Both go through the same outage, with a client for each command. The tables have the
answer or the error of each call. If ours differs, a note says why.
"""

from __future__ import annotations

import contextvars
import functools
import re
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import pytest
from _pylibmc import libmemcached_version

from namespaced_cache.keys import parse
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.outages import (
    COMMANDS,
    ERRORS,
    LOUD,
    Cell,
    all_recover,
    read,
    word,
)
from tests.support.round_trips import CountingProxy
from tests.support.servers import Memcached

#: Seconds until a client gives up a server that does not answer.
PATIENCE = 0.5
#: These clients do not try a server again during a test, unless their options say so.
PYMEMCACHE = {"timeout": PATIENCE, "connect_timeout": PATIENCE, "retry_timeout": 60}
PYLIBMC = {
    "_poll_timeout": int(PATIENCE * 1e3),
    "connect_timeout": int(PATIENCE * 1e3),
    "receive_timeout": int(PATIENCE * 1e6),
    "send_timeout": int(PATIENCE * 1e6),
    "retry_timeout": 60,
    "tcp_nodelay": True,
}
CLIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "pymemcache": ("pymemcache", PYMEMCACHE),
    "pooled": ("pymemcache", {**PYMEMCACHE, "use_pooling": True}),
    "retry-at-once": ("pymemcache", {**PYMEMCACHE, "retry_timeout": 0}),
    "no-retry": ("pymemcache", {**PYMEMCACHE, "retry_attempts": 0}),
    "never-dead": (
        "pymemcache",
        {**PYMEMCACHE, "retry_attempts": 0, "dead_timeout": 0},
    ),
    "ignore-exc": ("pymemcache", {**PYMEMCACHE, "ignore_exc": True}),
    "pylibmc": ("pylibmc", {"behaviors": PYLIBMC}),
    "remove-failed": (
        "pylibmc",
        {"behaviors": {**PYLIBMC, "remove_failed": 1, "dead_timeout": 60}},
    ),
}

#: How often each command is called in an outage.
CALLS = 3

#: What the first call in an outage does, the second, and so on. The last word applies
#: to all further calls. "any" means the commands without a line of their own. "ours"
#: says how ours differs from the bare backend in the line above, for the reason in
#: NOTES.
#:
#: killed: open connections break, and new ones are refused. refused: the server never
#: ran, and clients are new. frozen: the server accepts requests and answers none, until
#: the client gives it up.
TABLE = """
                | killed                     | refused              | frozen
pymemcache pooled
    any         | closed refused default     | refused default      | timed-out default
retry-at-once
    any         | closed refused             | refused              | timed-out
no-retry
    any         | closed refused all-down    | refused all-down     | timed-out all-down
never-dead
    any         | closed refused             | refused              | timed-out
ignore-exc
    any         | default                    | default              | default
    set_many    | []                         | []                   | []
      ours: a   | default                    | default              | default
pylibmc @1.0.16
    any         | Connection Down            | Connection Down      | Error Down
    touch       | Connection Write           | Write                | Error Write
      ours: b   | =                          | Connection Down      | =
    get has_key | Connection Down            | Connection Down      | Error Down
      ours: c   | default Down               | =                    | default Down
    get_many    | default Down               | Down                 | default Down
      ours: b   | =                          | Connection Down      | =
    get_or_set  | Connection Down            | Connection Down      | Error Down
      ours: c   | Down                       | =                    | Down
remove-failed @1.0.16
    any         | Connection Dead Down       | Connection Dead Down | Error Dead Down
    touch       | Connection Write           | Write                | Error Write
      ours: b   | =                          | Connection Dead Down | =
    get has_key | Connection Dead Down       | Connection Dead Down | Error Dead Down
      ours: c   | default Down               | =                    | default Down
    get_many    | default Down               | Dead Down            | default Down
      ours: b   | =                          | Connection Dead Down | =
    get_or_set  | Connection Dead Down       | Connection Dead Down | Error Dead Down
      ours: c   | Dead Down                  | =                    | Dead Down
pylibmc remove-failed @1.1.4
    any         | Connection Connection Down | Connection Down      | Error
    touch       | Connection Write           | Write                | Error
      ours: b   | =                          | Connection Down      | =
    get has_key | Connection Connection Down | Connection Down      | Error
      ours: c   | default Down               | =                    | default
    get_many    | default Down               | Down                 | default
      ours: b   | =                          | Connection Down      | =
    get_or_set  | Connection Connection Down | Connection Down      | Error
      ours: c   | Connection Down            | =                    | Error
"""
#: And how many more waits for a frozen server a difference may cost, for all calls.
NOTES = {
    # Bare pymemcache returns that everything was stored, although no server has
    # answered. Ours reads the counter, and waits once until it learns that there is no
    # answer.
    "a": 1,
    # A process without a latest generation first reads the counter, with a `get`.
    "b": 0,
    # One request gets the counter and the item. It is a `get_multi`, which hides a
    # first failure that a `get` does not hide. `get_or_set` then calls `add`, and may
    # wait.
    "c": CALLS,
}


CELLS = read(TABLE)
OUTAGES = ("killed", "refused", "frozen")

#: pylibmc behaves like the libmemcached that it was compiled with. For versions that
#: are not in the table, the tests only assert that ours behaves like the bare backend.
VERSIONS = sorted({version for _, version, _, _ in CELLS} - {""})
VERSION_IS_LISTED = libmemcached_version in VERSIONS
NEAREST = max((v for v in VERSIONS if v <= libmemcached_version), default=VERSIONS[0])


@contextmanager
def down(server: Memcached, outage: str):
    """Keep the server down during the block. A watchdog ends a test that hangs."""
    if outage != "frozen":
        server.kill()
        yield
        server.start()
        return
    watchdog = threading.Timer(60, server.kill)
    watchdog.start()
    server.freeze()
    yield
    server.thaw()
    watchdog.cancel()
    assert server.process.poll() is None, "a client waited for ever"


def keys_on(server: Memcached) -> list[bytes]:
    """Return all keys that the server holds."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        reply = b""
        while not reply.endswith(b"END\r\n"):
            if reply in (b"", b"BUSY currently processing crawler request\r\n"):
                connection.sendall(b"lru_crawler metadump all\r\n")
                reply = b""
            chunk = connection.recv(65536)
            assert chunk, "memcached has closed the connection"
            reply += chunk
    return [unquote_to_bytes(key) for key in re.findall(rb"key=(\S+)", reply)]


def patiently(act: Callable[[], Any]) -> Any:
    """Call `act` again if a running server was too slow for a client's PATIENCE."""
    for _ in range(10):
        with suppress(*ERRORS.values()):
            return act()
    return act()


class Actor:
    """A backend that carries out one command, with its own client and keys."""

    def __init__(
        self,
        client: str,
        side: str,
        command: str,
        server: Memcached,
        **options: Any,
    ) -> None:
        library, defaults = CLIENTS[client]
        self.command = command
        self.ours = side != "bare"
        # No other test has this name. Ports are used again, and a latest generation of
        # an earlier server must not be used for this one.
        name = f"{command}-{secrets.token_hex(4)}"
        ours: dict[str, Any] = {"NAMESPACE": name} if self.ours else {}
        if side == "stale":
            ours["MAX_STALENESS"] = 600
        self._options = {**defaults, **options, **ours}, ours
        self._make = partial(
            our_cache if self.ours else bare_cache,
            BACKENDS[library],
            KEY_PREFIX="ours" if self.ours else f"bare-{name}",
        )
        self._server = server
        self.proxy: CountingProxy | None = None
        self._context = contextvars.copy_context()
        self._pin = ExitStack()

    def get_ready(self, *, counting: bool = False, warm: bool = True) -> None:
        """Make the client, and let it use the server before the outage."""
        if not warm:
            self.cache = self._make(self._server.location, OPTIONS=self._options[0])
            return
        patiently(partial(self._use_the_server, counting))

    def _use_the_server(self, counting: bool) -> None:  # noqa: FBT001
        # The proxy counts from the start, because it may notice a closed connection
        # late.
        self.proxy = CountingProxy(self._server.port) if counting else None
        location = self.proxy.location if self.proxy else self._server.location
        self.cache = self._make(location, OPTIONS=self._options[0])
        self.cache.set_many({"k": 1, "l": 1, "kept": 1})
        # libmemcached 1.0 raises other errors once it has found something.
        assert self.cache.get("k") == 1

    def pin(self) -> None:
        """Pin the generation for all calls of this backend."""
        patiently(
            lambda: self._context.run(
                self._pin.enter_context, self.cache.pinned_generation()
            )
        )

    def run(self, act: Callable[[Any], Any]) -> Any:
        """Call `act` with the cache, in the block of `pin()` if there is one."""
        return self._context.run(act, self.cache)

    @property
    def counter(self) -> Any:
        return self.cache._cache.counter

    def act(self) -> str:
        """Call the command and return the word for its outcome."""
        call, outage_default = (COMMANDS | LOUD)[self.command]
        return self.run(lambda cache: word(partial(call, cache), outage_default))

    @property
    def waits(self) -> int:
        """How often the client has sent something and waited for an answer."""
        return self.proxy.count if self.proxy else 0

    def found_later(self) -> dict[str, Any]:
        """Return the items that a new client finds."""
        later = self._make(self._server.location, OPTIONS=self._options[1])
        found = later.get_many(["k", "l", "new"])
        later.close()
        return found

    def close(self) -> None:
        self._context.run(self._pin.close)
        self.cache.close()
        if self.proxy:
            self.proxy.close()


# One outage, with all commands and all modes at once.


class Played(NamedTuple):
    """The outcome of an outage, by side and command."""

    words: dict[tuple[str, str], list[str]]
    waits: dict[tuple[str, str], int]
    found_later: dict[tuple[str, str], dict[str, Any]]
    latest: dict[str, tuple[int, int]]  # by namespace: before and after the outage
    keys: list[bytes]


@functools.cache
def play(client: str, outage: str) -> Played:
    """Call each command on each side while the server is down."""
    # With one thread, memcached later carries out the requests in their order.
    server = Memcached("-t", "1")
    actors = {
        (side, command): Actor(client, side, command, server)
        for side in sides(outage)
        for command in (COMMANDS if side == "bare" else COMMANDS | LOUD)
    }

    def get_ready():
        for (side, _), actor in actors.items():
            actor.get_ready(counting=outage == "frozen", warm=outage != "refused")
            if side == "pinned":
                actor.pin()

    if outage != "refused":
        get_ready()
    with down(server, outage), ThreadPoolExecutor(len(actors)) as pool:
        if outage == "refused":
            get_ready()
        ours = [actor for actor in actors.values() if actor.ours]
        before = {actor.counter.namespace: actor.counter.latest for actor in ours}
        waits = {who: -actor.waits for who, actor in actors.items()}
        running = {
            who: pool.submit(lambda actor: [actor.act() for _ in range(CALLS)], actor)
            for who, actor in actors.items()
        }
        words = {who: future.result() for who, future in running.items()}
    latest = {
        actor.counter.namespace: (before[actor.counter.namespace], actor.counter.latest)
        for actor in ours
    }
    keys = keys_on(server)
    found = {who: actor.found_later() for who, actor in actors.items()}
    for who, actor in actors.items():
        waits[who] += actor.waits
    for actor in actors.values():
        actor.close()
    server.close()
    return Played(words, waits, found, latest, keys)


def sides(outage: str) -> list[str]:
    # A block cannot begin while the server is down.
    return ["bare", "strict", "stale", *(["pinned"] if outage != "refused" else [])]


def expected(client: str, outage: str, side: str, command: str) -> Cell:
    """Return the table's cell, without its note if the counter is not read."""
    version = "" if CLIENTS[client][0] == "pymemcache" else NEAREST
    cell = CELLS[client, version, outage, command]
    reads_the_counter = side == "strict" or outage == "refused"
    return cell if reads_the_counter else Cell(cell.bare, cell.bare)


def at_length(words: list[str]) -> list[str]:
    return (words + words[-1:] * CALLS)[:CALLS]


EVERY_OUTAGE = pytest.mark.parametrize(
    ("client", "outage"), [(name, outage) for name in CLIENTS for outage in OUTAGES]
)


@EVERY_OUTAGE
def test_the_bare_backend_does_what_the_table_says(client, outage):
    played = play(client, outage)
    for command in COMMANDS:
        words = expected(client, outage, "bare", command).bare
        if VERSION_IS_LISTED or CLIENTS[client][0] == "pymemcache":
            assert played.words["bare", command] == at_length(words), command


@EVERY_OUTAGE
def test_ours_behaves_like_the_bare_backend(client, outage):
    """Or as the table says."""
    played = play(client, outage)
    for side in sides(outage)[1:]:
        for command in COMMANDS:
            cell = expected(client, outage, side, command)
            if not cell.note:
                assert played.words[side, command] == played.words["bare", command], (
                    command
                )
            elif VERSION_IS_LISTED or CLIENTS[client][0] == "pymemcache":
                assert played.words[side, command] == at_length(cell.ours), command


@EVERY_OUTAGE
def test_code_that_asks_for_the_generation_always_sees_the_outage(client, outage):
    played = play(client, outage)
    for side in sides(outage)[1:]:
        for command in LOUD:
            assert played.words[side, command] == ["unavailable"] * CALLS, command


@pytest.mark.parametrize("client", CLIENTS)
def test_ours_waits_for_a_frozen_server_no_more_often_than_bare(client):
    """Each call waits once at most, or as often as NOTES allows."""
    played = play(client, "frozen")
    for side in sides("frozen")[1:]:
        for command in COMMANDS:
            note = expected(client, "frozen", side, command).note
            allowed = played.waits["bare", command] + (NOTES[note] if note else 0)
            assert played.waits[side, command] <= allowed, command
        for command in LOUD:
            assert 1 <= played.waits[side, command] <= CALLS, command


@EVERY_OUTAGE
def test_an_outage_does_not_change_the_latest_generation(client, outage):
    latest = play(client, outage).latest
    assert {before for before, _ in latest.values()} != {0} or outage == "refused"
    for before, after in latest.values():
        assert after == before


@EVERY_OUTAGE
def test_an_outage_leaves_no_bare_key_and_no_guessed_generation(client, outage):
    """This includes requests that a frozen server carries out later."""
    played = play(client, outage)
    for key in played.keys:
        if not key.startswith(b"bare-"):
            item = parse(key)
            assert item, f"{key!r} is in no namespace"
            latest, _ = played.latest[item.namespace]
            assert item.generation in (None, latest)


@EVERY_OUTAGE
def test_after_an_outage_the_same_items_are_stored_as_with_bare(client, outage):
    played = play(client, outage)
    for side in sides(outage)[1:]:
        for command in COMMANDS:
            found, bare = (played.found_later[who, command] for who in (side, "bare"))
            if command == "delete_many":
                # Ours has sent all keys at once, so more of them are deleted later.
                assert found.items() <= bare.items()
            else:
                assert found == bare, command


def test_the_table_is_complete_and_every_note_is_used():
    pylibmcs = {name for name, (library, _) in CLIENTS.items() if library == "pylibmc"}
    assert CELLS.keys() == {
        (client, version, outage, command)
        for client in CLIENTS
        for version in (VERSIONS if client in pylibmcs else [""])
        for outage in OUTAGES
        for command in COMMANDS
    }
    assert {cell.note for cell in CELLS.values()} == {"", *NOTES}


# After an outage.


def quick(client: str) -> dict[str, Any]:
    """Return options that make the client try a server again soon."""
    library, options = CLIENTS[client]
    if library == "pymemcache":
        return {"retry_timeout": 0.1, "dead_timeout": 0.1}
    behaviors = {**options["behaviors"], "retry_timeout": 1}
    if client == "remove-failed":
        behaviors["dead_timeout"] = 1
    return {"behaviors": behaviors}


@pytest.mark.parametrize("outage", ["killed", "frozen"])
def test_everything_works_again_with_the_same_clients(outage, start):
    """This holds in all modes. Items from before are there if the server kept them."""
    server = start("-t", "1")
    actors = {
        (client, side): Actor(client, side, "set", server, **quick(client))
        for client in CLIENTS
        for side in ("strict", "stale", "pinned")
    }
    for (_, side), actor in actors.items():
        actor.get_ready()
        if side == "pinned":
            actor.pin()
    before = {
        actor.counter.namespace: actor.counter.latest for actor in actors.values()
    }
    with down(server, outage), ThreadPoolExecutor(len(actors)) as pool:
        list(
            pool.map(lambda actor: [actor.act() for _ in range(CALLS)], actors.values())
        )
    expected = {"again": 2, **({"kept": 1} if outage == "frozen" else {})}

    def works(cache):
        cache.set("again", 2)
        return cache.get_many(["again", "kept"]) == expected

    def invalidates(latest, cache):
        return cache.invalidate_namespace() > latest

    all_recover([partial(actor.run, works) for actor in actors.values()])
    seen = {actor.counter.namespace: actor for actor in actors.values()}
    for item in map(parse, keys_on(server)):
        latest = before[item.namespace], seen[item.namespace].counter.latest
        assert item.generation in (None, *latest)
    all_recover(
        [
            partial(actor.run, partial(invalidates, before[namespace]))
            for namespace, actor in seen.items()
        ]
    )
    for actor in actors.values():
        assert actor.found_later() == {}
        actor.close()
