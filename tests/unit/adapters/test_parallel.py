"""Parallel counter reads: no failure reaches the caller, and no reply is mistaken."""

from __future__ import annotations

import gc
import logging
import os
import re
import secrets
import socket
import time
import zlib
from contextlib import closing, suppress
from functools import partial

import pylibmc
import pymemcache
import pytest
from django.core.cache.backends.memcached import PyLibMCCache
from pymemcache import HashClient

from namespaced_cache.adapters import pylibmc as pylibmc_adapter
from namespaced_cache.adapters import pymemcache as pymemcache_adapter
from namespaced_cache.adapters.adapter import CounterServer, NoConnectionError
from namespaced_cache.adapters.counter_read import ABSENT, UNREAD, CounterRead
from namespaced_cache.adapters.parallel import _PAUSE, ParallelReader
from tests.support import ROOT
from tests.support.caches import BACKENDS, our_cache
from tests.support.servers import Memcached, answer_of, ask, stat

NUMBER = 1_700_000_000_123_456_789
REPLY = b"VALUE nsc:a 2 19\r\n%d\r\nEND\r\n" % NUMBER
REQUEST = b"get nsc:a\r\n"


def decode(value, flags):
    assert flags == 2
    return int(value)


class Server:
    """The other ends of a reader's connections."""

    def __init__(self):
        self.ends: list[socket.socket] = []
        self.refuses = False

    def connect(self):
        if self.refuses:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        ours.settimeout(0.05)
        theirs.settimeout(0.05)
        self.ends.append(theirs)
        return ours

    def replies(self, *parts: bytes):
        for part in parts:
            self.ends[-1].sendall(part)

    def has_closed(self, number=-1) -> bool:
        """Tell whether the reader has closed a connection."""
        try:
            while chunk := self.ends[number].recv(4096):
                assert set(chunk.split(b"\r\n")) <= {b"get nsc:a", b"incr nsc:a 1", b""}
        except TimeoutError:
            return False
        except ConnectionResetError:  # it has not received all replies
            return True
        return True


@pytest.fixture
def other():
    server = Server()
    yield server
    for end in server.ends:
        end.close()


@pytest.fixture
def reader(other):
    reading = ParallelReader(b"nsc:a", other.connect, decode)
    yield reading
    reading.close()


def read(reader, act=lambda: None, *, is_answered=True):
    """Read the counter, and call `act` after the request was sent."""
    reading = CounterRead(NUMBER, 0.0, reached=True)
    reader.begin(reading)
    act()
    if is_answered:
        reader.end(reading)
    else:
        reader.abandon(reading)
    assert reading.connection is None
    return reading.value


def test_it_reads_the_counter_on_one_connection(reader, other):
    for _ in range(3):
        assert read(reader, partial(other.replies, REPLY)) == NUMBER
    (end,) = other.ends
    assert end.recv(4096) == REQUEST * 3


def test_a_missing_counter_is_absent(reader, other):
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    assert read(reader, partial(other.replies, b"END\r\n")) is ABSENT


@pytest.mark.parametrize("cut", range(1, len(REPLY)))
def test_a_reply_may_come_in_parts(cut, reader, other):
    def reply():
        reader_end = reading.connection
        real = reader_end.recv
        parts = iter([REPLY[:cut], REPLY[cut:]])

        class Dripping:
            def recv(self, size):
                other.replies(next(parts))
                return real(size)

            def __getattr__(self, name):
                return getattr(reader_end, name)

        reading.connection = Dripping()

    reading = CounterRead(NUMBER, 0.0, reached=True)
    reader.begin(reading)
    reply()
    reader.end(reading)
    assert reading.value == NUMBER


WRONG = {
    "nothing": b"",
    "error": b"ERROR\r\n",
    "server error": b"SERVER_ERROR out of memory\r\n",
    "no login": b"CLIENT_ERROR unauthenticated\r\n",
    "another key": REPLY.replace(b"nsc:a", b"nsc:b"),
    "a longer key": REPLY.replace(b"nsc:a", b"nsc:ab"),
    "a wrong size": REPLY.replace(b" 19\r", b" 18\r"),
    "no size": REPLY.replace(b" 19\r", b" x\r"),
    "a token": REPLY.replace(b" 19\r", b" 19 7\r"),
    "no end": REPLY.replace(b"END", b"ENX"),
    "two replies": REPLY + REPLY,
    "a reply and a half": REPLY + REPLY[:9],
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "what no serializer reads": REPLY.replace(b" 2 19", b" 5 19"),
    **{f"{size} bytes": REPLY[:size] for size in range(1, len(REPLY))},
}


@pytest.mark.parametrize("ends", ["stays", "ends"])
@pytest.mark.parametrize("reply", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_any_other_reply_leaves_the_counter_unread(used, reply, ends, reader, other):
    """Its connection is closed, because more of the reply may come."""
    if used:
        assert read(reader, partial(other.replies, REPLY)) == NUMBER

    def answer():
        other.replies(reply)
        if ends == "ends":
            other.ends[-1].shutdown(socket.SHUT_WR)

    assert read(reader, answer) is UNREAD
    assert other.has_closed()


def test_a_read_whose_command_had_no_reply_closes_its_connection(reader, other):
    """Otherwise its reply would answer the next read."""
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    assert read(reader, partial(other.replies, REPLY), is_answered=False) is UNREAD
    assert other.has_closed()
    newer = REPLY.replace(b"789", b"790")
    assert read(reader, partial(other.replies, newer)) == NUMBER + 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, LookupError])
@pytest.mark.parametrize("method", ["sendall", "recv"])
def test_a_read_that_is_broken_off_closes_its_connection(
    method, error, reader, other, monkeypatch
):
    class BrokenOff:
        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            if name == method:
                raise error
            return getattr(self._real, name)

    real = other.connect
    monkeypatch.setattr(reader, "_connect", lambda: BrokenOff(real()))
    with pytest.raises(error):
        read(reader, partial(other.replies, REPLY))
    assert other.has_closed()


def test_a_proxy_may_close_idle_connections(reader, other):
    """The next operation connects again, whatever others are idle."""
    reads = [CounterRead(NUMBER, 0.0, reached=True) for _ in range(3)]
    for each in reads:
        reader.begin(each)
        other.replies(REPLY)
    for each in reads:
        reader.end(each)
    for end in other.ends:
        end.close()
    assert read(reader) is UNREAD
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    assert len(other.ends) == 4


@pytest.mark.parametrize("reply", [REPLY, b"END\r\n"])
def test_what_the_client_has_not_read_is_not_believed(reply, reader, other):
    """The reader may have another server, or another key, than the client."""
    for _ in range(2):
        reading = CounterRead(NUMBER + 1, 0.0, reached=True)
        reader.begin(reading)
        other.replies(reply)
        reader.end(reading)
        assert reading.value is UNREAD
    assert not reader.is_verified
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    assert reader.is_verified
    assert read(reader, partial(other.replies, b"END\r\n")) is ABSENT


class TimeLimitError(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize("ask", [ParallelReader.get, ParallelReader.increment])
def test_an_exception_of_a_signal_handler_is_raised(ask, reader, other, monkeypatch):
    def limit(*_):
        raise TimeLimitError

    monkeypatch.setattr(reader, "_whole", limit)
    monkeypatch.setattr(reader, "_connect", lambda: replied(other))
    with pytest.raises(TimeLimitError):
        ask(reader)
    assert other.has_closed()


def replied(other):
    """Connect, and send a reply at once."""
    end = other.connect()
    other.replies(REPLY)
    return end


FAILURES = {
    "refused": lambda other: setattr(other, "refuses", True),
    "ends": lambda other: other.ends[-1].close(),
    "is silent": lambda _: None,
    "refuses": lambda other: other.replies(b"ERROR Too many open connections\r\n"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_server_that_fails_is_left_alone_for_some_operations(
    failure, reader, other, caplog
):
    """One message gives the reason."""
    caplog.set_level(logging.DEBUG, "namespaced_cache")
    other.refuses = failure is FAILURES["refused"]
    for pause in (_PAUSE, 2 * _PAUSE, 4 * _PAUSE):
        act = (lambda: None) if other.refuses else partial(failure, other)
        assert read(reader, act) is UNREAD
        connections = len(other.ends)
        for _ in range(pause):
            assert read(reader) is UNREAD
        assert len(other.ends) == connections
    other.refuses = False
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    reader.close()
    other.refuses = True
    for _ in range(_PAUSE + 1):
        assert read(reader) is UNREAD
    other.refuses = False
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    (record,) = caplog.records
    assert "The counter is read after the commands for now: " in record.message


def test_a_connection_serves_one_operation_at_a_time(reader, other):
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    first, second = (CounterRead(NUMBER, 0.0, reached=True) for _ in range(2))
    reader.begin(first)
    reader.begin(second)
    assert len(other.ends) == 2
    newer = REPLY.replace(b"789", b"790")
    other.ends[0].sendall(newer)
    other.ends[1].sendall(REPLY)
    reader.end(second)
    reader.end(first)
    assert (first.value, second.value) == (NUMBER + 1, NUMBER)


def test_a_forked_child_has_connections_of_its_own(reader, other):
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(BaseException):
            value = read(reader, partial(other.replies, REPLY))
            status = 0 if value == NUMBER and len(other.ends) == 2 else 2
        os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    assert other.ends[0].recv(4096) == REQUEST * 2


def test_its_connections_are_closed_with_it(other):
    reader = ParallelReader(b"nsc:a", other.connect, decode)
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    reader.close()
    assert other.has_closed()
    assert read(reader, partial(other.replies, REPLY)) == NUMBER
    del reader
    gc.collect()
    assert other.has_closed()


# With real clients.


def reader_of(cache):
    return cache._cache._binder.binding().counter_reader


@pytest.fixture
def some(request, start):
    """As many servers as the test asks for."""
    return [start() for _ in range(request.param)]


def connections(servers) -> int:
    return sum(stat(server, "curr_connections") for server in servers)


def become(servers, number) -> None:
    """Wait until the servers have so many connections."""
    deadline = time.monotonic() + 10
    while connections(servers) != number:
        assert time.monotonic() < deadline, (connections(servers), number)
        time.sleep(0.01)


#: How many connections a client has besides those of the bare client.
MORE = {
    ("pymemcache", 1): 0,
    ("pylibmc", 1): 1,
    ("pymemcache", 3): 1,
    ("pylibmc", 3): 1,
}


@pytest.mark.parametrize("some", [1, 3], indirect=True, ids=["one server", "three"])
def test_a_client_has_few_connections_and_closes_them(client, backend, some):
    """The client that creates the counter, and another."""
    locations = [server.location for server in some]
    at_first = connections(some)
    options = {"NAMESPACE": f"few-{client}"}
    for _ in range(2):
        cache = our_cache(backend, locations, OPTIONS=options)
        for turn in range(5):
            cache.set_many({str(number): turn for number in range(60)})
            assert cache.get("1") == turn
        become(some, at_first + len(some) + MORE[client, len(some)])
        cache._cache.disconnect_all()
        cache.close()
        del cache
        gc.collect()
        become(some, at_first)


#: libmemcached takes no IPv6 address.
WAYS = [
    *((client, transport) for client in BACKENDS for transport in ("TCP", "unix")),
    ("pymemcache", "IPv6"),
]


@pytest.mark.parametrize(("client", "transport"), WAYS)
def test_it_reaches_a_server_as_the_client_does(backend, transport):
    """Two names of one server are two servers for a client."""
    arguments = ["-l", "::1"] if transport == "IPv6" else []
    with closing(Memcached(*arguments, unix=transport == "unix")) as server:
        names = {
            "TCP": [server.location, server.location.replace("127.0.0.1", "localhost")],
            "IPv6": [f"[::1]:{server.port}", f"[0::1]:{server.port}"],
            "unix": [server.location, server.location.replace("/socket", "/./socket")],
        }
        cache = our_cache(backend, names[transport])
        cache.set("k", 1)
        cache.set("k", 2)
        (connection,) = reader_of(cache)._idle
        assert connection.getpeername()
        cache.close()


class Tunnelled(pymemcache.Client):
    """A client that connects in a way of its own."""

    def _connect(self):
        super()._connect()


@pytest.mark.parametrize("pool", [False, True])
def test_a_client_that_connects_in_its_own_way_reads_the_counter_itself(pool, start):
    class Tunnels(HashClient):
        client_class = Tunnelled

    servers = [start().location for _ in range(2)]
    real = Tunnels(servers, use_pooling=pool)
    with pytest.raises(NoConnectionError, match="connects in a way of its own"):
        pymemcache_adapter.ADAPTER.counter_reader(
            real, Tunnels(servers[:1], use_pooling=pool), CounterServer("nsc:a", "", {})
        )


class Prefixing(pylibmc.Client):
    """A client that has a namespace of its own, whatever the options say."""

    def __init__(self, servers, behaviors=None, **kwargs):
        behaviors = {**(behaviors or {}), "namespace": b"own:", "cas": True}
        super().__init__(servers, behaviors=behaviors, **kwargs)


class PrefixingCache(PyLibMCCache):
    """A backend with such a client."""

    _class = Prefixing

    def __init__(self, server, params):
        super().__init__(server, params)
        self._class = Prefixing


@pytest.mark.parametrize("some", [1, 3], indirect=True, ids=["one server", "three"])
def test_a_client_with_another_key_reads_the_counter_itself(some):
    """Even if the same server has a counter under the plain key."""
    for server in some:
        item = b"set nsc:both 2 0 19\r\n%d" % NUMBER
        assert ask(server, item) == b"STORED\r\n"
    locations = [server.location for server in some]
    options = {"NAMESPACE": "both"}
    cache = our_cache(f"{__name__}.PrefixingCache", locations, OPTIONS=options)
    for turn in range(3):
        cache.set("k", turn)
        assert cache.get("k") == turn
        assert cache._cache.gets(cache.make_key("k"))[0] == turn
        cache.invalidate_namespace()
        assert cache.get("k") is None
    assert not reader_of(cache).is_verified
    assert answer_of(some[0], "get nsc:both").split()[4] == str(NUMBER)
    cache.close()


def test_the_page_says_how_many_connections_a_client_has():
    costs = (ROOT / "docs" / "costs.md").read_text()
    rows = re.findall(r"\| (pymemcache|pylibmc), (\d) servers? \| (\d) \|", costs)
    assert {(client, int(some)): int(more) for client, some, more in rows} == MORE


@pytest.mark.parametrize("lost", ["deleted", "lowered"])
def test_a_counter_client_that_was_idle_for_long_connects_again(client, lost, start):
    servers = [start("-o", "idle_timeout=1") for _ in range(3)]
    locations = sorted(server.location for server in servers)
    options = {"NAMESPACE": f"idle-{client}"}
    cache = our_cache(BACKENDS[client], locations, OPTIONS=options)
    (counter_server,) = [each for each in servers if each.location == locations[0]]
    cache.set("k", 1)
    # libmemcached keeps names that differ in their ends alone on few servers.
    keys = [secrets.token_hex(4) for _ in range(50)]
    until = time.monotonic() + 4
    while time.monotonic() < until:
        cache.set_many(dict.fromkeys(keys, 1))  # keeps all other connections in use
        time.sleep(0.1)
    key = cache._cache.counter.key.encode()
    if lost == "deleted":
        assert ask(counter_server, b"delete " + key) == b"DELETED\r\n"
    else:
        assert ask(counter_server, b"decr " + key + b" 1000000").strip().isdigit()
    cache.set("k", 2)
    assert cache.get("k") == 2
    cache.close()


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("pylibmc", {"behaviors": {"namespace": b"x"}}, "its own namespace"),
        ("pylibmc", {"binary": True, "username": "a", "password": "b"}, "SASL"),
        ("pymemcache", {"key_prefix": b"a b"}, "Key contains whitespace"),
    ],
)
def test_a_debug_message_says_why_the_counter_is_read_after_commands(
    path, options, reason, caplog
):
    caplog.set_level(logging.DEBUG, "namespaced_cache")
    cache = our_cache(BACKENDS[path], "127.0.0.1:1", OPTIONS=options)
    assert reader_of(cache) is None
    (record,) = [each for each in caplog.records if each.levelname == "DEBUG"]
    assert reason in record.message
    assert "the counter is read after each command" in record.message


def test_a_client_of_several_servers_cannot_be_read_beside():
    """A backend may make one although LOCATION names one server."""
    real = HashClient(["127.0.0.1:1", "127.0.0.1:2"])
    server = CounterServer("nsc:a", "127.0.0.1:1", {})
    with pytest.raises(NoConnectionError, match="the client has several servers"):
        pymemcache_adapter.ADAPTER.counter_reader(real, real, server)


@pytest.mark.parametrize("keepalive", [0, 1])
def test_pylibmcs_reader_connects_to_any_address_of_a_host(
    keepalive, server, monkeypatch
):
    """With the client's own options."""
    found = socket.getaddrinfo("127.0.0.1", server.port, type=socket.SOCK_STREAM)
    refusing = socket.getaddrinfo("127.0.0.1", 1, type=socket.SOCK_STREAM)
    library = pylibmc_adapter._socket
    monkeypatch.setattr(library, "getaddrinfo", lambda *_: [*refusing, *found])
    behaviors = {"tcp_keepalive": keepalive, "_poll_timeout": 700}
    connection = pylibmc_adapter._connected(("localhost", server.port), behaviors)
    try:
        option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert bool(option) == bool(keepalive)
        assert connection.gettimeout() == 0.7
        assert connection.getpeername() == ("127.0.0.1", server.port)
    finally:
        connection.close()


def test_a_location_that_only_the_client_understands_is_read_after_commands():
    with pytest.raises(NoConnectionError, match=r"LOCATION has 'udp:127\.0\.0\.1:1'"):
        pylibmc_adapter.ADAPTER.counter_reader(
            None, None, CounterServer("nsc:a", "udp:127.0.0.1:1", {})
        )


def test_a_counter_that_pylibmc_compressed_is_read_after_the_command(start):
    """Only its `get` decompresses a value."""
    server = start()
    cache = our_cache(BACKENDS["pylibmc"], server.location)
    cache.set("k", 1)
    number = cache.generation
    packed = zlib.compress(str(number + 1).encode())
    line = f"set {cache._cache.counter.key} {1 << 1 | 1 << 3} 0 {len(packed)}\r\n"
    assert ask(server, line.encode() + packed) == b"STORED\r\n"
    cache.set("k", 2)
    assert cache.generation == number + 1
    assert cache.get("k") == 2
    cache.close()
