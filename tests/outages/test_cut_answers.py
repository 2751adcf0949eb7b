"""Answers that are cut off at each byte: ours then reports no success."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count, groupby
from typing import Any, NamedTuple

from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.outages import COMMANDS, ERRORS, LOUD, all_recover, read, word
from tests.support.proxies import Proxy
from tests.support.servers import Memcached

#: A request that reads a counter and nothing else.
COUNTER_READ = re.compile(rb"get nsc:[\w.-]+\r\n")


class CuttingProxy(Proxy):
    """Ends a connection once, after so many bytes of its answers.

    Only the answers to counter reads are counted and cut, or only the others.
    """

    cut_after: int | None = None
    cuts_counter_reads = False
    passed = 0

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked: list[bytes] = []
            arguments = (client, server, asked)
            answering = threading.Thread(target=self._answer, args=arguments)
            answering.start()
            with suppress(OSError):
                while chunk := client.recv(65536):
                    asked[:] = [chunk]
                    server.sendall(chunk)
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            answering.join()

    def _answer(
        self, client: socket.socket, server: socket.socket, asked: list[bytes]
    ) -> None:
        with suppress(OSError):
            while chunk := server.recv(65536):
                reads_counter = COUNTER_READ.fullmatch(asked[0]) is not None
                if reads_counter == self.cuts_counter_reads:
                    self.passed += len(chunk)
                if self.cut_after is not None and self.passed > self.cut_after:
                    kept, self.cut_after = self.cut_after - self.passed, None
                    client.sendall(chunk[:kept])
                    break
                client.sendall(chunk)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


#: What a command does if its answers end after 0 bytes, after 1 byte, and so on. Equal
#: words in a row are written once.
#:
#: Ours differs for this reason. c: one request gets the counter and the item. It is a
#: `get_multi`, which hides an error that a `get` does not hide.
CUT = """
                | pymemcache                 | pylibmc
cut
    get         | closed                     | Connection 1
      ours: c   | =                          | default 1
    get_many    | closed                     | default {'k':1} {'k':1,'l':1}
    raw_set     | closed                     | Connection
    add         | closed                     | Connection
    incr        | closed                     | Connection
    delete      | closed                     | Connection
"""
CUT_CELLS = read(CUT)

#: The items at first, and after each command. The server has carried out a command even
#: if its answer is cut off.
ITEMS = {"k": 1, "l": 1}
ITEMS_AFTER = {
    "get": ITEMS,
    "get_many": ITEMS,
    "raw_set": {"k": 7, "l": 1},
    "add": {"k": 1, "l": 1, "new": 7},
    "incr": {"k": 2, "l": 1},
    "delete": {"l": 1},
}

#: Clients that wait long enough, and soon try a server again.
PATIENT: dict[str, dict[str, Any]] = {
    "pymemcache": {},
    "pylibmc": {"behaviors": {"tcp_nodelay": True, "retry_timeout": 1}},
}


class Cut(NamedTuple):
    """The outcome of a command whose answer was cut off, and its client."""

    word: str
    found: dict[str, Any]  # by another client, afterwards
    cache: Any


def cut_at_every_byte(
    make: Callable[[str], Any], command: str, server: Memcached, proxy: CuttingProxy
):
    """Give a Cut for answers that end after 0 bytes, after 1 byte, and so on."""
    other = make(server.location)
    call, outage_default = (COMMANDS | LOUD)[command]
    for size in count():
        other.delete("new")
        other.set_many(ITEMS)
        cache = make(proxy.location)
        # libmemcached 1.0 raises other errors once a `get` has found something.
        assert cache.touch("k", 60)
        assert cache.get("k") == 1
        proxy.passed, proxy.cut_after = 0, size
        done = word(partial(call, cache), outage_default)
        if proxy.cut_after is not None:
            break
        yield Cut(done, other.get_many(["k", "l", "new"]), cache)
    proxy.cut_after = None
    other.set_many(ITEMS)
    other.close()
    cache.close()


def test_an_answer_that_is_cut_off_is_no_success(backend, client, start):
    """The cut may be at any byte. Afterwards every client reads correct values."""
    server = start()
    proxy = CuttingProxy(server.port)
    every_cut = []
    for command, after in ITEMS_AFTER.items():
        bare, ours = (
            list(
                cut_at_every_byte(
                    partial(make, backend, OPTIONS=PATIENT[client]),
                    command,
                    server,
                    proxy,
                )
            )
            for make in (bare_cache, our_cache)
        )
        cell = CUT_CELLS["cut", "", client, command]
        for cuts, words in ((bare, cell.bare), (ours, cell.ours)):
            assert [said for said, _ in groupby(cut.word for cut in cuts)] == words
            assert all(cut.found == after for cut in cuts), command
        if after != ITEMS:
            # pymemcache's counter read is pipelined: the rest of the answer is its.
            assert {cut.word for cut in ours[: len(bare)]} <= ERRORS.keys(), command
        every_cut += bare + ours

    def is_right(cache):
        value = cache.get("k")
        assert value in (None, 1)
        cache._cache.disconnect_all()  # because sockets are few
        return value == 1

    all_recover([partial(is_right, cut.cache) for cut in every_cut])
    for closing in [proxy, *(cut.cache for cut in every_cut)]:
        closing.close()


#: What a command returns if only the counter's answer is cut off.
SUCCESSES = {"raw_set": "True", "add": "True", "incr": "2", "delete": "True"}


def test_a_parallel_counter_read_that_is_cut_off_is_repeated(start):
    """The command itself has succeeded."""
    server = start()
    proxy = CuttingProxy(server.port)
    proxy.cuts_counter_reads = True
    make = partial(our_cache, BACKENDS["pylibmc"], OPTIONS=PATIENT["pylibmc"])
    for command, success in SUCCESSES.items():
        cuts = list(cut_at_every_byte(make, command, server, proxy))
        assert {cut.word for cut in cuts} == {success}
        assert all(cut.found == ITEMS_AFTER[command] for cut in cuts)
        assert len(cuts) > len(f"{10**18}\r\nEND\r\n")
        for cut in cuts:
            cut.cache.set("k", 9)
            assert cut.cache.get("k") == 9
            cut.cache.close()
    proxy.close()


def test_an_invalidation_whose_answer_is_cut_off_is_no_success(backend, client, start):
    server = start()
    proxy = CuttingProxy(server.port)
    make = partial(our_cache, backend, OPTIONS=PATIENT[client])
    cuts = list(cut_at_every_byte(make, "invalidate", server, proxy))
    assert len(cuts) == len(f"{10**18}\r\n")
    other = make(server.location)

    def invalidates(cache):
        number = cache.invalidate_namespace()
        assert number == other.generation
        assert other.get("k") is None
        return True

    for cut in cuts:
        assert cut.word == "unavailable"
        assert cut.found == {}
    all_recover([partial(invalidates, cut.cache) for cut in cuts])
    for closing in [proxy, other, *(cut.cache for cut in cuts)]:
        closing.close()
