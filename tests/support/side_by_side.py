"""Our backend and the bare backend side by side, each on a server that is watched."""

from __future__ import annotations

import re
import secrets
import socket
from contextlib import contextmanager, suppress
from hashlib import blake2b
from urllib.parse import unquote_to_bytes

import pylibmc
import pymemcache

from namespaced_cache.keys import counter_key, parse
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.servers import Memcached

#: The key of the counter of namespace "mine".
COUNTER = counter_key("mine").encode()

#: The bytes that end a key in the text protocol, or when libmemcached reads an answer.
KEY_ENDS = re.compile(rb"[\x00-\x20\x7f]")


class Watched:
    """What a memcached stores and has done, read over a plain socket."""

    def __init__(self, server: Memcached) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: bytes, *ends: bytes) -> bytes:
        self._socket.sendall(request)
        answer = bytearray()
        while not answer.endswith(ends):
            chunk = self._socket.recv(65536)
            assert chunk, answer
            answer += chunk
        return bytes(answer)

    def flush(self) -> None:
        self.ask(b"flush_all\r\n", b"OK\r\n")

    def flushes(self) -> int:
        stats = self.ask(b"stats\r\n", b"END\r\n")
        return int(re.search(rb"STAT cmd_flush (\d+)", stats)[1])

    def store(self, keys: set[bytes]) -> None:
        lines = [b"set %s 0 0 2\r\n41\r\n" % key for key in keys]
        self.ask(b"".join(lines), b"STORED\r\n" * len(lines))

    def items(self, wanted: set[bytes]) -> dict[bytes, tuple[bytes, ...]]:
        """Return each key with its expiry, its cas number and whether it was read.

        Ask again while a wanted key is missing: memcached leaves out an item that
        another connection is still using.
        """
        found: dict[bytes, tuple[bytes, ...]] = {}
        for _ in range(100):
            dump = self.ask(
                b"lru_crawler metadump all\r\n", b"END\r\n", b"crawler request\r\n"
            )
            line = rb"key=(\S+) exp=(-?\d+) .*?cas=(\d+) fetch=(\w+)"
            found = {
                unquote_to_bytes(key): tuple(rest)
                for key, *rest in re.findall(line, dump)
            }
            if wanted <= found.keys():
                break
        return found


class Place:
    """Our backend and the bare backend with equal options, each on its own server.

    With `single`, both use a pymemcache.Client, which has item access.
    """

    def __init__(
        self,
        library: str,
        options,
        server: Memcached,
        bare_server: Memcached,
        *,
        single=False,
    ) -> None:
        self.library, path = library, BACKENDS[library]
        if library == "pymemcache":
            options = {"no_delay": True, **options}
        ours = {"NAMESPACE": "mine", **options}
        self.cache = our_cache(path, server.location, OPTIONS=ours)
        self.bare = bare_cache(path, bare_server.location, OPTIONS=options)
        if single:
            for cache in (self.cache, self.bare):
                client = {name: cache._options[name] for name in cache._options}
                cache._cache = pymemcache.Client(cache._servers[0], **client)
        self.prefix = options.get("key_prefix", b"")
        self.text = library == "pylibmc" and not options.get("binary")
        self.watched, self.bare_watched = Watched(server), Watched(bare_server)

    def close(self) -> None:
        for cache in (self.cache, self.bare):
            cache.close()
        for watched in (self.watched, self.bare_watched):
            watched.close()

    def begin(self, *keys: object) -> None:
        """Empty both servers. Store items of other users under likely wrong keys."""
        pieces = {b"k", b"b", b"evil", b"x", b"step", b"flush_all", b"other"}
        for key in keys:
            raw = as_bytes(key) or b""
            pieces.update(part for part in KEY_ENDS.split(raw) if 0 < len(part) <= 230)
        others = {b"nsc:other:7:" + piece for piece in pieces}
        dead = {b"nsc:mine:7:" + piece for piece in pieces}
        theirs = {b"nsc:other", *pieces, *others, *dead} - {COUNTER}
        self.watched.flush()
        self.bare_watched.flush()
        self.theirs = theirs | {self.prefix + key for key in theirs}
        self.watched.store(self.theirs)

    @contextmanager
    def untouched(self, *keys: object):
        """Assert that the block stores nothing on the server but our items for `keys`.

        All other items stay. They are not written, they keep their expiry, and they are
        not even read. The counter does not move, and the server is not flushed.
        """
        generation = self.cache.generation
        counter = self.prefix + COUNTER
        before = self.watched.items(self.theirs | {counter})
        assert before.keys() == self.theirs | {counter}
        flushes = self.watched.flushes()
        yield
        after = self.watched.items(before.keys())
        assert {key: after.get(key) for key in before} == before
        assert self.watched.flushes() == flushes
        for wire_key in after.keys() - before.keys():
            item = parse(wire_key.removeprefix(self.prefix))
            assert wire_key.startswith(self.prefix), wire_key
            assert item is not None, wire_key
            assert (item.namespace, item.generation) == ("mine", generation), wire_key
            assert any(stands_for(item, as_bytes(key)) for key in keys), wire_key

    def assert_in_step(self) -> None:
        """Assert that each answer still belongs to its command."""
        raw, sign = self.cache._cache, secrets.token_bytes(8)
        assert raw.set("step", sign) is True
        assert raw.get_multi(["step", "none"]) == {"step": sign}


def as_bytes(key: object) -> bytes | None:
    """Return the key's bytes, or None if it has none."""
    if isinstance(key, str):
        with suppress(UnicodeEncodeError):
            return key.encode()
    return key if isinstance(key, bytes) else None


def stands_for(item, raw: bytes | None) -> bool:
    if raw is None or item.digest is None:
        return item.key == raw
    digest = blake2b(raw, digest_size=20).hexdigest()
    return item.digest == digest and raw.startswith(item.key)


def outcome(call, *args) -> tuple[object, object]:
    """Return the call's answer, or the type and text of the error that it raises."""
    try:
        return "answers", without_tokens(call(*args))
    except Exception as error:  # noqa: BLE001
        return type(error), str(error)


def without_tokens(answer):
    if isinstance(answer, dict):
        return {key: without_tokens(value) for key, value in answer.items()}
    return answer[0] if isinstance(answer, tuple) else answer


def shown(text: object) -> str:
    """Return an error's text as it would be without a namespace."""
    text = re.sub(r"nsc:mine:[0-9a-z]+:", "", str(text))
    text = re.sub(r"(key length|position) [\d-]+", r"\1", text)
    return re.sub(r"(from memcached_\w+)\(.*", r"\1", text, flags=re.DOTALL)


def assert_alike(key: object, ours, theirs) -> None:
    """Assert that ours has the same outcome as the bare backend."""
    if theirs[0] == "answers":
        assert ours == theirs, key
    elif theirs[0] in (KeyError, TypeError):
        # For a missing key and for a value that is no key, ours has its own texts.
        assert ours[0] is theirs[0], key
    elif UnicodeDecodeError in (ours[0], theirs[0]):
        # pylibmc raises this while it makes the text of another error: it cuts the key
        # after a fixed number of bytes. Our key is longer.
        for error, _ in (ours, theirs):
            assert issubclass(error, (UnicodeDecodeError, pylibmc.Error)), key
    elif theirs[0] is pylibmc.BadKeyProvided and ours[0] is ValueError:
        # Such a key is too long only because of its key_prefix.
        assert "too long, max is 250" in ours[1], key
    elif "Non-ASCII" in theirs[1] and "surrogates" in str(ours[1]):
        # Ours says that a lone surrogate cannot be encoded.
        assert ours[0] is UnicodeEncodeError, key
    else:
        assert (ours[0], shown(ours[1])) == (theirs[0], shown(theirs[1])), key
