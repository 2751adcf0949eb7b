"""Two namespaces and a bare neighbour on one server never see each other's keys."""

import contextlib
import operator

import pylibmc
import pymemcache
import pytest

from namespaced_cache.core import identity
from namespaced_cache.errors import NamespaceError
from tests.support.commands import MANY_KEYS, ONE_KEY


@pytest.fixture
def behaviors(client) -> dict:
    """Options that pylibmc needs for `gets` and `cas`."""
    return {"behaviors": {"cas": True}} if client == "pylibmc" else {}


@pytest.fixture
def bare(bare, behaviors):
    bare._options.update(behaviors)
    return bare


@pytest.fixture
def shop(build, behaviors):
    return build(OPTIONS={"NAMESPACE": "shop", **behaviors})


@pytest.fixture
def blog(build, behaviors):
    return build(OPTIONS={"NAMESPACE": "blog", **behaviors})


#: The arguments for each command of the real clients, for key "k".
CALLS = {
    **dict.fromkeys(("set", "add", "replace", "append", "prepend"), ("k", "mine")),
    **dict.fromkeys(("incr", "decr", "touch"), ("k", 1)),
    **dict.fromkeys(("get", "gets", "delete"), ("k",)),
    "cas": ("k", "mine", 1),
    **{command: ({"k": "mine"},) for command in ("set_many", "set_multi", "add_multi")},
    **{
        command: (["k"],)
        for command in ("get_many", "get_multi", "gets_many", "gets_multi")
    },
    **{command: (["k"],) for command in ("delete_many", "delete_multi", "incr_multi")},
}


def test_every_command_is_called():
    assert CALLS.keys() == ONE_KEY | MANY_KEYS


@pytest.mark.parametrize("command", CALLS)
def test_no_command_reads_or_touches_a_bare_key(command, shop, bare):
    bare._cache.set("k", 5)
    if not hasattr(bare._cache, command):
        assert not hasattr(shop._cache, command)
        return
    # pylibmc raises if the key does not exist.
    with contextlib.suppress(pylibmc.NotFound):
        assert getattr(shop._cache, command)(*CALLS[command]) in (
            *(None, False, True, {}, [], (None, None)),
        )
    assert bare._cache.get("k") == 5


#: All ways to store "mine" under "k", with Django's methods and with raw commands.
STORES = [
    lambda cache: cache.set("k", "mine"),
    lambda cache: cache.add("k", "mine"),
    lambda cache: cache.set_many({"k": "mine"}),
    lambda cache: cache.get_or_set("k", "mine"),
]
RAW_STORES = [
    lambda raw: raw.set("k", "mine"),
    lambda raw: raw.add("k", "mine"),
    lambda raw: raw.set_multi({"k": "mine"}),
    lambda raw: raw.set(b"k", "mine"),
]
RAW_STORES_BY_CLIENT = {
    "pymemcache": [lambda raw: raw.set_many({"k": "mine"})],
    "pylibmc": [
        lambda raw: raw.add_multi({"k": "mine"}),
        lambda raw: raw.set_multi({"": "mine"}, key_prefix="k"),
        lambda raw: operator.setitem(raw, "k", "mine"),
    ],
}

#: All ways to read "k" with a raw client. Each returns a false value on a miss.
RAW_READS = [
    lambda raw: raw.get("k"),
    lambda raw: raw.get(b"k"),
    lambda raw: raw.gets("k")[0],
    lambda raw: raw.get_multi(["k"]),
    lambda raw: raw.get_multi([b"k"]),
    lambda raw: raw.touch("k", 100),
    lambda raw: raw.delete("k"),
    lambda raw: raw.replace("k", "x"),
]
RAW_READS_BY_CLIENT = {
    "pymemcache": [
        lambda raw: raw.get_many(["k"]),
        lambda raw: raw.get_many(["k"], gets=True),
        lambda raw: raw.gets_many(["k"]),
        lambda raw: raw.append("k", "x"),
        lambda raw: raw.prepend("k", "x"),
        lambda raw: raw.incr("k", 1),
        lambda raw: raw.cas("k", "x", 1),
    ],
    "pylibmc": [
        lambda raw: raw.get_multi([""], key_prefix="k"),
        lambda raw: raw.delete_multi(["k"]),
        lambda raw: "k" in raw,
    ],
}


def raw_reads(client):
    return RAW_READS + RAW_READS_BY_CLIENT[client]


@pytest.mark.parametrize("store", STORES)
def test_no_other_cache_reads_an_item(store, client, shop, blog, bare):
    store(shop)
    assert shop.get("k") == "mine"
    for other in (blog, bare):
        assert other.get("k", "miss") == "miss"
        assert other.get_many(["k"]) == {}
        assert "k" not in other
        assert other.delete("k") is False
        assert other.touch("k") is False
        with pytest.raises(ValueError, match="not found"):
            other.incr("k")
    for read in raw_reads(client):
        # The key as the wrapped backend makes it.
        assert not read(blog._cache)
        assert not read(bare._cache)
    assert shop.get("k") == "mine"


def test_no_other_client_reads_a_raw_item(client, shop, blog, bare):
    for store in RAW_STORES + RAW_STORES_BY_CLIENT[client]:
        shop.clear()
        store(shop._cache)
        assert shop._cache.get("k") == "mine"
        for read in raw_reads(client):
            assert not read(blog._cache)
            assert not read(bare._cache)
        assert shop._cache.get("k") == "mine"


def test_no_namespace_reads_an_item_of_the_neighbour(client, shop, blog, bare):
    bare._cache.set("k", "theirs")
    for read in raw_reads(client):
        assert not read(shop._cache)
        assert not read(blog._cache)
    assert bare._cache.get("k") == "theirs"


def test_no_command_reads_an_invalidated_item(client, shop):
    for store in RAW_STORES + RAW_STORES_BY_CLIENT[client]:
        for read in raw_reads(client):
            store(shop._cache)
            shop.invalidate_namespace()
            assert not read(shop._cache)
            shop._cache.delete("k")


@pytest.mark.parametrize(
    "invalidate",
    [
        lambda cache: cache.clear(),
        lambda cache: cache._cache.flush_all(),
        lambda cache: cache.invalidate_namespace(),
    ],
)
def test_clear_and_flush_all_leave_others_keys(invalidate, shop, blog, bare):
    for cache in (shop, blog, bare):
        cache.set("k", cache.__class__.__name__)
        cache._cache.set("raw", "raw")
    invalidate(shop)
    assert shop.get("k") is None
    assert shop._cache.get("raw") is None
    for other in (blog, bare):
        assert other.get("k") == other.__class__.__name__
        assert other._cache.get("raw") == "raw"


def test_a_stale_token_swaps_nothing_after_an_invalidation(shop):
    shop._cache.set("k", 1)
    _, token = shop._cache.gets("k")
    shop.invalidate_namespace()
    # pylibmc raises instead.
    with contextlib.suppress(pylibmc.NotFound):
        assert not shop._cache.cas("k", 2, token)
    assert shop._cache.get("k") is None


def test_aliases_that_share_a_name_share_a_namespace(build):
    first, second = (build(OPTIONS={"NAMESPACE": "shared"}) for _ in range(2))
    first.set("k", 1)
    assert second.get("k") == 1
    second.invalidate_namespace()
    assert first.get("k") is None


def test_a_process_that_becomes_a_worker_changes_its_namespace(
    build, start, monkeypatch
):
    """Both counters hold the same number."""
    cache = build(start().location, OPTIONS={"NAMESPACE": "shop"})
    cache._cache.wrapped.set("nsc:shop", 10**18)
    cache._cache.wrapped.set("nsc:shop.gw1", 10**18)
    cache.set("k", "parent's")
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    identity.begin_epoch()
    assert cache.get("k") is None
    cache.set("k", "worker's")
    monkeypatch.delenv("PYTEST_XDIST_WORKER")
    identity.begin_epoch()
    assert cache.get("k") == "parent's"


def test_the_counter_is_out_of_reach_of_the_namespace(shop):
    """The client makes every key the key of an item."""
    raw = shop._cache
    for key in (raw.counter.key, raw.counter.key.encode(), ""):
        raw.set(key, "rubbish")
        assert raw.get(key) == "rubbish"
    assert shop.generation == raw.counter.latest


KEYS_THAT_END_EARLY = ["a b", "a\nb", "a\r\nflush_all", "a\x00b", " k", "k\t"]


@pytest.mark.parametrize("key", KEYS_THAT_END_EARLY)
def test_every_command_refuses_a_raw_key_that_would_end_early(key, client, shop, bare):
    """The rest would be a second key, outside of any namespace, or a command."""
    bare._cache.set("b", "theirs")
    generation = shop.generation
    for form in (key, key.encode()):
        for command in (
            lambda raw, key: raw.get(key),
            lambda raw, key: raw.set(key, 1),
            lambda raw, key: raw.get_multi(["a", key]),
            lambda raw, key: raw.set_multi({key: 1}),
            lambda raw, key: raw.delete_multi([key]),
            lambda raw, key: raw.incr(key, 1),
            lambda raw, key: raw.touch(key, 1),
        ):
            with pytest.raises(client_error(client)):
                command(shop._cache, form)
    assert bare._cache.get("b") == "theirs"
    assert shop.generation == generation


def client_error(client):
    return {
        "pymemcache": pymemcache.MemcacheIllegalInputError,
        "pylibmc": ValueError,
    }[client]


def test_rubbish_in_the_counter_serves_no_item(shop, bare):
    shop.set("k", 1)
    bare._cache.set(shop._cache.counter.key, "rubbish")
    with pytest.raises(NamespaceError, match="holds 'rubbish'"):
        shop.get("k")
