"""The counter and items with other serializers, compression and protocols.

Each setting works as on the bare backend, or an error says why it is refused. With none
of them does an old item come back, or an item reach another namespace.
"""

from __future__ import annotations

import json
import pickle
import zlib
from contextlib import closing

import pylibmc
import pytest
from pymemcache.serde import CompressedSerde, PickleSerde

from namespaced_cache import NamespaceError
from tests.support.caches import BACKENDS, our_cache
from tests.support.side_by_side import COUNTER, Place, assert_alike, outcome
from tests.support.uses import as_another_process


class Json:
    """A serializer for both libraries. pymemcache also passes the key to it."""

    def serialize(self, *key_and_value):
        return json.dumps(key_and_value[-1]).encode(), 1

    def deserialize(self, *key_value_and_flags):
        return json.loads(key_value_and_flags[-2])


class Squeezing(Json):
    """Compresses everything but numbers."""

    def serialize(self, *key_and_value):
        data, _ = super().serialize(*key_and_value)
        return (data, 1) if data.isdigit() else (zlib.compress(data), 2)

    def deserialize(self, *key_value_and_flags):
        data, flags = key_value_and_flags[-2:]
        return super().deserialize(zlib.decompress(data) if flags == 2 else data, 1)


class SqueezingAll(Json):
    def serialize(self, *key_and_value):
        return zlib.compress(super().serialize(*key_and_value)[0]), 1

    def deserialize(self, *key_value_and_flags):
        return super().deserialize(zlib.decompress(key_value_and_flags[-2]), 1)


class Texts(Json):
    def serialize(self, *key_and_value):
        if not isinstance(key_and_value[-1], str):
            raise TypeError("only text")
        return super().serialize(*key_and_value)


class Floats(Json):
    def deserialize(self, *key_value_and_flags):
        return json.loads(key_value_and_flags[-2], parse_int=float)


class Losing(Json):
    def deserialize(self, *_):
        return None


class Failing(Json):
    def deserialize(self, *_):
        raise LookupError("no such codec")


#: The client library, its options, and a serializer to mix into the client's class.
SETUPS = {
    "pickles": ("pymemcache", {"serde": PickleSerde(pickle_version=0)}, None),
    "compressed": ("pymemcache", {"serde": CompressedSerde(min_compress_len=30)}, None),
    "json": ("pymemcache", {"serde": Json()}, None),
    "squeezed": ("pymemcache", {"serde": Squeezing()}, None),
    "functions": (
        "pymemcache",
        {
            "serde": None,
            "serializer": Json().serialize,
            "deserializer": Json().deserialize,
        },
        None,
    ),
    "nothing": ("pymemcache", {"serde": None}, None),
    "binary": ("pylibmc", {"binary": True}, None),
    "pylibmc": ("pylibmc", {}, None),
    "pylibmc json": ("pylibmc", {}, Json),
    "pylibmc squeezed": ("pylibmc", {}, Squeezing),
}
EVERY_SETUP = pytest.mark.parametrize("setup", SETUPS)


@pytest.fixture
def build_place(servers):
    """Build ours, in namespace "mine", and the bare backend, on empty servers."""
    places = []

    def build(library, options, serializer=None):
        place = Place(library, options, *servers)
        places.append(place)
        if serializer is not None:
            client_class = type("Serializing", (serializer, pylibmc.Client), {})
            place.cache._class = place.bare._class = client_class
        as_another_process(place.cache)  # no other test may share its latest generation
        place.begin()
        return place

    yield build
    for place in places:
        place.close()


def in_namespace(name, place, servers):
    """Build a cache like ours in a namespace with this name."""
    options = {**place.cache._options, "NAMESPACE": name}
    cache = our_cache(BACKENDS[place.library], servers[0].location, OPTIONS=options)
    cache._class = place.cache._class
    return cache


# Settings that work.

VALUES = [
    *("", "text", "é", "t" * 5000, b"", b"bytes", b"\xff\x00", b"b" * 5000),
    *("41", b"41", 0, 5, -5, 2**70, 1.5, True, None, [1, "two"], {"k": [None]}),
    *({1, 2}, "\udc80", lambda: "cannot be serialized"),
]


@EVERY_SETUP
def test_an_item_is_the_same_as_on_the_bare_backend(build_place, setup):
    place = build_place(*SETUPS[setup])

    def use(cache, value):
        raw = cache._cache
        return [
            outcome(command, *arguments)
            for command, *arguments in (
                (raw.set, "k", value),
                (raw.get, "k"),
                (raw.set_multi, {"k": value, "l": value}),
                (raw.get_multi, ["k", "l", "m"]),
                (raw.append, "k", b"5"),
                (raw.get, "k"),
                (cache.set, "k", value),
                (cache.get, "k"),
                (cache.get_or_set, "l", value),
            )
        ]

    for value in VALUES:
        place.begin()
        with place.untouched("k", "l", ":1:k", ":1:l"):
            both = zip(use(place.cache, value), use(place.bare, value), strict=True)
            for ours, theirs in both:
                assert_alike(value, ours, theirs)


@pytest.mark.parametrize("setup", ["binary", "pylibmc"])
def test_pylibmcs_arguments_for_compression_take_effect(build_place, setup):
    place = build_place(*SETUPS[setup])
    raw, text = place.cache._cache, b"t" * 5000
    with place.untouched("k", "l", "m"):
        assert raw.set("k", text, min_compress_len=1, compress_level=9) is True
        assert raw.set_multi({"l": text}, min_compress_len=1) == []
        assert raw.add_multi({"m": text}, 0, b"", 1, 9) == []
        assert raw.get_multi(["k", "l", "m"]) == dict.fromkeys("klm", text)
        wire_key = raw._binder.binding().keys(raw.counter.latest).wire_key
        for key in "klm":
            stored = place.watched.ask(
                b"get %s\r\n" % wire_key(key).encode(), b"END\r\n"
            )
            assert 0 < len(stored) < 200


@EVERY_SETUP
def test_no_old_item_comes_back_and_no_item_reaches_another_namespace(
    build_place, setup, servers
):
    place = build_place(*SETUPS[setup])
    raw, item = place.cache._cache, b"5" if setup == "nothing" else "5"

    def lose_the_counter():
        place.watched.ask(b"delete %s\r\n" % COUNTER, b"DELETED\r\n")

    with closing(in_namespace("others", place, servers)) as other:
        for invalidate in (
            place.cache.invalidate_namespace,
            lose_the_counter,
            lambda: (lose_the_counter(), place.cache.invalidate_namespace()),
        ):
            assert raw.set("k", item)
            assert raw.get("k")
            assert other._cache.get("k") is None
            assert other._cache.get_multi(["k"]) == {}
            invalidate()
            assert raw.get("k") is None
            assert raw.get_multi(["k"]) == {}
            assert raw.add("l", item)
            assert raw.get("k") is None


# Settings that are refused.

OPERATIONS = {
    "set": lambda cache: cache._cache.set("k", "7"),
    "add": lambda cache: cache.add("k", "v"),
    "set_many": lambda cache: cache.set_many({"k": "v"}),
    "incr": lambda cache: cache._cache.incr("k", 1),
    "delete": lambda cache: cache.delete("k"),
    "get": lambda cache: cache.get("k"),
    "get_many": lambda cache: cache._cache.get_multi(["k"]),
    "gets": lambda cache: cache._cache.gets("k"),
    "generation": lambda cache: cache.generation,
    "pinned_generation": lambda cache: cache.pinned_generation().__enter__(),
}


def assert_refused(place, act, fault) -> None:
    with pytest.raises(NamespaceError) as caught:
        act(place.cache)
    assert caught.type is NamespaceError
    counter = place.cache._cache.counter
    assert str(caught.value).startswith(
        f"The counter of namespace 'mine', the key 'nsc:mine' on {counter.server}, "
        f"{fault}"
    )


def spoilt(library, serializer):
    """Return a setting with a serializer that cannot keep a counter."""
    if library == "pymemcache":
        return library, {"serde": serializer()}
    return library, {}, serializer


@pytest.mark.parametrize("library", BACKENDS)
@pytest.mark.parametrize(
    ("serializer", "fault"),
    [
        (
            Texts,
            "cannot be encoded (only text). If the client's serializer is not the ",
        ),
        (Floats, "holds 1."),
        (Losing, "holds None: "),
        (Failing, "cannot be decoded (no such codec). "),
    ],
)
def test_a_serializer_that_spoils_the_counter_is_refused(
    build_place, library, serializer, fault
):
    """The error comes before an item is stored that could not be invalidated."""
    place = build_place(*spoilt(library, serializer))
    for act in OPERATIONS.values():
        assert_refused(place, act, fault)
    assert place.watched.items(place.theirs).keys() - {COUNTER} == place.theirs


@pytest.mark.parametrize("library", BACKENDS)
def test_a_serializer_that_compresses_numbers_is_refused_at_invalidation(
    build_place, library
):
    place = build_place(*spoilt(library, SqueezingAll))
    place.cache.set("k", "v")
    assert place.cache.get("k") == "v"
    counter = place.watched.items({COUNTER})[COUNTER]
    for act in (
        lambda cache: cache.invalidate_namespace(),
        lambda cache: cache.clear(),
        lambda cache: cache._cache.flush_all(),
    ):
        assert_refused(place, act, "cannot be incremented (")
    assert place.watched.items({COUNTER})[COUNTER] == counter


# Rubbish.

RUBBISH = [
    *(b"text", b"", b" ", b"0", b"5", b"-5", b"+5", b"1e18", b"1.5", b"\xd9\xa3" * 19),
    *(b"%d" % number for number in (2**63, 2**64 - 6, 2**64 - 1, 2**64, 10**200)),
    *(b"-1000000000000000000", b"null", b"true", b"[1000000000000000000]"),
    *(pickle.dumps(value) for value in (None, True, [1], "text", 2.0**60, 2**64 - 1)),
    *(b"\x80\x04no pickle", zlib.compress(b"5"), zlib.compress(b"text"), b"\xff" * 19),
]
FLAGS = [0, 1, 2, 3, 4, 8, 16, 2**16 - 1]


@EVERY_SETUP
@pytest.mark.parametrize("flags", FLAGS)
def test_rubbish_in_the_counter_serves_no_item(build_place, setup, flags):
    """No client makes a generation of it, and no increment does."""
    place = build_place(*SETUPS[setup])
    raw, item = place.cache._cache, b"5" if setup == "nothing" else "5"
    others = place.watched.items(place.theirs)
    for rubbish in RUBBISH:
        assert raw.set("k", item)
        line = b"set %s %d 0 %d\r\n" % (COUNTER, flags, len(rubbish))
        place.watched.ask(line + rubbish + b"\r\n", b"STORED\r\n")
        for act in OPERATIONS.values():
            assert_refused(place, act, "")
        with pytest.raises(NamespaceError):
            place.cache.invalidate_namespace()
        raw.disconnect_all()  # the binary protocol reports an outage
        assert_refused(place, OPERATIONS["get"], "")
        place.watched.ask(b"delete %s\r\n" % COUNTER, b"DELETED\r\n")
        assert raw.get("k") is None
    after = place.watched.items(place.theirs)
    assert {key: after[key] for key in place.theirs} == others
