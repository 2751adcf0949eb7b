"""The pages state the true cost of each operation, counted with a real memcached."""

from __future__ import annotations

import asyncio
import operator
import re
import secrets
from functools import partial
from operator import attrgetter, methodcaller

import django
import pytest
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.test import override_settings

from namespaced_cache import get_namespaced, invalidate_namespaces, namespaced
from namespaced_cache.core import clock as clock_module
from namespaced_cache.proxy.delegation import HELPERS
from tests.support import ROOT
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.commands import MANY_KEYS, ONE_KEY
from tests.support.round_trips import CountingProxy
from tests.support.servers import Memcached
from tests.support.uses import Clock, as_another_process

#: The page with the costs of all methods and commands.
COSTS = (ROOT / "docs" / "costs.md").read_text()

README = (ROOT / "README.md").read_text()

MODES = ("bare", "strict", "bounded", "pinned")

#: Two numbers of keys for a command that takes many. They determine the rule.
FEW, MORE = 3, 7

#: pylibmc has `gets` and `cas` only with this option.
THEIRS = {"pymemcache": {}, "pylibmc": {"behaviors": {"cas": True}}}


def items(keys):
    return dict.fromkeys(keys, 1)


#: Django's methods, by their names in the page. The cache holds numbers under `keys`
#: and nothing under "new".
METHODS = {
    "`get`": lambda cache, keys: cache.get(keys[0]),
    "`get_many`": lambda cache, keys: cache.get_many(keys),
    "`has_key`": lambda cache, keys: cache.has_key(keys[0]),
    "`in`": lambda cache, keys: keys[0] in cache,
    "`get_or_set` (a hit)": lambda cache, keys: cache.get_or_set(keys[0], 1),
    "`clear`": lambda cache, _: cache.clear(),
    "`set`": lambda cache, keys: cache.set(keys[0], 1),
    "`add`": lambda cache, _: cache.add("new", 1),
    "`touch`": lambda cache, keys: cache.touch(keys[0]),
    "`delete`": lambda cache, keys: cache.delete(keys[0]),
    "`incr`": lambda cache, keys: cache.incr(keys[0]),
    "`decr`": lambda cache, keys: cache.decr(keys[0]),
    "`set_many`": lambda cache, keys: cache.set_many(items(keys)),
    "`delete_many`": lambda cache, keys: cache.delete_many(keys),
    "`get_or_set` (a miss)": lambda cache, _: cache.get_or_set("new", 1),
    "`incr_version`": lambda cache, keys: cache.incr_version(keys[0]),
    "`decr_version`": lambda cache, keys: cache.decr_version(keys[0]),
}


class AsyncMethods:
    """The asynchronous methods of a cache, under their synchronous names."""

    def __init__(self, cache):
        self._cache = cache

    def __getattr__(self, name):
        return getattr(self._cache, f"a{name}")


def asynchronous(call):
    return lambda cache, keys: call(AsyncMethods(cache), keys)


ASYNC_METHODS = {
    name.replace("`", "`a", 1): asynchronous(call)
    for name, call in METHODS.items()
    if name != "`in`"  # an operator has no asynchronous form
}

#: The client's commands, if it has them. A wrong token costs the same as a right one.
RAW_COMMANDS = {
    "`_cache.get`": lambda raw, keys: raw.get(keys[0]),
    "`_cache.gets`": lambda raw, keys: raw.gets(keys[0]),
    "`_cache.get_many`": lambda raw, keys: raw.get_many(keys),
    "`_cache.get_multi`": lambda raw, keys: raw.get_multi(keys),
    "`_cache.gets_many`": lambda raw, keys: raw.gets_many(keys),
    "`_cache.gets_multi`": lambda raw, keys: raw.gets_multi(keys),
    "`_cache.flush_all`": lambda raw, _: raw.flush_all(),
    "`_cache.set`": lambda raw, keys: raw.set(keys[0], 1),
    "`_cache.add`": lambda raw, _: raw.add("new", 1),
    "`_cache.replace`": lambda raw, keys: raw.replace(keys[0], 1),
    "`_cache.append`": lambda raw, keys: raw.append(keys[0], b"1"),
    "`_cache.prepend`": lambda raw, keys: raw.prepend(keys[0], b"1"),
    "`_cache.cas`": lambda raw, keys: raw.cas(keys[0], 1, 1),
    "`_cache.touch`": lambda raw, keys: raw.touch(keys[0], 9),
    "`_cache.delete`": lambda raw, keys: raw.delete(keys[0]),
    "`_cache.incr`": lambda raw, keys: raw.incr(keys[0], 1),
    "`_cache.decr`": lambda raw, keys: raw.decr(keys[0], 1),
    "`_cache[key]`": lambda raw, keys: raw[keys[0]],
    "`_cache[key] = …`": lambda raw, keys: operator.setitem(raw, keys[0], 1),
    "`del _cache[key]`": lambda raw, keys: operator.delitem(raw, keys[0]),
    "`key in _cache`": lambda raw, keys: keys[0] in raw,
    "`_cache.set_many`": lambda raw, keys: raw.set_many(items(keys)),
    "`_cache.set_multi`": lambda raw, keys: raw.set_multi(items(keys)),
    "`_cache.add_multi`": lambda raw, keys: raw.add_multi(items(keys)),
    "`_cache.delete_many`": lambda raw, keys: raw.delete_many(keys),
    "`_cache.delete_multi`": lambda raw, keys: raw.delete_multi(keys),
    "`_cache.incr_multi`": lambda raw, keys: raw.incr_multi(keys),
}


def bare_name(name: str) -> str:
    """Return the name of the method or command, without what the page adds."""
    return re.sub(r"`|_cache\.| \(.*", "", name)


def twin(name: str) -> str:
    """Return the name of the Django method that does the same, or `name`."""
    if name in ASYNC_METHODS:
        return "`" + name.removeprefix("`a")
    command = bare_name(name).replace("_multi", "_many").replace("flush_all", "clear")
    return f"`{command}`" if f"`{command}`" in METHODS else name


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def tables(text: str) -> list[str]:
    return re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)


def table(*rows) -> str:
    rows = (rows[0], ["---"] * len(rows[0]), *rows[1:])
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


# Each method and command, in a process that has read the counter.


def call(name: str, cache, keys) -> None:
    if name in METHODS:
        METHODS[name](cache, keys)
    elif name in ASYNC_METHODS:
        asyncio.run(ASYNC_METHODS[name](cache, keys))
    else:
        RAW_COMMANDS[name](cache._cache, [cache.make_key(key) for key in keys])


def rule(proxy, cache, name: str) -> str:
    """Return what a command costs with n keys, as the page writes it."""
    counts = []
    for number in (FEW, MORE):
        keys = [f"k{index}" for index in range(number)]
        cache.set_many(items(keys))
        cache.delete("new")
        counts.append(trips([proxy], partial(call, name, cache, keys)))
    return written(*(linear(*amounts) for amounts in zip(*counts, strict=True)))


def trips(proxies, act) -> tuple[int, int]:
    """Return how many round trips `act()` takes, and how many reads in parallel."""
    before = [(proxy.count, proxy.parallel) for proxy in proxies]
    act()
    after = [(proxy.count, proxy.parallel) for proxy in proxies]
    return tuple(map(sum, zip(*map(difference, after, before), strict=True)))


def difference(after, before):
    return after[0] - before[0], after[1] - before[1]


def linear(few: int, more: int) -> str:
    """Return the number for n keys, of the numbers for FEW and for MORE keys."""
    each, remainder = divmod(more - few, MORE - FEW)
    assert remainder == 0
    rest = few - each * FEW
    keys = {0: "", 1: "n"}.get(each, f"{each}n")
    return f"{keys} + {rest}" if keys and rest else keys or str(rest)


def written(count: object, parallel: object) -> str:
    return f"{count} (and {parallel})" if str(parallel) != "0" else str(count)


def counted(proxy):
    """Return the costs of each command in MODES, by its name and by the client.

    All caches live until the end, because a client that is freed may say `quit`.
    """
    costs: dict[str, dict[str, tuple[str, ...]]] = {}
    alive = []
    for client, path in BACKENDS.items():
        theirs = THEIRS[client]
        ours = {**theirs, "NAMESPACE": client}
        bare = bare_cache(path, proxy.location, OPTIONS=theirs)
        strict = our_cache(path, proxy.location, OPTIONS=ours)
        bounded = our_cache(
            path, proxy.location, OPTIONS={**ours, "MAX_STALENESS": 3600}
        )
        alive += [bare, strict, bounded]
        for name in (*METHODS, *ASYNC_METHODS, *RAW_COMMANDS):
            attribute = "__getitem__" if "key" in name else bare_name(name)
            if name in RAW_COMMANDS and not hasattr(bare._cache, attribute):
                continue
            unpinned = [rule(proxy, cache, name) for cache in (bare, strict, bounded)]
            with strict.pinned_generation():
                pinned = rule(proxy, strict, name)
            costs.setdefault(name, {})[client] = (*unpinned, pinned)
    for cache in alive:
        cache.close()
    return costs


@pytest.fixture(scope="module")
def costs():
    server = Memcached()  # its own server, because the bare `clear` empties it
    proxy = CountingProxy(server.port)
    yield counted(proxy)
    proxy.close()
    server.close()


#: The bare HashClient takes one round trip for each key.
BATCHED = {"`delete_many`", "`_cache.delete_many`", "`_cache.delete_multi`"}
if django.VERSION >= (6, 1):  # before 6.1, it calls `adelete` for each key
    BATCHED |= {"`adelete_many`"}


@pytest.mark.parametrize("name", [*METHODS, *ASYNC_METHODS, *RAW_COMMANDS])
def test_a_command_without_a_counter_read_costs_the_same_as_bare(costs, name):
    for client, (bare, _, bounded, pinned) in costs[name].items():
        if client == "pymemcache" and name in BATCHED:
            assert (bare, bounded, pinned) == ("n", "1", "1")
        else:
            assert bare == bounded == pinned


def table_of(costs, names, client) -> str:
    """Write the page's table: commands with equal costs share a row.

    A command that costs the same as its twin has no entry.
    """
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        cost = costs[name].get(client)
        if cost and (twin(name) == name or costs[twin(name)].get(client) != cost):
            bare, strict, _, pinned = cost
            rows.setdefault((bare, strict, pinned), []).append(name)
    head = ("command", "bare", "strict", "bounded or pinned")
    return table(head, *((", ".join(commands), *row) for row, commands in rows.items()))


@pytest.mark.parametrize(("place", "client"), [*enumerate(BACKENDS)])
def test_the_page_has_the_cost_of_each_command(costs, place, client):
    names = [name for name in costs if name not in ASYNC_METHODS]
    right = table_of(costs, names, client)
    assert tables(COSTS)[place : place + 1] == [right], f"The right table:\n{right}"


@pytest.mark.parametrize(("place", "client"), [*enumerate(BACKENDS, start=2)])
def test_the_page_has_the_costs_of_async_methods(costs, place, client):
    """They cost the same as their twins. Before Django 6.1, some work key by key."""
    right = table_of(costs, ASYNC_METHODS, client)
    if django.VERSION < (6, 1):
        assert tables(COSTS)[place : place + 1] == [right], f"The right table:\n{right}"
    else:
        assert right == table_of(costs, [], client)


def test_every_method_of_django_is_counted():
    commands = {name for name, member in vars(BaseCache).items() if callable(member)}
    commands = {name for name in commands if not name.startswith("_")} - HELPERS
    assert {bare_name(name) for name in (*METHODS, *ASYNC_METHODS)} == (
        commands - {"close", "aclose"} | {"in"}
    )


@pytest.mark.parametrize("client", BACKENDS)
def test_every_command_of_the_client_is_counted(costs, bare, client):
    commands = (ONE_KEY | MANY_KEYS | {"flush_all"}) & set(dir(bare._cache))
    if hasattr(bare._cache, "__getitem__"):
        commands |= {
            "_cache[key]",
            "_cache[key] = …",
            "del _cache[key]",
            "key in _cache",
        }
    names = {name for name in RAW_COMMANDS if client in costs.get(name, {})}
    assert {bare_name(name) for name in names} == commands


# Exceptions to the rule.


def warm(cache, _):
    cache.set("k", 1)


def first_of_a_process(cache, clock):
    warm(cache, clock)
    as_another_process(cache)


def lost(cache, clock):
    warm(cache, clock)
    cache._cache.wrapped.delete(cache._cache.counter.key)


def first_of_all(cache, clock):
    lost(cache, clock)
    as_another_process(cache)


def invalidated(cache, clock):
    """Another process has invalidated, and this one has not read the counter since."""
    warm(cache, clock)
    cache._cache.wrapped.incr(cache._cache.counter.key, 1)


def late(cache, clock):
    warm(cache, clock)
    clock.now += WINDOW


def invalidated_and_late(cache, clock):
    invalidated(cache, clock)
    clock.now += WINDOW


#: Seconds for which the bounded aliases of these tests trust the latest generation.
WINDOW = 60
STRICT: dict = {}
BOUNDED = {"MAX_STALENESS": WINDOW}

#: By the page's words: the preparation, the mode, and the number of servers.
OCCASIONS = {
    "strict": (warm, STRICT, 1),
    "strict, first in a process": (first_of_a_process, STRICT, 1),
    "strict, first in the namespace, whose counter it seeds": (first_of_all, STRICT, 1),
    "strict, after the counter was lost": (lost, STRICT, 1),
    "strict, after another process's invalidation": (invalidated, STRICT, 1),
    "strict, on several servers": (warm, STRICT, 3),
    "bounded": (warm, BOUNDED, 1),
    "bounded, when `MAX_STALENESS` is over": (late, BOUNDED, 1),
    "bounded, when it is over, after another process's invalidation": (
        invalidated_and_late,
        BOUNDED,
        1,
    ),
    "bounded, on several servers": (warm, BOUNDED, 3),
}


@pytest.fixture
def proxies(start):
    """Three proxies, each in front of its own memcached."""
    counting: list[CountingProxy] = []
    for _ in range(3):
        counting.append(CountingProxy(start().port, *counting[:1]))
    yield counting
    for proxy in counting:
        proxy.close()


def test_the_page_has_the_other_costs_of_an_operation(proxies, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(clock_module, "monotonic", clock.monotonic)

    alive = []  # a client that is freed may say `quit`

    def largest(client, how, act):
        """Return the largest cost. With several servers it depends on the key."""
        prepare, options, servers = how
        cache = our_cache(
            BACKENDS[client],
            [proxy.location for proxy in proxies[:servers]],
            OPTIONS={"NAMESPACE": secrets.token_hex(8), **options},
        )
        keys, counts = ["k"], []
        if servers > 1:
            keys = [f"k{number}" for number in range(20)]
            cache.get_many(keys)  # this opens a connection to each server
        for key in keys:
            prepare(cache, clock)
            counts.append(trips(proxies, partial(act, cache, key)))
        alive.append(cache)
        return written(*max(counts))

    acts = {
        "get": lambda cache, key: cache.get(key),
        "set": lambda cache, key: cache.set(key, 1),
    }
    columns = [(client, command) for client in BACKENDS for command in acts]
    rows = [
        (words, *(largest(client, how, acts[command]) for client, command in columns))
        for words, how in OCCASIONS.items()
    ]
    head = ("an operation", *(f"`{command}`, {client}" for client, command in columns))
    right = table(head, *rows)
    for cache in alive:
        cache.close()
    assert tables(COSTS)[4:5] == [right], f"The right table:\n{right}"


def test_many_keys_on_several_servers_take_one_round_trip_for_each_server(
    build, proxies
):
    cache = build([proxy.location for proxy in proxies])
    keys = [str(number) for number in range(50)]
    cache.set_many(items(keys))
    assert trips(proxies, lambda: cache.get_many(keys)) == (3, 1)


def in_a_block(cache):
    with cache.pinned_generation():
        pass


#: The README's names of our additions, and how each is used.
OURS = {
    "cache.invalidate_namespace()": methodcaller("invalidate_namespace"),
    "await cache.ainvalidate_namespace()": (
        lambda cache: asyncio.run(cache.ainvalidate_namespace())
    ),
    "cache.namespace": attrgetter("namespace"),
    "cache.generation": attrgetter("generation"),
    "cache.pinned_generation()": in_a_block,
    "cache.wrapped": attrgetter("wrapped"),
    "cache._cache.wrapped": attrgetter("_cache.wrapped"),
    "namespaced(CACHES, **options)": lambda _: namespaced(
        caches.settings, NAMESPACE="a"
    ),
    'get_namespaced(alias="default")': lambda _: get_namespaced(),
    "invalidate_namespaces(using=None)": lambda _: invalidate_namespaces(),
}


def test_the_readme_has_the_costs_of_our_own_names(backend, proxy):
    """Two aliases share a namespace, and a third has its own."""
    rows = re.findall(
        r"^\| `(.*?)` \|.*\| (\d)(?: for each namespace)? \|$",
        tables(section("What you can do with it"))[0],
        re.MULTILINE,
    )
    assert [name for name, _ in rows] == list(OURS)

    def alias(**options):
        options["WRAPPED_BACKEND"] = backend
        return {
            "BACKEND": "namespaced_cache.NamespacedCache",
            "LOCATION": proxy.location,
            "OPTIONS": options,
        }

    setting = {"default": alias(), "same": alias(), "own": alias(NAMESPACE="own")}
    with override_settings(CACHES=setting):
        invalidate_namespaces()
        for name, trips in rows:
            namespaces = 2 if name.startswith("invalidate_namespaces") else 1
            act = partial(OURS[name], caches["default"])
            assert proxy.during(act) == int(trips) * namespaces, name
        caches.close_all()


@pytest.mark.parametrize("mode", [{}, {"MAX_STALENESS": 60}])
@pytest.mark.parametrize(
    "act",
    [
        methodcaller("make_key", "k"),
        methodcaller("close"),
        repr,
        methodcaller("__dir__"),
    ],
    ids=["make_key", "close", "repr", "dir"],
)
def test_a_call_that_needs_no_server_makes_no_round_trip(build, proxy, mode, act):
    cache = build(proxy.location, OPTIONS=mode)
    cache.set("k", 1)
    assert proxy.during(lambda: act(cache)) == 0
