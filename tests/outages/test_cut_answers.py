"""Answers that are cut off, at each byte: ours claims nothing that was not told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count, groupby
from typing import Any, NamedTuple

from tests.support.caches import bare_cache, our_cache
from tests.support.outages import COMMANDS, ERRORS, LOUD, all_recover, read, word
from tests.support.round_trips import CountingProxy
from tests.support.servers import Memcached


class CuttingProxy(CountingProxy):
    """Ends a connection once, after so many bytes of its answers."""

    cut_after: int | None = None
    passed = 0

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answering = threading.Thread(target=self._answer, args=(client, server))
            answering.start()
            with suppress(OSError):
                while chunk := client.recv(65536):
                    server.sendall(chunk)
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            answering.join()

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while chunk := server.recv(65536):
                self.passed += len(chunk)
                if self.cut_after is not None and self.passed > self.cut_after:
                    kept, self.cut_after = self.cut_after - self.passed, None
                    client.sendall(chunk[:kept])
                    break
                client.sendall(chunk)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


#: What a command does if its answers end after 0 bytes, after 1 byte, and so on; the same
#: word is not written twice.
#:
#: Where ours differs: c. One request asks for the counter and the item. It is a
#: `get_multi`, which hides what a `get` does not. d. A write looks at the counter in a
#: second request. Of that answer pylibmc does not need the last line.
CUT = """
                | pymemcache                 | pylibmc
cut
    get         | closed                     | Connection 1
      ours: c   | =                          | default 1
    get_many    | closed                     | default {'k':1} {'k':1,'l':1}
    raw_set     | closed                     | Connection
      ours: d   | =                          | Connection True
    add         | closed                     | Connection
      ours: d   | =                          | Connection True
    incr        | closed                     | Connection
      ours: d   | =                          | Connection 2
    delete      | closed                     | Connection
      ours: d   | =                          | Connection True
"""
CUT_CELLS = read(CUT)

#: The items at first, and after each command. Whose answer is cut off has been obeyed.
ITEMS = {"k": 1, "l": 1}
ITEMS_AFTER = {
    "get": ITEMS,
    "get_many": ITEMS,
    "raw_set": {"k": 7, "l": 1},
    "add": {"k": 1, "l": 1, "new": 7},
    "incr": {"k": 2, "l": 1},
    "delete": {"l": 1},
}

#: Clients that wait as long as it takes, and try a server again soon.
PATIENT: dict[str, dict[str, Any]] = {
    "pymemcache": {},
    "pylibmc": {"behaviors": {"tcp_nodelay": True, "retry_timeout": 1}},
}


class Cut(NamedTuple):
    """What a command did whose answers ended early, and its client."""

    word: str
    found: dict[str, Any]  # by somebody else, afterwards
    cache: Any


def cut_at_every_byte(
    make: Callable[[str], Any], command: str, server: Memcached, proxy: CuttingProxy
):
    """Give a Cut for answers that end after 0 bytes, after 1 byte, and so on."""
    somebody_else = make(server.location)
    call, outage_default = (COMMANDS | LOUD)[command]
    for size in count():
        somebody_else.delete("new")
        somebody_else.set_many(ITEMS)
        cache = make(proxy.location)
        # libmemcached 1.0 fails in another way once it has found something, with a get.
        assert cache.touch("k", 60)
        assert cache.get("k") == 1
        proxy.passed, proxy.cut_after = 0, size
        done = word(partial(call, cache), outage_default)
        if proxy.cut_after is not None:
            break
        yield Cut(done, somebody_else.get_many(["k", "l", "new"]), cache)
    proxy.cut_after = None
    somebody_else.set_many(ITEMS)
    somebody_else.close()
    cache.close()


def test_an_answer_that_is_cut_off_claims_nothing(backend, client, start):
    """At whichever byte; and nobody gets anything wrong afterwards."""
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
            # What is behind these bytes of the answer is about the counter.
            assert {cut.word for cut in ours[: len(bare)]} <= ERRORS.keys(), command
        every_cut += bare + ours

    def is_right(cache):
        value = cache.get("k")
        assert value in (None, 1)
        cache._cache.disconnect_all()  # for there are many, and few sockets
        return value == 1

    all_recover([partial(is_right, cut.cache) for cut in every_cut])
    for closing in [proxy, *(cut.cache for cut in every_cut)]:
        closing.close()


def test_an_invalidation_whose_answer_is_cut_off_is_not_claimed(backend, client, start):
    server = start()
    proxy = CuttingProxy(server.port)
    make = partial(our_cache, backend, OPTIONS=PATIENT[client])
    cuts = list(cut_at_every_byte(make, "invalidate", server, proxy))
    assert len(cuts) == len(f"{10**18}\r\n")
    somebody_else = make(server.location)

    def invalidates(cache):
        number = cache.invalidate_namespace()
        assert number == somebody_else.generation
        assert somebody_else.get("k") is None
        return True

    for cut in cuts:
        assert cut.word == "unavailable"
        assert cut.found == {}
    all_recover([partial(invalidates, cut.cache) for cut in cuts])
    for closing in [proxy, somebody_else, *(cut.cache for cut in cuts)]:
        closing.close()
