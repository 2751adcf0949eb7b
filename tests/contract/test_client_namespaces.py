"""A pylibmc client with a `namespace` of its own has fewer bytes left for a key."""

from __future__ import annotations

import pytest

from tests.support.caches import BACKENDS, bare_cache, our_cache


@pytest.fixture
def client():
    return "pylibmc"


@pytest.fixture(params=[False, True], ids=["text", "binary"])
def pair(request, backend, server):
    """A namespaced cache and a bare one, whose clients add the same text to keys."""
    binary = request.param

    def open_both(namespace):
        options = {"binary": binary, "behaviors": {"namespace": namespace}}
        ours = our_cache(backend, server.location, OPTIONS=options)
        bare = bare_cache(backend, server.location, OPTIONS=options)
        return ours._cache, bare._cache

    return open_both


def outcome(act, raw, key):
    """Return the answer, or that there is an error.

    pylibmc raises ValueError for what exceeds 250 bytes, and libmemcached raises errors
    of its own for what exceeds them with its namespace.
    """
    try:
        return act(raw, key)
    except Exception:  # noqa: BLE001  # it is compared
        return "raises"


ACTS = {
    "set": lambda raw, key: raw.set(key, "v"),
    "get": lambda raw, key: raw.get(key),
    "add": lambda raw, key: raw.add(key, "v"),
    "set_multi": lambda raw, key: raw.set_multi({key: "w"}),
    "get_multi": lambda raw, key: raw.get_multi([key]),
    "incr": lambda raw, key: raw.incr(key, 1),
    "touch": lambda raw, key: raw.touch(key, 60),
    "delete": lambda raw, key: raw.delete(key),
}


@pytest.mark.parametrize("namespace", [b"s", b"site:", b"n" * 100])
def test_keys_around_the_limit_behave_as_on_the_bare_client(pair, namespace):
    """Each of them, whether a digest replaces its tail or not."""
    ours, bare = pair(namespace)
    limit = 250 - len(namespace)
    for length in (1, 100, *range(limit - 6, limit + 1), *range(245, 251), 251, 300):
        key = "k" * length
        for name, act in ACTS.items():
            got, expected = (outcome(act, raw, key) for raw in (ours, bare))
            # A read of a key above the limit may also find nothing: libmemcached's
            # `get_multi` with the text protocol raises no error.
            nothing = ("raises", {}, None)
            is_read = name in ("get", "get_multi")
            if not (is_read and length > limit and got in nothing):
                assert got == expected, (length, name)


@pytest.mark.parametrize("namespace", [b"site:", b"n" * 100])
def test_long_keys_that_differ_at_their_ends_are_two(pair, namespace):
    ours, _ = pair(namespace)
    stem = "k" * (250 - len(namespace) - 1)
    assert ours.set_multi({f"{stem}a": 1, f"{stem}b": 2}) == []
    assert ours.get_multi([f"{stem}a", f"{stem}b"]) == {f"{stem}a": 1, f"{stem}b": 2}


@pytest.mark.parametrize("binary", [False, True])
def test_djangos_longest_keys_work(server, binary):
    options = {"binary": binary, "behaviors": {"namespace": b"site:"}}
    cache = our_cache(BACKENDS["pylibmc"], server.location, OPTIONS=options)
    for length in range(230, 243):  # behind ":1:"
        cache.set("k" * length, length)
        assert cache.get("k" * length) == length
