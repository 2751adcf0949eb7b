"""Pipelined counter reads: replies and commands match, whatever the server sends."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import nullcontext, suppress

import pymemcache
import pytest
from pymemcache.client.hash import HashClient

from namespaced_cache import NamespacedCache, NamespaceError
from namespaced_cache.adapters import pipelined
from namespaced_cache.adapters.counter_read import ABSENT, UNREAD
from tests.support.caches import BACKENDS, our_cache
from tests.support.servers import stat

PATH = BACKENDS["pymemcache"]
RECORD = pipelined._RECORD


@pytest.fixture
def client():
    return "pymemcache"


@pytest.fixture
def cache(build):
    """A cache that has read its counter."""
    cache = build()
    cache.set("k", "v")
    return cache


class Script:
    """A server that answers each packet with the next answer, or byte by byte.

    If the client closes the connection, the server continues with the next connection.
    """

    def __init__(
        self, *answers: bytes, bytewise: bool = False, hangs_up: bool = False
    ) -> None:
        self.asked: list[bytes] = []
        self._answers, self._bytewise, self._hangs_up = answers, bytewise, hangs_up
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.location = "127.0.0.1:{1}".format(*self._listener.getsockname())
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection = self._accept()
        with self._listener:
            for answer in self._answers:
                while not (asked := connection.recv(65536)):
                    connection.close()
                    connection = self._accept()
                self.asked.append(asked)
                pieces = [answer]
                if self._bytewise:
                    pieces = [answer[i : i + 1] for i in range(len(answer))]
                for piece in pieces:
                    connection.sendall(piece)
            if not self._hangs_up:
                connection.recv(65536)
            connection.close()

    def _accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def close(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive(), "the client did not request all answers"


NUMBER = 10**18
COUNTER = f"VALUE nsc:script 0 19\r\n{NUMBER}\r\n".encode()
END = b"END\r\n"


def scripted(*answers: bytes, **how) -> tuple[NamespacedCache, Script]:
    """Return a cache with a latest generation, and the server of these answers."""
    script = Script(*answers, **how)
    options = {"NAMESPACE": "script", "timeout": 10}  # ends a test that would hang
    cache = our_cache(PATH, script.location, OPTIONS=options)
    cache._cache.counter.latest = NUMBER
    return cache, script


def test_the_counter_read_is_in_the_packet_of_the_command():
    cache, script = scripted(b"STORED\r\n" + COUNTER + END, COUNTER + END)
    cache.set("k", b"v", None)
    assert cache.get("k") is None
    cache.close()
    script.close()
    write, read = script.asked
    assert write.startswith(b"set nsc:script:")
    assert write.endswith(b"\r\nv\r\nget nsc:script\r\n")
    assert read.startswith(b"get nsc:script nsc:script:")


def replies(answer):
    """Fill in the wire key of "k"."""
    cache = our_cache(PATH, "127.0.0.1:1", OPTIONS={"NAMESPACE": "script"})
    wire_key = cache._cache._binder.binding().keys(NUMBER).wire_key(cache.make_key("k"))
    return answer.replace(b"{}", wire_key.encode())


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"END\r\n", None),
        (b"VALUE {} 16 5\r\nvalue\r\nEND\r\n", "value"),
        (b"VALUE {} 16 11\r\nEND\r\nSTORED\r\nEND\r\n", "END\r\nSTORED"),
    ],
)
def test_replies_may_come_byte_by_byte(answer, found):
    answer = replies(answer)
    cache, script = scripted(COUNTER + answer, COUNTER + answer, bytewise=True)
    assert [cache.get("k"), cache.get("k")] == [found, found]
    cache.close()
    script.close()


@pytest.mark.parametrize("bytewise", [True, False])
def test_items_may_come_in_another_order(bytewise):
    """A proxy that combines the replies of several servers may do this."""
    item = replies(b"VALUE {} 16 5\r\nvalue\r\n")
    cache, script = scripted(item + COUNTER + END, item + END, bytewise=bytewise)
    assert cache.get("k") == "value"
    assert cache.get("k") is None  # this reply has no counter
    cache.close()
    script.close()


def test_a_large_value_that_looks_like_replies_is_one_value(cache):
    value = "END\r\nSTORED\r\nVALUE nsc:x 0 1\r\n" * 20_000
    cache.set("large", value)
    assert cache.get("large") == value
    assert cache.get("k") == "v"


def test_an_error_in_the_middle_leaves_nothing_behind(cache):
    with pytest.raises(pymemcache.MemcacheServerError, match="too large"):
        cache.set("k", "v" * 2_000_000)
    assert cache.get("k") is None or cache.get("k") == "v"
    with pytest.raises(pymemcache.MemcacheClientError):
        cache._cache.incr(cache.make_key("text"), 1) or cache._cache.touch("k", 10**40)
    cache.set("k", "new")
    assert cache.get("k") == "new"


@pytest.mark.parametrize(
    "reply",
    [
        b"VALUE nsc:other 0 19\r\n1000000000000000000\r\nEND\r\n",
        b"VALUE nsc:script:1 0 1\r\nv\r\nEND\r\n",
        b"ERROR\r\n",
        b"SERVER_ERROR out of memory\r\n",
        b"VALUE nsc:script 0 19\r\n1000000000000000000XX" + END,
        b"VALUE nsc:script 0 19\r\n1000000000000000000\r\nSTORED\r\n",
        b"VALUE nsc:script 0 nineteen\r\n",
        b"VALUE nsc:script 0 99\r\n1000000000000000000\r\nEND\r\n",
    ],
)
@pytest.mark.parametrize("command", ["get", "set"])
def test_a_wrong_reply_to_the_counter_read_ends_the_connection(reply, command):
    """An old reply to another command may have been left on the connection."""
    cache, script = scripted({"get": b"", "set": b"STORED\r\n"}[command] + reply)
    member = next(iter(cache._cache.clients.values()))
    member.timeout = 0.2  # for replies that may still come
    with suppress(pymemcache.MemcacheError, OSError, NamespaceError):
        found = cache.get("k") if command == "get" else cache.add("k", b"v", None)
        assert found is None
    assert member.sock is None
    script.close()


@pytest.mark.parametrize(
    "left", [END, COUNTER + END, b"VALUE nsc:script:1 0 1\r\nv\r\n" + END]
)
@pytest.mark.parametrize("apart", [False, True])
def test_a_reply_to_an_earlier_command_ends_the_connection(left, apart):
    """It may look like a reply to the counter read.

    A write's own reply comes before it.
    """
    rest = b"STORED\r\n" + COUNTER + END
    # If all replies come together, the counter is read. Otherwise it is read
    # separately.
    answers = [left, COUNTER + END] if apart else [left + rest]
    cache, script = scripted(COUNTER + END, *answers)
    assert cache.get("k") is None
    said = "An earlier reply|^b'(END|VALUE)"  # ours, or the client's own
    with pytest.raises(pymemcache.MemcacheUnknownError, match=said):
        cache.set("k", b"v", None)
    cache.close()
    script.close()
    assert script.asked[2:] == [b"get nsc:script\r\n"] * apart


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("error", [b"SERVER_ERROR out of memory\r\n", b"ERROR\r\n"])
def test_a_counter_read_that_fails_alone_is_repeated_separately(error, bytewise):
    """The server or a proxy could carry out the command but not the read."""
    cache, script = scripted(b"STORED\r\n" + error, COUNTER + END, bytewise=bytewise)
    cache.set("k", b"v", None)
    cache.close()
    script.close()
    assert script.asked[1] == b"get nsc:script\r\n"


def test_a_command_that_cannot_be_sent_is_an_outage(cache):
    (member,) = cache._cache.clients.values()
    member.sock._sock.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        cache.set("k", "w")
    assert member.sock is None


def test_of_two_errors_the_commands_is_raised():
    cache, script = scripted(b"SERVER_ERROR down\r\n" * 2, COUNTER + END)
    with pytest.raises(pymemcache.MemcacheServerError, match="down"):
        cache.set("k", b"v", None)
    cache.close()
    script.close()


@pytest.mark.parametrize("call", ["sendall", "recv"])
def test_an_interrupted_command_of_the_bare_client_leaves_no_reply(
    cache, monkeypatch, call
):
    """The next command, in the namespace, would receive its reply."""
    real = cache._cache.wrapped
    (member,) = real.clients.values()

    class Limited:
        def __init__(self, sock):
            self._sock = sock

        def __getattr__(self, name):
            return getattr(self._sock, name)

        def sendall(self, data):
            self._sock.sendall(data)
            if call == "sendall":
                raise TimeLimit

        def recv(self, _):
            raise TimeLimit

    sock = member.sock
    monkeypatch.setattr(sock, "_sock", Limited(sock._sock))
    with pytest.raises(TimeLimit):
        real.get("missing")
    assert cache.get("k") == "v"
    assert member.sock is not sock


class InTwoParts(pymemcache.Client):
    """A client that sends a command and its value separately."""

    def _connect(self):
        super()._connect()
        send, sock = self.sock.sendall, self.sock

        def sendall(data):
            line, end, value = data.partition(b"\r\n")
            send(line + end)
            if value:
                send(value)

        sock.sendall = sendall


def test_no_counter_read_is_sent_after_half_a_command(server, monkeypatch):
    """memcached would store it as the value."""
    monkeypatch.setattr(HashClient, "client_class", InTwoParts)
    value = b"v" * len("get nsc:half")
    cache = our_cache(PATH, server.location, OPTIONS={"NAMESPACE": "half"})
    for _ in range(2):
        cache._cache.set("k", value)
        assert cache._cache.get("k") == value
    cache.close()


@pytest.mark.parametrize("length", range(len(b"STORED\r\n" + COUNTER + END)))
def test_a_connection_that_ends_early_is_no_answer(length):
    cache, script = scripted((b"STORED\r\n" + COUNTER + END)[:length], hangs_up=True)
    with pytest.raises((pymemcache.MemcacheError, OSError)):
        cache.set("k", b"v", None)
    script.close()


class TimeLimit(BaseException):
    """A test's time limit or Ctrl-C raises such an error anywhere."""


INTERRUPTED = {
    "get": lambda cache: cache.get("one"),
    "incr": lambda cache: cache.incr("one"),
    "invalidate_namespace": lambda cache: cache.invalidate_namespace(),
    "generation": lambda cache: cache.generation,
}


@pytest.mark.parametrize("act", INTERRUPTED.values(), ids=INTERRUPTED)
@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("options", [{}, {"use_pooling": True}])
def test_an_interrupted_operation_leaves_no_reply_to_the_next(
    build, monkeypatch, options, pinned, act
):
    """The interruption comes between sending and receiving."""
    cache = build(OPTIONS=options)
    cache.set_many({"one": 10, "two": 2})
    receive = pipelined.Socket.recv

    def limited(*_):
        monkeypatch.setattr(pipelined.Socket, "recv", receive)
        raise TimeLimit

    with cache.pinned_generation() if pinned else nullcontext():
        number = cache.generation
        monkeypatch.setattr(pipelined.Socket, "recv", limited)
        with pytest.raises(TimeLimit):
            act(cache)
        assert cache.get("two") in (2, None)
        assert cache.get_many(["one"]) in ({"one": 10}, {"one": 11}, {})
    assert cache.generation in (number, number + 1)


def test_a_command_without_a_reply_has_its_counter_read_received(build):
    cache = build(OPTIONS={"default_noreply": True})
    assert cache.generation
    for number in range(3):
        cache.set("k", number, None)
        assert cache.get("k") == number


def test_a_read_whose_command_was_never_sent_is_dropped(cache):
    with pytest.raises(TypeError):
        cache._cache.set(5, 1)
    assert pipelined._waiting.read is None
    assert cache.get("k") == "v"


def begin_read(cache):
    binding = cache._cache._binder.binding()
    binding.counter_reader.begin(binding.counter.begin_read())


def test_other_ways_to_receive_are_refused_during_a_counter_read(cache):
    (member,) = cache._cache.clients.values()
    begin_read(cache)
    member.sock.sendall(b"version\r\n")
    assert pipelined._waiting.read is None
    for name in ("recv_into", "recvmsg", "makefile"):
        with pytest.raises(
            AttributeError, match="would read the reply to a counter read"
        ):
            getattr(member.sock, name)
    assert member.sock.recv(4096).startswith(b"VERSION")


def test_a_socket_otherwise_behaves_as_before(cache):
    (member,) = cache._cache.clients.values()
    assert member.sock.getpeername()[0] == "127.0.0.1"
    assert isinstance(member, pymemcache.Client)
    assert type(member).__name__ == "Client"


class Traced:
    """A tracer's proxy for a client. Its class is that of the client."""

    __class__ = property(lambda self: type(vars(self)["client"]))

    def __init__(self, *args, **kwargs):
        vars(self)["client"] = pymemcache.Client(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(vars(self)["client"], name)


def test_a_client_behind_a_proxy_does_not_pipeline(server):
    """The client is out of reach, and so are those that are made later."""
    alone = Traced(server.location)
    assert isinstance(alone, pymemcache.Client)
    assert pipelined.counter_reader(alone, "nsc:x") is None
    real = HashClient([])
    real.client_class = Traced
    real.add_server(server.location)
    assert pipelined.counter_reader(real, "nsc:x") is None
    (member,) = real.clients.values()
    assert type(member) is real.client_class is Traced
    assert member.set("k", b"v", noreply=False)
    assert real.get("k") == b"v"
    real.close()


def test_an_unanswered_counter_read_ends_the_connection(cache):
    """Otherwise the next command would receive its reply."""
    (member,) = cache._cache.clients.values()
    begin_read(cache)
    member.sock.sendall(b"version\r\n")
    with pytest.raises(ConnectionAbortedError):
        cache.get("k")
    assert member.sock is None
    time.sleep(1.1)  # pymemcache's retry window
    assert cache.get("k") == "v"


def test_existing_connections_of_a_pool_pipeline_too(server):
    """A backend that is wrapped later already has connections."""
    real = HashClient([server.location], use_pooling=True, default_noreply=False)
    real.set("k", b"v")
    ((pooled,),) = (member.client_pool.free for member in real.clients.values())
    assert type(pooled) is pymemcache.Client
    pipelined.counter_reader(real, "nsc:x")
    assert isinstance(pooled.sock, pipelined.Socket)
    assert real.get("k") == b"v"
    real.close()


def test_a_counter_on_several_servers_is_not_pipelined(start):
    real = HashClient([start().location, start().location])
    assert pipelined.counter_reader(real, "nsc:x") is None


def test_the_constants_differ():
    assert ABSENT is not UNREAD


def test_many_large_values_are_read_though_the_counter_is_lost(cache, bare):
    """The adapter searches all the values for the reply to the counter read."""
    many = {f"k{n}": "v" * 500_000 for n in range(10)}
    cache.set_many(many)
    bare._cache.delete(cache._cache.counter.key)
    assert cache.get_many(many) == {}
    cache.set("seeds", 1)
    assert cache.get_many(many) == {}


@pytest.mark.parametrize("bytewise", [True, False])
@pytest.mark.parametrize("command", ["set", "delete", "touch"])
def test_the_counter_read_of_a_command_without_a_reply_may_come_byte_by_byte(
    bytewise, command
):
    cache, script = scripted(COUNTER + END, COUNTER + END, bytewise=bytewise)
    arguments = {"set": ["k", b"v"], "delete": ["k"], "touch": ["k", 60]}[command]
    for _ in range(2):
        getattr(cache._cache, command)(*arguments, noreply=True)
    cache.close()
    script.close()
    assert all(asked.endswith(b"get nsc:script\r\n") for asked in script.asked)


@pytest.mark.parametrize(
    ("reply", "value"),
    [(COUNTER + END, NUMBER), (END, ABSENT)],
    ids=["found", "absent"],
)
def test_a_part_of_the_reply_behind_silent_commands_is_no_reply(reply, value):
    cache = our_cache(PATH, "127.0.0.1:1", OPTIONS={"NAMESPACE": "script"})
    binding = cache._cache._binder.binding()
    (member,) = binding.client.clients.values()
    for size in range(len(reply)):
        part = bytearray(reply[:size])
        assert binding.counter_reader.read_alone(part, member.serde) is None
    found, rest = binding.counter_reader.read_alone(bytearray(reply), member.serde)
    assert rest == b""
    assert found is value or int(found) == value  # bytes, because of the flags


@pytest.mark.parametrize("pooled", [True, False])
def test_a_command_without_a_reply_notices_that_the_counter_is_lost(
    build, bare, pooled
):
    cache = build(OPTIONS={"use_pooling": pooled})
    raw = cache._cache
    raw.set("old", 1)
    bare._cache.delete(raw.counter.key)
    raw.set("k", 2, noreply=True)
    assert raw.get_many(["old", "k"]) == {"k": 2}


def storing(name, size):
    return b"%s k 0 0 %d\r\n%s\r\n" % (name, size, b"v" * size)


@pytest.mark.parametrize(
    "commands",
    [
        [b"get k\r\n"],
        [storing(b"set", 2 * RECORD)],
        [storing(b"set", RECORD - 100), b"get k\r\n", storing(b"append", 200)],
        [storing(b"add", 100)] * 500,
        [storing(b"cas", RECORD), storing(b"prepend", 3 * RECORD)] * 3,
        [storing(b"replace", size) for size in range(RECORD - 40, RECORD + 5)],
    ],
)
def test_each_tls_record_ends_where_a_command_ends(commands):
    data = b"".join(commands)
    ends = {0}
    for command in commands:
        ends.add(max(ends) + len(command))
    cuts = [0]
    for part in pipelined._records(data):
        cuts.append(cuts[-1] + len(part))
        assert cuts[-1] - cuts[-2] <= RECORD or not any(
            cuts[-2] < end < cuts[-1] for end in ends
        )
    assert cuts[-1] == len(data)
    assert set(cuts) <= ends


@pytest.mark.parametrize(
    "data",
    [b"", b"set k\r\n", b"set k 0 0 x\r\n", b"set k 0 0 5 noreply\r\nv\r\n", b"no end"],
)
def test_what_is_not_whole_commands_is_sent_as_it_is(data):
    data += b"v" * RECORD
    assert list(pipelined._records(data)) == [data]


def test_a_command_of_another_client_does_not_send_the_counter_read(start, server):
    """A serializer may use another cache's bare client while a command is prepared."""
    path, second = BACKENDS["pymemcache"], start()
    other = our_cache(path, second.location)
    other.set("k", "other")
    key = other.make_key("k")

    class Asking:
        def __init__(self, real):
            self.deserialize = real.deserialize
            self.real = real

        def serialize(self, key_, value):
            assert other._cache.wrapped.get(key) is None
            return self.real.serialize(key_, value)

    cache = our_cache(
        path, server.location, OPTIONS={"serde": Asking(pymemcache.serde.pickle_serde)}
    )
    cache.set("k", 0)
    before = stat(second, "get_misses")
    for turn in range(3):
        cache.set("k", turn)
        assert cache.get("k") == turn
    assert stat(second, "get_misses") - before == 3
    assert other.get("k") == "other"
    cache.close()
    other.close()
