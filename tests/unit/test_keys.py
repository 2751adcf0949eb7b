"""keys: no two inputs share a wire key, and the limit in bytes is kept."""

from __future__ import annotations

from hashlib import blake2b
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from namespaced_cache.errors import NamespaceError
from namespaced_cache.keys import (
    GenerationKeys,
    ParsedKey,
    base36,
    counter_key,
    parse,
)

#: Names that may be confused with each other, or with the next part of a key.
TRICKY_NAMES = ["a", "a-", "a-b", "a.b", "a.b-c", "a-b.c", "a_b", "A", "1", "nsc"]

#: Characters of one to four bytes, and every character that our wire keys contain.
ALPHABET = "a1z:~.-_ é€😀"

#: The length of a digest with its separators.
DIGEST_BYTES = 42

namespaces = st.sampled_from(TRICKY_NAMES) | st.from_regex(
    r"[A-Za-z0-9_-]{1,32}(\.[A-Za-z0-9_-]{1,32})?", fullmatch=True
)
generations = st.integers(1, 2**63 - 1) | st.sampled_from([1, 35, 36, 37, 10**18])


def cut(text: str, size: int) -> str:
    """Shorten text to at most so many bytes of UTF-8."""
    return text.encode()[:size].decode(errors="ignore")


def as_bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


def digest_of(key: bytes) -> str:
    return blake2b(key, digest_size=20).hexdigest()


short_texts = st.text(ALPHABET, min_size=1, max_size=6)
texts = st.builds(
    lambda some, times, end: cut(some * times + end, 250),
    short_texts,
    st.integers(0, 250),
    st.text(max_size=6),
)
callers_keys = texts | texts.map(str.encode) | st.binary(max_size=250)
stems = st.tuples(namespaces, generations)


def test_no_two_of_many_tricky_inputs_share_a_key():
    """Every combination of names, numbers and keys that differ by a separator."""
    ends = ["", "x" * 232, "y" * 232, "x" * 250, "x" * 300]
    keys = ["".join(s) for n in range(4) for s in product("a1:~", repeat=n)]
    inputs = list(product(TRICKY_NAMES, [1, 10, 36, 37, 46656], keys, ends))
    made = {GenerationKeys(n, g).wire_key(key + end) for n, g, key, end in inputs}
    counters = {counter_key(name) for name in TRICKY_NAMES}
    assert len(made) == len(set(inputs)) == 10 * 5 * 85 * 5
    assert len(counters) == len(TRICKY_NAMES)
    assert not counters & made


@given(st.tuples(stems, callers_keys), st.tuples(stems, callers_keys))
@example((("a", 1), "1:b"), (("a", 37), "b"))
@example((("a-b", 1), "k"), (("a", 1), "-b:1:k"))
@example((("a.b", 1), "k"), (("a", 1), "b:1:k"))
def test_equal_keys_come_from_equal_inputs(one, other):
    def made(of):
        (namespace, number), key = of
        return as_bytes(GenerationKeys(namespace, number).wire_key(key))

    same = one[0] == other[0] and as_bytes(one[1]) == as_bytes(other[1])
    assert (made(one) == made(other)) is same


@given(namespaces, generations, short_texts.map(lambda some: cut(some * 250, 250)))
def test_a_key_that_looks_like_anothers_digest_is_a_key_of_its_own(
    namespace, number, key
):
    keys = GenerationKeys(namespace, number)
    stem = len(f"nsc:{namespace}:{base36(number)}")
    for lookalike in (
        keys.wire_key(key),
        keys.wire_key(key)[stem:],
        keys.wire_key(key)[stem + 1 :],
    ):
        assert keys.wire_key(lookalike) != keys.wire_key(key)


def test_long_keys_that_differ_at_either_end_alone_differ():
    keys = GenerationKeys("a", 1)
    long = ["x" * 250, "x" * 249 + "y", "y" + "x" * 249, "x" * 249]
    assert len({keys.wire_key(key) for key in long}) == 4


@given(namespaces, namespaces, generations, callers_keys)
def test_a_counters_key_is_never_the_key_of_an_item(one, other, number, key):
    assert as_bytes(GenerationKeys(other, number).wire_key(key)) != as_bytes(
        counter_key(one)
    )


@given(stems, callers_keys, st.integers(0, 250))
def test_a_key_within_the_limit_gets_one_within_the_limit(stem, key, less):
    """The limit counts bytes. Every limit with room for a digest works."""
    prefix = f"nsc:{stem[0]}:{base36(stem[1])}:".encode()
    limit = max(len(prefix) - 1 + DIGEST_BYTES, 250 - less)
    raw = as_bytes(key)[:limit]
    wire_key = GenerationKeys(*stem, limit=limit).wire_key(raw)
    assert len(wire_key) <= limit
    assert (wire_key == prefix + raw) is (len(prefix + raw) <= limit)


@given(stems, texts, st.integers(0, 250))
def test_text_within_the_limit_gets_text_within_the_limit(stem, key, less):
    """The cut does not split a character."""
    limit = max(len(f"nsc:{stem[0]}:{base36(stem[1])}") + DIGEST_BYTES, 250 - less)
    wire_key = GenerationKeys(*stem, limit=limit).wire_key(cut(key, limit))
    assert isinstance(wire_key, str)
    assert len(wire_key.encode()) <= limit


@given(stems, short_texts, st.integers(126, 250), st.integers(1, 1000))
def test_a_key_over_the_limit_stays_over_it(stem, some, limit, more):
    """Its length counts in bytes. The client refuses it like the caller's own key."""
    key = cut(some * (limit + more + 3), limit + more + 3)
    wire_key = GenerationKeys(*stem, limit=limit).wire_key(key)
    assert wire_key == f"nsc:{stem[0]}:{base36(stem[1])}:{key}"


@pytest.mark.parametrize("kind", [str, str.encode])
@pytest.mark.parametrize(
    ("size", "wire_key"),
    [
        (242, f"nsc:a:1:{'x' * 242}"),
        (243, f"nsc:a:1~{'x' * 201}~{digest_of(b'x' * 243)}"),
        (249, f"nsc:a:1~{'x' * 201}~{digest_of(b'x' * 249)}"),
        (250, f"nsc:a:1~{'x' * 201}~{digest_of(b'x' * 250)}"),
        (251, f"nsc:a:1:{'x' * 251}"),
    ],
)
def test_the_wire_key_around_the_limit(size, wire_key, kind):
    """A digest replaces the end of a valid key that no longer fits."""
    assert GenerationKeys("a", 1).wire_key(kind("x" * size)) == kind(wire_key)
    assert len(wire_key) == 250 or size == 251


@pytest.mark.parametrize(
    ("character", "head_bytes"), [("é", 200), ("ÿ", 200), ("€", 201), ("😀", 200)]
)
def test_the_head_ends_with_a_whole_character(character, head_bytes):
    key = cut(character * 250, 250)
    _, head, digest = GenerationKeys("a", 1).wire_key(key).split("~")
    assert set(head) == {character}
    assert len(head.encode()) == head_bytes
    assert digest == digest_of(key.encode())


@given(stems, texts)
def test_text_stays_text_and_bytes_stay_bytes(stem, key):
    """Text and bytes that are equal give equal wire keys."""
    keys = GenerationKeys(*stem)
    wire_key, raw_wire_key = keys.wire_key(key), keys.wire_key(key.encode())
    assert isinstance(wire_key, str)
    assert isinstance(raw_wire_key, bytes)
    assert wire_key.encode() == raw_wire_key


@given(stems, callers_keys)
def test_parse_takes_an_items_key_apart(stem, key):
    namespace, number = stem
    raw = as_bytes(key)
    parsed = parse(as_bytes(GenerationKeys(namespace, number).wire_key(key)))
    if parsed.digest is None:
        assert parsed == ParsedKey(namespace, number, raw)
    else:
        head = parsed.key
        assert raw.startswith(head)
        assert parsed == ParsedKey(namespace, number, head, digest_of(raw))


@given(namespaces)
def test_parse_takes_a_counters_key_apart(namespace):
    assert parse(counter_key(namespace).encode()) == ParsedKey(namespace)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"k",
        b":1:k",
        b"nsc",
        b"nsc:",
        b"nsc::1:k",
        b"nsc:a:",
        b"nsc:a:1",
        b"nsc:a::k",
        b"nsc:a:A:k",
        b"nsc:a:1;k",
        b"nsc:a b:1:k",
        "nsc:é:1:k".encode(),
        b"nsc:a:1~k",
        b"nsc:a:1~k~" + b"0" * 39,
        b"nsc:a:1~k~" + b"0" * 41,
        b"nsc:a:1~k~" + b"F" * 40,
        b"NSC:a:1:k",
        b" nsc:a:1:k",
        b"nsc:a\n",
    ],
)
def test_parse_returns_none_for_other_keys(key):
    assert parse(key) is None


@given(st.integers(0, 2**64))
def test_int_reads_base36(number):
    text = base36(number)
    assert int(text, 36) == number
    assert text == text.lower()
    assert text == "0" or not text.startswith("0")


@pytest.mark.parametrize(
    "end", ["\0", "\x01", "\t", "\n", "\v", "\r", "\x1f", " ", "\x7f"]
)
@pytest.mark.parametrize("kind", [str, str.encode])
@pytest.mark.parametrize("where", ["{}k", "k{}k", "k{}"])
def test_a_key_that_ends_early_is_refused_where_asked(where, kind, end):
    key = kind(where.format(end))
    with pytest.raises(ValueError, match="ends") as caught:
        GenerationKeys("a", 1, refuse_key_ends=True).wire_key(key)
    assert str(caught.value) == (
        f"Cache key {key!r} has a space or a control character, which ends a key early "
        f"in memcached's text protocol."
    )
    prefix = kind("nsc:a:1:")
    assert GenerationKeys("a", 1).wire_key(key) == prefix + key


@pytest.mark.parametrize("character", ["!", "~", "\x80", "é"])
def test_other_characters_end_no_key(character):
    wire_key = GenerationKeys("a", 1, refuse_key_ends=True).wire_key(f"k{character}k")
    assert wire_key == f"nsc:a:1:k{character}k"


@pytest.mark.parametrize("key", ["\ud800", "k\udfffk"])
def test_lone_surrogates_have_no_bytes(key):
    with pytest.raises(UnicodeEncodeError) as caught:
        GenerationKeys("a", 1).wire_key(key)
    at = next(i for i, character in enumerate(key) if character != "k")
    assert str(caught.value) == (
        f"'utf-8' codec can't encode character {key[at]!a} in position {at}: "
        f"surrogates not allowed"
    )


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (None, "NoneType"),
        (1, "int"),
        (1.5, "float"),
        (("k",), "tuple"),
        (bytearray(b"k"), "bytearray"),
    ],
)
def test_a_value_that_is_not_a_key_is_refused(key, kind):
    with pytest.raises(TypeError) as caught:
        GenerationKeys("a", 1).wire_key(key)
    assert str(caught.value) == f"A cache key is str or bytes, not {kind}: {key!r}"


def test_a_limit_that_leaves_no_room_for_a_key_is_refused():
    """A long key_prefix of the client may leave so little."""
    with pytest.raises(NamespaceError) as caught:
        GenerationKeys("a" * 32, 2**60, limit=80)
    assert str(caught.value) == (
        f"Namespace '{'a' * 32}' takes 50 bytes of a key and 41 for what is long, but "
        f"the client's key_prefix leaves 80 of 250: shorten either."
    )


def outcomes_of(act):
    try:
        return act()
    except (TypeError, ValueError) as error:
        return type(error), str(error)


@given(many=st.lists(callers_keys | st.just(5), max_size=4), refuse=st.booleans())
@example(many=["a", "b c"], refuse=True)
@example(many=["a\n", "b"], refuse=True)
@example(many=["a", "x" * 250], refuse=False)
@example(many=["a", "é"], refuse=False)
@example(many=["a", b"b"], refuse=False)
def test_many_keys_get_the_same_wire_keys_as_single_keys(many, refuse):
    keys = GenerationKeys("a", 1, refuse_key_ends=refuse)
    one_by_one = outcomes_of(lambda: [keys.wire_key(key) for key in many])
    assert outcomes_of(lambda: keys.wire_keys(many)) == one_by_one
