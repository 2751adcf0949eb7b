"""No injection: no key or value becomes a command, a second key or another's key.

Each case runs on NamespacedCache, whose server is watched over a plain socket. If it is
safe, it also runs on the bare backend, which has its own server. Ours must answer and
refuse like the bare backend, and must store nothing but its own items.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import operator
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache, partial

import pylibmc
import pymemcache
import pytest
from django.core.cache.backends.base import BaseCache, InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given, settings
from hypothesis import strategies as st

from namespaced_cache import NamespaceError, NamespaceUnavailable
from namespaced_cache.core import identity
from namespaced_cache.proxy.delegation import HELPERS
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.commands import MANY_KEYS, ONE_KEY
from tests.support.side_by_side import (
    COUNTER,
    KEY_ENDS,
    Place,
    as_bytes,
    assert_alike,
    outcome,
)

#: Set-ups of clients that treat keys differently: the client library and its options.
SETUPS = {
    "pymemcache": ("pymemcache", {}),
    "single": ("pymemcache", {}),  # pymemcache.Client, which has item access
    "pooled": ("pymemcache", {"use_pooling": True}),
    "ascii": ("pymemcache", {"allow_unicode_keys": False}),
    "prefix": ("pymemcache", {"key_prefix": b"site-"}),
    "pylibmc": ("pylibmc", {"behaviors": {"cas": True, "tcp_nodelay": True}}),
    "binary": ("pylibmc", {"binary": True, "behaviors": {"tcp_nodelay": True}}),
}


@pytest.fixture
def place(request, servers):
    library, options = SETUPS[request.param]
    place = Place(library, options, *servers, single=request.param == "single")
    place.setup = request.param
    yield place
    place.close()


EVERY_SETUP = pytest.mark.parametrize("place", SETUPS, indirect=True)
BOTH_CLIENTS = pytest.mark.parametrize("place", BACKENDS, indirect=True)

#: How many examples Hypothesis tries.
TIMES = pytest.mark.parametrize(
    "times", [40, pytest.param(3000, marks=pytest.mark.stress)]
)

# Commands and methods, each called with a client or a backend, and with a key.

STORED = b"5"
ONE = {
    **dict.fromkeys(("get", "gets", "delete"), ()),
    **dict.fromkeys(("set", "add", "replace", "append", "prepend"), (b"7",)),
    **dict.fromkeys(("incr", "decr"), (1,)),
    "touch": (100,),
    "cas": (b"7", 1),
}
READ_MANY = ["get_many", "get_multi", "gets_many", "gets_multi"]
DELETE_MANY = ["delete_many", "delete_multi", "incr_multi"]
STORE_MANY = ["set_many", "set_multi", "add_multi"]


@lru_cache
def raw_commands(setup: str) -> dict[str, Callable]:
    """Return all commands of the set-up's client that take one key or many keys."""

    def one(command, rest, raw, key):
        return getattr(raw, command)(key, *rest)

    def many(command, raw, key, **prefix):
        return getattr(raw, command)(["other", key], **prefix)

    def store_many(command, raw, key, **prefix):
        return getattr(raw, command)({"other": b"8", key: b"9"}, **prefix)

    commands = {
        **{command: partial(one, command, rest) for command, rest in ONE.items()},
        **{command: partial(many, command) for command in READ_MANY + DELETE_MANY},
        **{command: partial(store_many, command) for command in STORE_MANY},
    }
    if SETUPS[setup][0] == "pylibmc":
        for command in ("get_multi", "delete_multi", "incr_multi", *STORE_MANY[1:]):
            for kind, prefix in (("str", "pre-"), ("bytes", b"pre-")):
                commands[f"{command} with {kind} key_prefix"] = partial(
                    commands[command], key_prefix=prefix
                )
        commands["get_multi by key_prefix"] = lambda raw, key: raw.get_multi(
            ["x", b"y"], key_prefix=key
        )
        commands["set_multi by key_prefix"] = lambda raw, key: raw.set_multi(
            {"x": b"1", b"y": b"2"}, key_prefix=key
        )
        commands["in"] = lambda raw, key: key in raw
    if setup in ("pylibmc", "binary", "single"):
        commands["[]"] = operator.getitem
        commands["[]="] = lambda raw, key: operator.setitem(raw, key, b"7")
        commands["del []"] = operator.delitem
    client = pylibmc.Client if SETUPS[setup][0] == "pylibmc" else pymemcache.HashClient
    return {
        name: command
        for name, command in commands.items()
        if (word := name.split()[0]) not in ONE_KEY | MANY_KEYS or hasattr(client, word)
    }


DJANGO = {
    **{
        command: lambda cache, key, command=command: getattr(cache, command)(key)
        for command in ("get", "delete", "touch", "incr", "decr", "has_key")
    },
    **{
        command: lambda cache, key, command=command: getattr(cache, command)(key, 7)
        for command in ("set", "add", "get_or_set")
    },
    **{
        command: lambda cache, key, command=command: getattr(cache, command)(
            ["other", key]
        )
        for command in ("get_many", "delete_many")
    },
    "set_many": lambda cache, key: cache.set_many({"other": 8, key: 9}),
    "incr_version": lambda cache, key: cache.incr_version(key),
    "decr_version": lambda cache, key: cache.decr_version(key, version=2),
    "__contains__": lambda cache, key: key in cache,
    "set in a version": lambda cache, key: cache.set("k", 7, version=key),
    "get in a version": lambda cache, key: cache.get("k", version=key),
}
ASYNC = {
    f"a{command}": partial(
        lambda command, cache, key: asyncio.run(DJANGO[command](Async(cache), key)),
        command,
    )
    for command in DJANGO
    if command[0] != "_" and " " not in command
}


class Async:
    """A cache whose methods are the asynchronous ones."""

    def __init__(self, cache) -> None:
        self._cache = cache

    def __getattr__(self, command):
        return getattr(self._cache, f"a{command}")


@pytest.mark.parametrize("setup", SETUPS)
def test_every_command_is_tried(setup):
    library = pylibmc.Client if SETUPS[setup][0] == "pylibmc" else pymemcache.HashClient
    has = {command for command in ONE_KEY | MANY_KEYS if hasattr(library, command)}
    assert raw_commands(setup).keys() >= has
    public = {
        name
        for name, member in vars(BaseCache).items()
        if inspect.isfunction(member) and (name[0] != "_" or name == "__contains__")
    }
    of_no_key = {"clear", "aclear", "close", "aclose"}
    assert DJANGO.keys() | ASYNC.keys() >= public - HELPERS - of_no_key


# The expected outcome of a call.


def refusal(place: Place, key: object) -> tuple[type, str] | None:
    """Return the error for a raw key that is too dangerous for the bare client."""
    raw = as_bytes(key)
    if isinstance(key, bytearray | memoryview):
        return TypeError, ""
    if raw is not None and place.text and KEY_ENDS.search(raw):
        return ValueError, "ends a key early in memcached's text protocol"
    if raw is not None and place.library == "pymemcache" and not raw.strip():
        return pymemcache.MemcacheIllegalInputError, "Key contains whitespace: "
    return None


def attempt(place: Place, name: str, key: object) -> None:
    """Call a command, store the key, and call the command again."""
    raw_command = raw_commands(place.setup).get(name)
    if raw_command is not None:
        command, ours, bare = raw_command, place.cache._cache, place.bare._cache
        raw = as_bytes(key) or b""
        allowed = [key, "other", b"pre-" + raw, "pre-other", raw + b"x", raw + b"y"]
        refused = refusal(place, key)
    else:
        command, ours, bare = {**DJANGO, **ASYNC}[name], place.cache, place.bare
        refused = None
        make_key = place.cache.make_key
        allowed = [make_key(of, version) for of in (key, "other") for version in "012"]
        allowed.append(make_key("k", key))
    # If there is a key_prefix, bare pylibmc cuts the key at a NUL.
    comparable = not ("key_prefix" in name and b"\x00" in (as_bytes(key) or b""))
    steps = [command, lambda cache, key: cache.set(key, STORED), command]
    if place.setup == "binary" and "touch" in name:
        del steps[1:]  # libmemcached waits 5 seconds for the rest of the answer

    place.begin(key)
    with place.untouched(*allowed, "step"):
        for step in steps:
            came_to = outcome(step, ours, key)
            if refused is not None:
                assert came_to[0] is refused[0], key
                assert refused[1] in came_to[1], key
            elif comparable:
                assert_alike(key, came_to, outcome(step, bare, key))
        place.assert_in_step()


# Keys.

INJECTIONS = [
    "k\r\nflush_all",
    "k\r\nset evil 0 0 1\r\nx",
    "k 0 0 1\r\nx\r\nset evil 0 0 1\r\nx",
    "\r\nflush_all\r\n",
    "k\nflush_all\n",
]
ENDS = ["k b", " k", "k ", "k\tb", "k\vb", "k\x00b", "\x00", " ", "\r\n"]
CONTROLS = ["\x01", "k\x1bb", "k\x7f"]
NAMES = ["nsc:other", "nsc:other:7:k", "nsc:mine", ":7:k", f"~k~{'0' * 40}"]
LETTERS = ["é", "日本", "😀", "k\u2028b", "k\x85", "\xa0", "e\u0301"]
#: A digest replaces the end of these keys. The client must still see what is in it.
LONG = ["k" * 235 + end for end in ("", " ", "\r\nflush_all", "\x00", "é", "\x01")]
NO_UTF_8 = [b"\xff\xfe", b"k" * 235 + b"\xff"]
SURROGATES = ["\ud800", "k\udc80b"]
WRONG = [5, None, True, 1.5, ("k",), ["k"], object]
BUFFERS = [bytearray(b"k"), memoryview(b"k")]

TEXTS = INJECTIONS + ENDS + CONTROLS + NAMES + LETTERS + LONG
KEYS = TEXTS + [text.encode() for text in TEXTS] + NO_UTF_8
NO_KEYS = SURROGATES + WRONG + BUFFERS

#: One key of each kind.
TELLING = [
    *(INJECTIONS[1], INJECTIONS[2].encode(), "k b", b"k\x00b", " ", "k\x7f", b"\x01"),
    *("nsc:other:7:k", b"nsc:mine", "é", b"\xff\xfe", LONG[0], LONG[4]),
    *(LONG[1].encode(), LONG[2], LONG[3], "\ud800", None, 5, ["k"], bytearray(b"k")),
]


def with_commands(**commands):
    """Parametrize a test with pairs of a set-up and one of its commands."""
    return pytest.mark.parametrize(
        ("place", "command"),
        [(setup, command) for setup, those in commands.items() for command in those],
        indirect=["place"],
    )


@with_commands(
    **{setup: raw_commands(setup) for setup in ("pymemcache", "pylibmc", "binary")},
    single=[command for command in raw_commands("single") if "[]" in command],
)
def test_no_key_injects_anything_into_a_raw_command(place, command):
    for key in TELLING:
        attempt(place, command, key)


@EVERY_SETUP
def test_no_key_injects_anything_in_any_set_up(place):
    for key in [*KEYS, *NO_KEYS]:
        attempt(place, "get_multi", key)


@with_commands(**dict.fromkeys(("pymemcache", "pylibmc"), DJANGO))
def test_no_key_injects_anything_into_a_django_method(place, command):
    for key in TELLING:
        attempt(place, command, key)


@with_commands(**dict.fromkeys(("pymemcache", "pylibmc"), ASYNC))
def test_no_key_injects_anything_into_an_async_method(place, command):
    for key in (INJECTIONS[1], "k b", "é", "\udc80", LONG[0], None):
        attempt(place, command, key)


#: Sizes up to memcached's limit and above it. Some are around the longest key without a
#: digest, for a generation of twelve digits, without and with the client's own
#: key_prefix.
SIZES = [1, 187, 222, 223, 224, 227, 228, 229, 249, 250, 251, 252, 1000, 1 << 16]
MEGABYTE = 1 << 20


@EVERY_SETUP
def test_no_key_injects_anything_by_its_size(place):
    for size in SIZES:
        for key in (
            "k" * size,
            b"k" * size,
            "é" * (size // 2) or "é",
            "k" * size + "😀",
        ):
            attempt(place, "set_multi", key)
    attempt(place, "set_multi", "k" * MEGABYTE)


pieces = st.sampled_from(
    [*INJECTIONS, *ENDS, *CONTROLS, *NAMES, *LETTERS, "k", "~", ":"]
)
texts = st.builds(
    lambda start, filling, size, end: start + filling * (size // len(filling)) + end,
    st.text(max_size=3) | pieces,
    st.sampled_from(["k", "é", "😀", "~", "k:"]),
    st.integers(0, 8) | st.integers(180, 256),
    st.text(max_size=3) | pieces | st.text("\ud800\udfff k", max_size=3),
).filter(bool)
some_bytes = st.binary(min_size=1, max_size=256) | texts.map(as_bytes).filter(bool)
no_keys = (
    st.none()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.tuples(st.text())
    | st.booleans()
)


@EVERY_SETUP
@TIMES
def test_no_generated_key_injects_anything(place, times):
    commands = sorted(raw_commands(place.setup).keys() | DJANGO.keys())

    @settings(max_examples=times, deadline=None)
    @given(st.sampled_from(commands), texts | some_bytes | texts | some_bytes | no_keys)
    def try_a_command(command, key):
        attempt(place, command, key)

    try_a_command()


@EVERY_SETUP
def test_the_empty_key_is_a_separate_key(place):
    """No bare client accepts the empty key, so the bare client gets another key."""
    for key, other in (("", "k"), (b"", b"k")):
        for name, command in raw_commands(place.setup).items():
            place.begin()
            with place.untouched("", "other", "pre-", "pre-other", "x", "y", "step"):
                for step in (command, lambda raw, key: raw.set(key, STORED), command):
                    ours = outcome(step, place.cache._cache, key)
                    theirs = outcome(step, place.bare._cache, other)
                    assert ours[0] == theirs[0], name
                    if theirs[0] == "answers" and "by key_prefix" not in name:
                        assert ours[1] == renamed(theirs[1], other, key), name
                    if place.setup == "binary" and name == "touch":
                        break  # as above
                place.assert_in_step()


def renamed(answer, key, new):
    if isinstance(answer, dict):
        return {new if name == key else name: value for name, value in answer.items()}
    if isinstance(answer, list):
        return [new if name == key else name for name in answer]
    return answer


@EVERY_SETUP
def test_each_key_has_a_value_of_its_own(place, servers):
    """No other namespace reads it, and no backend without a namespace."""
    place.watched.flush()
    library, options = SETUPS[place.setup]
    bare = bare_cache(BACKENDS[library], servers[0].location, OPTIONS=options)
    ours = {"NAMESPACE": "others", **options}
    other = our_cache(BACKENDS[library], servers[0].location, OPTIONS=ours)
    sized = [letter * size for size in SIZES for letter in ("k", b"k", "é")]
    values, raw = {}, place.cache._cache
    for number, key in enumerate([*KEYS, *sized, *SURROGATES, "", b"k" * 249 + b"l"]):
        answer = outcome(raw.set, key, b"%d" % number)
        if answer == ("answers", True):
            values[as_bytes(key)] = b"%d" % number
        else:
            assert answer == ("answers", False) or answer[0] != "answers", key
    assert len(values) > 20
    for key, value in values.items():
        assert raw.get(key) == value
        assert raw.get_multi([key, b"none"]) == {key: value}
    assert raw.get_multi(list(values)) == values
    assert other._cache.get_multi(list(values)) == {}
    safe = {key for key in values if key and not KEY_ENDS.search(key)} - {COUNTER}
    assert bare._cache.get_multi(safe) == {}
    for cache in (bare, other):
        cache.close()


# Values.

VALUES = [
    *INJECTIONS,
    *(b"\r\nflush_all\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n", b"END\r\n", b"STORED\r\n"),
    *("", b"", " ", "\x00", "é", b"\xff", "\ud800", "41 ", b"41 "),
    *(0, -5, 2**70, True, None, 1.5, (1,), ["k"], {"k": b"v"}, range(3)),
    *(memoryview(b"no pickle"), lambda: "no pickle either"),
]

#: One value is below memcached's limit, even with our longer keys. Two are above it.
LARGE = [b"v" * (MEGABYTE - 2000), b"v" * MEGABYTE, "é" * (MEGABYTE // 2 + 1)]


def stores(setup: str) -> dict[str, Callable]:
    """Return all ways to store a value under "k"."""

    def by(command, target, value):
        return getattr(target, command)("k", value)

    def by_many(command, target, value):
        return getattr(target, command)({"other": b"1", "k": value, "x": value})

    def swap(raw, value):
        return raw.cas("k", value, raw.gets("k")[1] or 1)

    raw_stores = ["set", "add", "replace", "append", "prepend"]
    if SETUPS[setup][0] == "pymemcache":
        more = {
            "set_many": partial(by_many, "set_many"),
            "set without a reply": lambda raw, value: raw.set("k", value, noreply=True),
        }
    else:
        more = {
            "add_multi": partial(by_many, "add_multi"),
            "[]=": lambda raw, value: operator.setitem(raw, "k", value),
        }
    djangos = ["set", "add", "get_or_set"]
    return {
        **{command: partial(by, command) for command in raw_stores},
        "set_multi": partial(by_many, "set_multi"),
        "cas": swap,
        **more,
        **{f"Django's {command}": partial(by, command) for command in djangos},
        "Django's set_many": partial(by_many, "set_many"),
    }


def attempt_value(place: Place, name: str, value: object) -> None:
    """Store a value under a missing key, and under an existing key."""
    store, names = stores(place.setup)[name], ["k", "other", "x"]

    def read_raw(raw, _):
        return raw.get("k", "none"), raw.get_multi(["other", "x"])

    def read_cache(cache, _):
        return cache.get("k", "none"), cache.get_many(["other", "x"])

    if "Django" in name:
        ours, bare, read = place.cache, place.bare, read_cache
        names = [place.cache.make_key(key) for key in names]
    else:
        ours, bare, read = place.cache._cache, place.bare._cache, read_raw
    place.begin()
    with place.untouched(*names, "step"):
        for step in (store, read, lambda cache, _: cache.set("k", STORED), store, read):
            theirs = outcome(step, bare, value)
            assert_alike(value, outcome(step, ours, value), theirs)
        place.assert_in_step()


@with_commands(
    **{setup: stores(setup) for setup in ("pymemcache", "pylibmc", "binary")}
)
def test_no_value_injects_anything(place, command):
    for value in VALUES:
        attempt_value(place, command, value)


@with_commands(
    **dict.fromkeys(
        ("pymemcache", "pylibmc", "binary"),
        ("set", "set_multi", "append", "cas", "Django's set", "Django's set_many"),
    )
)
def test_no_value_injects_anything_by_its_size(place, command):
    """A value that is too large deletes the old one, as in production."""
    for value in LARGE:
        attempt_value(place, command, value)


@BOTH_CLIENTS
@TIMES
def test_no_generated_value_injects_anything(place, times):
    @settings(max_examples=times, deadline=None)
    @given(st.sampled_from(sorted(stores(place.setup))), texts | some_bytes | no_keys)
    def try_a_command(command, value):
        attempt_value(place, command, value)

    try_a_command()


# Names.

BAD_NAMES = [
    "~",
    *INJECTIONS,
    "a\rb",
    "a\tb",
    "\x7f",
    "a\u2028b",
    "\udc80",
    "٣",
    "x" * 999,
]


def refused_name(call, *args, **kwargs) -> str:
    with pytest.raises(ImproperlyConfigured, match="it takes 1 to 32") as caught:
        call(*args, **kwargs)
    _, _, got = str(caught.value).partition(" is ")
    return ast.literal_eval(got.partition(": it takes")[0])


@BOTH_CLIENTS
@pytest.mark.parametrize("variable", ["NAMESPACED_CACHE_RUN", "PYTEST_XDIST_WORKER"])
def test_no_name_from_the_environment_injects_anything(
    place, variable, servers, monkeypatch
):
    ours = our_cache(BACKENDS[place.library], servers[0].location)
    place.begin()
    with place.untouched():
        for name in BAD_NAMES:
            monkeypatch.setenv(variable, name)
            identity.begin_epoch()
            for command in DJANGO.values():
                assert refused_name(command, ours, "k") == name
            for command in raw_commands(place.setup).values():
                assert refused_name(command, ours._cache, "k") == name
            for command in (
                ours.clear,
                ours.invalidate_namespace,
                ours._cache.flush_all,
            ):
                assert refused_name(command) == name
    monkeypatch.undo()
    identity.begin_epoch()


@pytest.mark.parametrize("name", [*BAD_NAMES, "a\x00b", "\x00"])
def test_no_name_from_the_settings_injects_anything(name):
    options = {"NAMESPACE": name}
    assert refused_name(our_cache, BACKENDS["pymemcache"], "", OPTIONS=options) == name


@BOTH_CLIENTS
@pytest.mark.parametrize("setting", ["KEY_PREFIX", "VERSION"])
def test_no_part_of_a_key_from_the_settings_injects_anything(place, setting, servers):
    path = BACKENDS[place.library]
    server, bare_server = (server.location for server in servers)
    place.begin()
    with place.untouched("step"):
        for part in [*INJECTIONS, *ENDS, *CONTROLS, *SURROGATES]:
            ours = our_cache(
                path, server, OPTIONS={"NAMESPACE": "mine"}, **{setting: part}
            )
            bare = bare_cache(path, bare_server, **{setting: part})
            with closing(ours), closing(bare):
                for name, command in DJANGO.items():
                    if "version" not in name:
                        theirs = outcome(command, bare, "k")
                        assert theirs[0] in (InvalidCacheKey, UnicodeEncodeError), name
                        assert_alike(part, outcome(command, ours, "k"), theirs)
        place.assert_in_step()


@pytest.mark.parametrize("place", ["pymemcache"], indirect=True)
@pytest.mark.parametrize("prefix", [b"a b", b"x\r\nflush_all\r\n", b"\0", b"k" * 251])
def test_no_key_prefix_of_the_client_injects_anything(place, prefix, servers):
    """The client then refuses all keys, including the counter's."""
    options = {"NAMESPACE": "mine", "key_prefix": prefix}
    ours = our_cache(BACKENDS["pymemcache"], servers[0].location, OPTIONS=options)
    refusals = (pymemcache.MemcacheIllegalInputError, NamespaceError)
    place.begin()
    with place.untouched():
        for name, command in raw_commands(place.setup).items():
            assert outcome(command, ours._cache, "k")[0] in refusals, name
        for command in (ours.clear, ours.invalidate_namespace):
            assert outcome(command)[0] is NamespaceUnavailable
