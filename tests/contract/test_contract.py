"""The contract of Django's memcached backends, for the bare backend and for ours.

Each test runs four times: for both clients, bare and wrapped. The behaviour of the bare
backend is Django's, so ours must be the same. Django says nothing about raw commands,
so these are compared with the bare client's answers.
"""

import asyncio
import inspect
import operator
import time
from functools import partial

import pylibmc
import pymemcache
import pytest
from django.core.cache.backends.base import BaseCache, InvalidCacheKey
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.utils.module_loading import import_string


@pytest.fixture(params=["bare", "ours"])
def cache(request, bare, build):
    return bare if request.param == "bare" else build()


# Methods.


def test_get_returns_the_value_or_the_default(cache):
    cache.set("k", {"any": ["value", 1, None]})
    assert cache.get("k") == {"any": ["value", 1, None]}
    assert cache.get("none") is None
    assert cache.get("none", "default") == "default"


@pytest.mark.parametrize("value", [None, "", b"", 0, False, "ünï", b"\x00\xff", 2**70])
def test_a_value_is_returned_as_it_was_stored(cache, value):
    cache.set("k", value)
    assert cache.get("k", "default") == value
    assert cache.get_many(["k"]) == {"k": value}
    assert "k" in cache


def test_set_replaces_and_add_does_not(cache):
    cache.set("k", 1)
    assert cache.add("k", 2) is False
    assert cache.get("k") == 1
    cache.set("k", 3)
    assert cache.get("k") == 3
    assert cache.add("new", 4) is True
    assert cache.get("new") == 4


def test_delete_returns_whether_the_key_existed(cache):
    cache.set("k", 1)
    assert cache.delete("k") is True
    assert cache.delete("k") is False
    assert cache.get("k") is None


def test_touch_returns_whether_the_key_existed(cache):
    cache.set("k", 1, timeout=2)  # memcached's clock ticks each second: 1 may be none
    assert cache.touch("k", 60) is True
    assert cache.touch("none") is False
    time.sleep(2.1)
    assert cache.get("k") == 1


def test_an_item_expires_after_its_timeout(cache):
    cache.set("k", 1, timeout=2)  # see above
    cache.set("for-ever", 1, timeout=None)
    assert cache.get("k") == 1
    time.sleep(2.1)
    assert cache.get("k") is None
    assert cache.get("for-ever") == 1


@pytest.mark.parametrize("timeout", [0, -5])
def test_a_timeout_in_the_past_stores_nothing(cache, timeout):
    cache.set("k", 1, timeout=timeout)
    assert cache.get("k") is None


def test_incr_and_decr_change_a_number(cache):
    cache.set("k", 40)
    assert cache.incr("k") == 41
    assert cache.incr("k", 10) == 51
    assert cache.decr("k") == 50
    assert cache.incr("k", -1) == 49
    assert cache.get("k") == 49


def test_incr_of_a_missing_key_names_the_callers_key(cache):
    for method in (cache.incr, cache.decr):
        with pytest.raises(ValueError, match=r"^Key ':1:none' not found$"):
            method("none")


def test_many_items_are_stored_read_and_deleted(cache):
    assert cache.set_many({"a": 1, "b": 2, "c": 3}) == []
    assert cache.get_many(["a", "b", "none"]) == {"a": 1, "b": 2}
    assert cache.get_many(key for key in ["c"]) == {"c": 3}
    cache.delete_many(["a", "none"])
    assert cache.get_many(["a", "b", "c"]) == {"b": 2, "c": 3}
    assert cache.get_many([]) == {}
    assert cache.set_many({}) == []
    cache.delete_many([])


def test_get_or_set_stores_the_value_that_it_returns(cache):
    assert cache.get_or_set("k", lambda: 5) == 5
    assert cache.get_or_set("k", 6) == 5
    assert cache.get("k") == 5


def test_in_and_has_key_find_an_item(cache):
    cache.set("k", 1)
    assert "k" in cache
    assert cache.has_key("k")
    assert "none" not in cache


def test_versions_are_separate(cache):
    cache.set("k", "one")
    cache.set("k", "two", version=2)
    assert cache.get("k") == "one"
    assert cache.get("k", version=2) == "two"
    assert cache.get_many(["k"], version=2) == {"k": "two"}
    assert cache.incr_version("k") == 2
    assert cache.get("k", version=2) == "one"
    assert cache.get("k") is None
    assert cache.decr_version("k", version=2) == 1
    assert cache.get("k") == "one"


#: The sync and the async method.
CLEARS = [
    lambda cache: cache.clear(),
    lambda cache: asyncio.run(cache.aclear()),
]


@pytest.mark.parametrize("clear", CLEARS)
def test_clear_removes_all_items(cache, clear):
    cache.set_many({"a": 1, "b": 2})
    assert clear(cache) is None
    assert cache.get_many(["a", "b"]) == {}


def test_async_methods_do_what_sync_methods_do(cache):
    async def use():
        await cache.aset("k", 1)
        assert await cache.aget("k") == 1
        assert await cache.aadd("k", 2) is False
        assert await cache.aincr("k", 2) == 3
        assert await cache.adecr("k") == 2
        assert await cache.ahas_key("k")
        assert await cache.atouch("k", 5)
        assert await cache.aset_many({"a": 1}) == []
        assert await cache.aget_many(["a", "k"]) == {"a": 1, "k": 2}
        assert await cache.aincr_version("a") == 2
        assert await cache.adecr_version("a", version=2) == 1
        assert await cache.aget_or_set("b", 5) == 5
        assert await cache.adelete("b") is True
        await cache.adelete_many(["a"])
        assert await cache.aget("a") is None
        await cache.aclose()

    asyncio.run(use())


# Keys.


def test_make_key_is_the_same_as_in_production(cache):
    assert cache.make_key("k") == ":1:k"
    assert cache.make_key("k", version=7) == ":7:k"
    cache.key_prefix = "shop"
    cache.version = 3
    assert cache.make_key("k") == "shop:3:k"
    cache.key_func = lambda key, prefix, version: f"{key}|{prefix}|{version}"
    assert cache.make_key("k") == "k|shop|3"
    cache.set("k", 1)
    assert cache.get("k") == 1


METHODS = [
    lambda cache, key: cache.get(key),
    lambda cache, key: cache.set(key, 1),
    lambda cache, key: cache.add(key, 1),
    lambda cache, key: cache.delete(key),
    lambda cache, key: cache.touch(key),
    lambda cache, key: cache.incr(key),
    lambda cache, key: cache.get_many([key, "b"]),
    lambda cache, key: cache.set_many({key: 1, "b": 2}),
    lambda cache, key: cache.delete_many([key, "b"]),
]


@pytest.mark.parametrize("method", METHODS)
def test_a_key_over_250_characters_is_refused_with_djangos_words(cache, method):
    key = "k" * 248
    with pytest.raises(InvalidCacheKey) as caught:
        method(cache, key)
    assert str(caught.value) == (
        f"Cache key will cause errors if used with memcached: ':1:{key}' "
        f"(longer than 250)"
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", ["a b", "a\nb", "a\r\nflush_all", "\x00", "\x7f"])
def test_a_control_character_is_refused_with_djangos_words(cache, method, key):
    with pytest.raises(InvalidCacheKey) as caught:
        method(cache, key)
    assert str(caught.value) == (
        f"Cache key contains characters that will cause errors if used with "
        f"memcached: {':1:' + key!r}"
    )


@pytest.mark.parametrize("size", [180, 200, 246, 247])
def test_a_key_of_up_to_250_bytes_works(cache, size):
    keys = ["k" * (size - 1) + last for last in "ab"]
    cache.set_many(dict(zip(keys, [1, 2], strict=True)))
    assert cache.get_many(keys) == dict(zip(keys, [1, 2], strict=True))
    assert cache.incr(keys[1]) == 3
    assert cache.delete(keys[0]) is True
    assert [cache.get(key) for key in keys] == [None, 3]


def test_the_limit_counts_bytes(cache):
    fits, too_long = "é" * 123 + "e", "é" * 124
    cache.set(fits, 1)
    assert cache.get(fits) == 1
    with pytest.raises(Exception, match="too long"):
        cache.get(too_long)


# Values.


def test_a_failed_set_leaves_no_old_value(cache):
    cache.set("k", "small")
    with pytest.raises((pylibmc.TooBig, pymemcache.MemcacheServerError)):
        cache.set("k", "x" * (2 << 20))
    assert cache.get("k") is None


def test_set_many_returns_the_keys_that_failed(cache, monkeypatch):
    monkeypatch.setattr(
        cache._class, "set_multi", lambda _, values, *_rest: list(values)[:1]
    )
    assert cache.set_many({"a": 1, "b": 2}) == ["a"]


# The backend as an object.


def test_it_is_an_instance_of_productions_classes(cache, backend):
    for cls in (BaseCache, BaseMemcachedCache, import_string(backend)):
        assert isinstance(cache, cls)


def test_a_missing_attribute_is_missing(cache):
    assert not hasattr(cache, "nope")
    assert not hasattr(cache._cache, "nope")
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = cache._cache.nope


def test_every_method_has_djangos_signature(cache):
    for name, member in vars(BaseCache).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            bound = inspect.signature(getattr(cache, name))
            bare = inspect.signature(getattr(BaseMemcachedCache, name))
            assert list(bound.parameters) == list(bare.parameters)[1:], name


# Raw commands: ours answers like the bare client.


def raw_script(client):  # noqa: PLR0915
    """Calls on the raw client, in order, that both clients must answer alike."""
    yield lambda c: c.set("a", "1")
    yield lambda c: c.set(b"a", "2")
    yield lambda c: c.get("a")
    yield lambda c: c.get(b"a")
    yield lambda c: c.get("none")
    yield lambda c: c.get("none", "default")
    yield lambda c: c.set("a", "1", 100)
    yield lambda c: c.add("a", "2")
    yield lambda c: c.add("b", "2")
    yield lambda c: c.replace("b", b"3")
    yield lambda c: c.replace("none", b"3")
    yield lambda c: c.append("b", b"4")
    yield lambda c: c.prepend("b", b"2")
    yield lambda c: c.get("b")
    yield lambda c: c.append("none", b"4")
    yield lambda c: c.touch("b", 100)
    yield lambda c: c.touch("none", 100)
    yield lambda c: c.set("n", 5)
    yield lambda c: c.incr("n", 2)
    yield lambda c: c.decr("n", 3)
    yield lambda c: c.incr("none", 1)
    yield lambda c: c.incr("a-text", "no number")
    yield lambda c: c.get_multi(["a", b"b", "none"])
    yield lambda c: c.set_multi({"x": 1, b"y": 2})
    yield lambda c: c.set_multi({"x": 1}, 100)
    yield lambda c: c.get_multi(["x", "y"])
    yield lambda c: c.get_multi([])
    yield lambda c: c.delete_multi(["x", "none"])
    yield lambda c: c.get_multi(["x", "y"])
    yield lambda c: c.delete("a")
    yield lambda c: c.delete("a")
    yield lambda c: c["a"]
    yield lambda c: operator.setitem(c, "item", 1)
    yield lambda c: c["item"]
    yield lambda c: "item" in c
    yield lambda c: "none" in c
    yield lambda c: operator.delitem(c, "item")
    yield lambda c: operator.delitem(c, "item")
    yield lambda c: c["item"]
    yield lambda c: c.get(5)
    yield lambda c: c.get(None)
    yield lambda c: c.get("k" * 251)
    yield lambda c: c.set("k" * 251, 1)
    yield lambda c: c.get("k" * 250)
    yield lambda c: c.get("\udc80")
    yield lambda c: c.set("a")
    yield lambda c: c.get()
    yield lambda c: c.get_multi()
    yield lambda c: c.get_stats()[0][1]["version"]
    yield lambda c: c.no_such_command("a")
    yield lambda c: c.disconnect_all()
    if client == "pymemcache":
        # Bare pylibmc sends two keys and cannot read the answer.
        yield lambda c: c.get_multi(["a b"])
        yield lambda c: c.set("é", 1)
        yield lambda c: c.get("é")
        yield lambda c: c.set(key="a", value=1, expire=100, noreply=False)
        yield lambda c: c.get(key="a", default=5)
        yield lambda c: c.get_many(keys=["a"])
        yield lambda c: c.set_many(values={"m": 1})
        yield lambda c: c.delete_many(["m"])
        yield lambda c: c.gets("none")
        yield lambda c: c.gets("none", "default", "token")
        yield lambda c: c.cas("none", 1, 5)
        yield lambda c: c.cas("a", 1, 1)
        yield lambda c: c.gets_many(["none"])
        yield lambda c: c.get_many(["none"], True)  # noqa: FBT003
        yield lambda c: c.add_multi({"a": 1})
        yield lambda c: c.get_many(["a"], key_prefix="p")
        yield lambda c: c.set_many({"a": 1}, key_prefix="p")
    else:
        yield lambda c: c.gets("a")
        yield lambda c: c.set_multi({"p": 1}, key_prefix="pre-")
        yield lambda c: c.set_multi({"q": 1}, 100, b"pre-")
        yield lambda c: c.get_multi(["p", "q"], "pre-")
        yield lambda c: c.get_multi(["pre-p"])
        yield lambda c: c.add_multi({"p": 1, "r": 2}, key_prefix="pre-")
        yield lambda c: c.incr_multi(["p", "p", "r"], key_prefix="pre-", delta=5)
        yield lambda c: c.get_multi(["p", "r"], key_prefix="pre-")
        yield lambda c: c.incr_multi(["none", "nothing"])
        yield lambda c: c.delete_multi(["p"], key_prefix=b"pre-")
        yield lambda c: c.get_multi(["p", "r"], key_prefix="pre-")
        yield lambda c: c.get_multi(["p", "r"], key_prefix=None)
        yield lambda c: c.set_multi({"p": 1}, key_prefix=5)
        yield lambda c: c.set_multi({5: 1}, key_prefix="pre-")
        yield lambda c: c.delete_multi({"p": 1})
        yield lambda c: c.gets_many(["a"])
        yield lambda c: c.get_multi(["a"], gets=True)
        yield lambda c: c.set_multi({"a": 1}, 5, "p", time=9)
        yield lambda c: c.behaviors["cas"]
        yield lambda c: c.hash("a")


def outcome(call, client):
    """Return the call's answer, or the type of the error that it raises."""
    try:
        return call(client)
    except Exception as error:  # noqa: BLE001
        return type(error)


def test_raw_commands_answer_as_the_bare_client_does(client, build, bare):
    ours = build()
    script = raw_script(client)
    for number, call in enumerate(script):
        theirs = outcome(call, bare._cache)
        assert outcome(call, ours._cache) == theirs, f"call {number} of the script"


def test_gets_and_cas_swap_once(client, build, bare):
    """Applications use them for locks and counters on `cache._cache`."""
    behaviors = {"behaviors": {"cas": True}} if client == "pylibmc" else {}
    ours = build(OPTIONS=behaviors)
    bare._options.update(behaviors)
    for raw in (ours._cache, bare._cache):
        raw.set("k", 1)
        value, token = raw.gets("k")
        assert value == 1
        assert raw.cas("k", 2, token) is True
        assert raw.cas("k", 3, token) is False
        assert raw.get("k") == 2


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
def test_gets_many_and_get_many_return_tokens(cache):
    raw = cache._cache
    raw.set_many({"a": 1, "b": 2})
    for fetch in (raw.gets_many, partial(raw.get_many, gets=True)):
        found = fetch(["a", "b"])
        assert {key: value for key, (value, _) in found.items()} == {"a": 1, "b": 2}
        assert raw.cas("a", 1, found["a"][1]) is True
