"""The two ways not to look at the counter: MAX_STALENESS and pinned_generation()."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller

import pytest
from asgiref.sync import sync_to_async
from conftest import BACKENDS, bare_cache, our_cache
from django.core.cache import caches
from django.test import override_settings

from namespaced_cache import NamespaceUnavailable, generation, invalidate_namespaces
from namespaced_cache.generation import Counter

#: Seconds that a bounded alias of these tests trusts what it knows.
WINDOW = 60


class Clock:
    """The time by which a generation grows stale; it stands until a test sets it on."""

    now = 1000.0
    time_ns = staticmethod(time.time_ns)

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(generation, "time", clock)
    return clock


@pytest.fixture
def bounded(build, clock):  # noqa: ARG001  # its time stands
    """An alias of this test's namespace with a MAX_STALENESS."""
    return build(OPTIONS={"MAX_STALENESS": WINDOW})


@pytest.fixture
def other(build):
    """A strict alias of the same namespace as another process has it.

    It learns nothing from the aliases of this process, nor they from it.
    """
    return as_another_process(build())


def as_another_process(cache):
    mine = cache._cache.counter
    theirs = Counter(mine.namespace, mine.server)
    cache._cache._find_counter = lambda: theirs
    return cache


def in_a_thread(act):
    """Do it in a thread of its own and return what it returns."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


def run_script(code, *arguments):
    """Run code in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


#: Each way to forget a namespace, that one cache has.
WAYS_TO_FORGET = [
    methodcaller("invalidate_namespace"),
    methodcaller("clear"),
    lambda cache: cache._cache.flush_all(),
    lambda cache: asyncio.run(cache.ainvalidate_namespace()),
    lambda cache: asyncio.run(cache.aclear()),
]
forget = pytest.mark.parametrize(
    "forget",
    WAYS_TO_FORGET,
    ids=["invalidate_namespace", "clear", "flush_all", "ainvalidate", "aclear"],
)

#: Verbs that leave an item "w", and answer nothing of it.
WRITES = {
    "set": lambda cache: cache.set("w", "written"),
    "add": lambda cache: cache.add("w", "written"),
    "set_many": lambda cache: cache.set_many({"w": "written"}),
    "get_or_set": lambda cache: cache.get_or_set("w", "written"),
    "aset": lambda cache: asyncio.run(cache.aset("w", "written")),
    "raw set": lambda cache: cache._cache.set(cache.make_key("w"), "written"),
}
write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)

#: Verbs that give back the item "k", or None.
READS = {
    "get": lambda cache: cache.get("k"),
    "get_many": lambda cache: cache.get_many(["k"]).get("k"),
    "aget": lambda cache: asyncio.run(cache.aget("k")),
    "raw get": lambda cache: cache._cache.get(cache.make_key("k")),
}
read = pytest.mark.parametrize("read", READS.values(), ids=READS)


# MAX_STALENESS.


def test_within_the_window_nothing_looks_at_the_counter(bounded, clock):
    """Who looked would find it gone, and seed it."""
    bounded.set_many({"k": "v", "n": 1})
    real, key = bounded._cache.wrapped, bounded._cache.counter.key
    real.delete(key)
    clock.now += WINDOW - 0.001
    assert [read(bounded) for read in READS.values()] == ["v"] * len(READS)
    for write in WRITES.values():
        write(bounded)
    assert bounded.incr("n") == 2
    assert bounded.touch("n") is True
    assert bounded.delete("n") is True
    assert bounded.get("n") is None
    assert real.get(key) is None
    clock.now += 0.001
    assert bounded.get("k") is None
    bounded.set("k", "v")
    assert real.get(key) == bounded._cache.counter.known


@read
def test_another_process_invalidation_is_read_when_the_window_ends(
    bounded, other, clock, read
):
    bounded.set("k", "old")
    other.invalidate_namespace()
    other.set("k", "new")
    clock.now += WINDOW - 0.001
    assert read(bounded) == "old"
    clock.now += 0.001
    assert read(bounded) == "new"


@write
def test_another_process_invalidation_is_written_after_when_the_window_ends(
    bounded, other, clock, write
):
    assert bounded.get("k") is None
    other.invalidate_namespace()
    clock.now += WINDOW - 0.001
    write(bounded)
    assert other.get("w") is None
    clock.now += 0.001
    write(bounded)
    assert other.get("w") == "written"


def after_a_loss(ask):
    """Make the counter be lost before it is asked for."""

    def lose_and_ask(cache):
        cache._cache.wrapped.delete(cache._cache.counter.key)
        ask(cache)

    return lose_and_ask


ASKING = {
    "generation": lambda cache: cache.generation,
    "get": methodcaller("get", "k"),
    "set": methodcaller("set", "k", "v"),
    "invalidate_namespace": methodcaller("invalidate_namespace"),
    "pinned_generation": lambda cache: cache.pinned_generation().__enter__(),
}
ASKING |= {
    f"{name}, lost": after_a_loss(ask)
    for name, ask in ASKING.items()
    if name != "get"  # which finds nothing then, and asks no more
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_the_window_begins_when_the_question_was_asked(
    bounded, other, clock, monkeypatch, ask
):
    """The answer may be as old as that; here each takes 50 seconds to come."""
    assert bounded.generation
    clock.now += WINDOW
    real = bounded._cache.wrapped
    asked = []

    def slow(verb):
        def asking(*args):
            asked.append(clock.now)
            answer = verb(*args)
            clock.now += 50
            return answer

        return asking

    with monkeypatch.context() as patch:
        for name in {"get", "get_many", "get_multi", "incr"} & set(dir(real)):
            patch.setattr(real, name, slow(getattr(real, name)))
        contextvars.copy_context().run(ask, bounded)
    assert clock.now == asked[-1] + 50
    other.invalidate_namespace()
    other.set("k", "new")
    clock.now = asked[-1] + WINDOW - 0.001
    assert bounded.get("k") != "new"
    clock.now = asked[-1] + WINDOW
    assert bounded.get("k") == "new"


@pytest.mark.parametrize("how", ["get", "set"])
def test_one_look_when_the_window_ends_begins_the_next(build, proxy, clock, how):
    cache = build(proxy.location, OPTIONS={"MAX_STALENESS": WINDOW})
    cache.set("k", "v")

    def trips():
        """What each of three writes takes."""
        return [proxy.during(lambda: cache.set("k", "v")) for _ in range(3)]

    assert trips() == [1, 1, 1]
    clock.now += WINDOW
    if how == "get":
        assert proxy.during(lambda: cache.get("k")) == 1
        assert trips() == [1, 1, 1]
    else:
        assert trips() == [2, 1, 1]
    clock.now += WINDOW - 0.001
    assert trips() == [1, 1, 1]
    clock.now += 0.001
    assert trips() == [2, 1, 1]


@forget
@read
def test_this_process_invalidation_is_read_at_once_everywhere(
    build, server, clock, forget, read
):
    """By each alias on the counter, of either client, and in each thread."""
    options = {"MAX_STALENESS": WINDOW}
    aliases = [
        our_cache(path, server.location, OPTIONS=options) for path in BACKENDS.values()
    ]
    for cache in aliases:
        cache.set("k", b"old")
        assert read(cache) == b"old"
        forget(build(OPTIONS=options))
        for alias in aliases:
            assert read(alias) is None
            assert in_a_thread(lambda alias=alias: read(alias)) is None
    assert clock.now == Clock.now
    for cache in aliases:
        cache.close()


@pytest.fixture(params=[{}, {"MAX_STALENESS": WINDOW}], ids=["strict", "bounded"])
def forgetter(build, request):
    """An alias on the counter that another thread has."""
    return build(OPTIONS=request.param)


def overtake(monkeypatch, client, names, act):
    """Do something once, after the client has done the first of these verbs.

    Return a list, empty until then.
    """
    done = []

    def overtaken(verb):
        def do(*args):
            try:
                return verb(*args)
            finally:
                if not done:
                    done.append(True)
                    act()

        return do

    for name in names:
        monkeypatch.setattr(client, name, overtaken(getattr(client, name)))
    return done


@write
def test_a_write_that_this_process_invalidation_overtakes_is_not_lost(
    bounded, forgetter, other, monkeypatch, write
):
    """Another thread's invalidation returned before the write did."""
    bounded.get("warm")
    forgotten = overtake(
        monkeypatch,
        bounded._cache.wrapped,
        ["set", "add", "set_multi"],
        lambda: in_a_thread(forgetter.invalidate_namespace),
    )
    write(bounded)
    assert forgotten
    assert bounded.get("w") == "written"
    assert other.get("w") == "written"


def test_an_error_that_this_process_invalidation_overtakes_is_not_the_callers(
    bounded, forgetter, monkeypatch
):
    """`incr` found nothing in a generation that was dead when it returned."""

    def renew():
        forgetter.invalidate_namespace()
        forgetter.set("n", 5)

    bounded.get("warm")
    overtake(monkeypatch, bounded._cache.wrapped, ["incr"], lambda: in_a_thread(renew))
    assert bounded.incr("n") == 6


def test_a_strict_alias_beside_a_bounded_one_stays_strict(bounded, cache, other):
    """And what it sees, the bounded one knows."""
    bounded.set("k", "old")
    for number in range(3):
        other.invalidate_namespace()
        other.set("k", number)
        assert bounded.get("k") != number
        assert cache.get("k") == number
        cache.set("w", number)
        assert other.get("w") == number
        assert bounded.get("k") == number


@pytest.mark.parametrize("nothing", [0, 0.0])
def test_a_staleness_of_nothing_is_strict(build, other, clock, nothing):
    cache = build(OPTIONS={"MAX_STALENESS": nothing})
    cache.set("k", "old")
    other.invalidate_namespace()
    assert cache.get("k") is None
    other.invalidate_namespace()
    cache.set("w", "written")
    assert other.get("w") == "written"
    assert clock.now == Clock.now


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_clone_trusts_for_as_long(bounded, other, clock):
    clone = bounded._cache.clone()
    clone.set("raw", "old")
    other.invalidate_namespace()
    assert clone.get("raw") == "old"
    clock.now += WINDOW
    assert clone.get("raw") is None


def test_an_outage_within_the_window_is_the_clients_affair(build, client, start, clock):
    """Reads and writes do what they do on the bare backend, and the window ends."""
    server = start()
    options = {"MAX_STALENESS": WINDOW}
    cache = build(server.location, OPTIONS=options)
    bare = bare_cache(BACKENDS[client], server.location)
    for each in (cache, bare):
        each.set("k", "old")
    number = cache.generation
    server.kill()
    clock.now += WINDOW - 2

    def outcomes(cache):
        """Twice, because first a connection breaks, then none is to be had."""
        for act in (lambda: cache.set("k", 1), lambda: cache.get("k", "miss")) * 2:
            try:
                yield act()
            except Exception as error:  # noqa: BLE001  # whichever it is
                yield type(error)

    assert list(outcomes(cache)) == list(outcomes(bare))
    for act in (cache.invalidate_namespace, lambda: cache.generation):
        with pytest.raises(NamespaceUnavailable):
            act()
    server.start()
    # Another thread's client, which knows of no outage; the counter is the process's.
    again = build(server.location, OPTIONS=options)
    clock.now += 1
    assert again.get("k") is None
    again.set("k", "new")
    assert again.get("k") == "new"
    clock.now += 1
    assert again.get("k") is None
    assert again.generation > number
    bare.close()


def test_a_counter_that_another_process_seeds_within_the_window(bounded, other, clock):
    """Nothing comes back, and both end in one generation."""
    bounded.set("k", "old")
    bounded._cache.wrapped.delete(bounded._cache.counter.key)
    other.set("k", "new")
    assert bounded.get("k") == "old"
    clock.now += WINDOW
    assert bounded.get("k") == "new"
    assert bounded.generation == other.generation


BUMPING = """
import sys
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache

cache = NamespacedCache(sys.argv[2], {"OPTIONS": {"WRAPPED_BACKEND": sys.argv[1]}})
print(cache.invalidate_namespace())
"""


def test_a_real_process_invalidation_is_seen_by_the_real_clock(build, backend, server):
    cache = build(OPTIONS={"MAX_STALENESS": 0.2})
    cache.set("k", "old")
    number = int(run_script(BUMPING, backend, server.location))
    time.sleep(0.2)
    assert cache.get("k") is None
    assert cache.generation == number


FORKING = """
import os, sys
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache, generation

class time(generation.time.__class__):
    now = 1000
    monotonic = staticmethod(lambda: time.now)
    time_ns = staticmethod(generation.time.time_ns)

generation.time = time
options = {"WRAPPED_BACKEND": sys.argv[1], "MAX_STALENESS": 60}
cache = NamespacedCache(sys.argv[2], {"OPTIONS": options})

def forked(act):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.close(writer)
        os.read(reader, 1)
        act()
        os._exit(0)
    os.close(reader)
    return child, writer

def ends(child, writer):
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0

def sees_it_a_window_later():
    assert cache.get("k") == "old"
    time.now += 60
    assert cache.get("k") is None

cache.set("k", "old")
child = forked(sees_it_a_window_later)
cache.invalidate_namespace()
assert cache.get("k") is None
ends(*child)
cache.set("k", "old")
ends(*forked(cache.invalidate_namespace))
sees_it_a_window_later()
print("ok")
"""


def test_a_fork_within_the_window_makes_two_that_see_each_other_when_it_ends(
    backend, server
):
    assert run_script(FORKING, backend, server.location) == "ok\n"


# What another thread learns while this one asks whether it may trust.


def test_a_number_is_never_younger_than_its_confirmation(clock):
    """`trusted` takes no lock, so whatever it sees between two steps must be right."""
    seen = []

    class Watched(Counter):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if vars(self).keys() >= {"known", "_asked"}:
                seen.append(self.trusted(WINDOW))

    counter = Watched("shop", "127.0.0.1:1")
    counter._learn(101, clock.now)
    clock.now += WINDOW
    seen.clear()
    counter._learn(102, clock.now)
    assert 101 not in seen
    assert seen[-1] == 102


def test_a_number_that_is_overtaken_while_its_age_is_read_is_not_trusted(clock):
    class Overtaken(Counter):
        @property
        def known(self):
            number = vars(self)["known"]
            if number == 101 and clock.now == later:
                self._learn(102, later)
            return number

        @known.setter
        def known(self, number):
            vars(self)["known"] = number

    later = clock.now + WINDOW
    counter = Overtaken("shop", "127.0.0.1:1")
    counter._learn(101, clock.now)
    assert counter.trusted(WINDOW) == 101
    clock.now = later
    assert counter.trusted(WINDOW) is None


# pinned_generation().


async def awaited(act):
    """Do it in a thread, as async code calls sync code."""
    return await sync_to_async(act)()


def keeps_to_the_generation_of_its_start(cache, other, number):
    assert number == other.generation
    other.invalidate_namespace()
    other.set("k", "new")
    for read in READS.values():
        assert read(cache) == "old"
    for write in WRITES.values():
        write(cache)
        assert cache.get("w") == "written"
        assert other.get("w") is None
        cache.delete("w")
    cache.set("w", "written")


def is_pinned_no_more(cache):
    for read in READS.values():
        assert read(cache) == "new"
    assert cache.get("w") is None


def test_a_block_keeps_to_the_generation_of_its_start(cache, other):
    cache.set("k", "old")
    with cache.pinned_generation() as number:
        keeps_to_the_generation_of_its_start(cache, other, number)
    is_pinned_no_more(cache)


def test_an_async_block_keeps_to_the_generation_of_its_start(cache, other):
    cache.set("k", "old")

    async def use():
        async with cache.pinned_generation() as number:
            assert number == await awaited(lambda: other.generation)
            await other.ainvalidate_namespace()
            await other.aset("k", "new")
            assert await cache.aget("k") == "old"
            assert await cache.aget_many(["k"]) == {"k": "old"}
            assert await cache.ahas_key("k") is True
            assert await cache.aadd("k", "older") is False
            await cache.aset("w", 1)
            assert await cache.aincr("w") == 2
            assert await cache.atouch("w") is True
            assert await cache.aget_or_set("x", "written") == "written"
            assert await cache.adelete("k") is True
            assert await cache.aset_many({"y": "written"}) == []
            assert await awaited(lambda: cache.get("y")) == "written"
            assert cache._cache.get(cache.make_key("y")) == "written"
            assert await other.aget_many(["k", "w", "x", "y"]) == {"k": "new"}
        assert await cache.aget_many(["k", "w", "x", "y"]) == {"k": "new"}

    asyncio.run(use())


def test_a_block_takes_one_round_trip_at_its_start_and_none_after(build, proxy):
    cache = build(proxy.location)
    cache.set("n", 1)
    block = cache.pinned_generation()
    assert proxy.during(block.__enter__) == 1
    assert proxy.during(lambda: cache.set("k", "v")) == 1
    assert proxy.during(lambda: cache.get("k")) == 1
    assert proxy.during(lambda: cache.incr("n")) == 1
    assert proxy.during(lambda: block.__exit__(None, None, None)) == 0
    assert proxy.during(lambda: cache.set("k", "v")) == 2


def test_nothing_in_a_block_looks_at_the_counter(cache):
    """Who looked would find it gone, and seed it."""
    real, key = cache._cache.wrapped, cache._cache.counter.key
    with cache.pinned_generation() as number:
        real.delete(key)
        for write in WRITES.values():
            write(cache)
        assert cache.get_many(["w", "k"]) == {"w": "written"}
        assert real.get(key) is None
        # An invalidation seeds it, and moves the block there.
        assert cache.invalidate_namespace() > number
        assert cache.get("w") is None
        cache.set("w", "anew")
    assert cache.get("w") == "anew"


def test_the_generation_on_the_server_can_be_asked_for_in_a_block(cache, other):
    with cache.pinned_generation() as number:
        assert cache.generation == number
        assert other.invalidate_namespace() == number + 1
        assert cache.generation == number + 1
        cache.set("k", "written")
        assert other.get("k") is None


@forget
def test_an_invalidation_in_a_block_moves_it(cache, other, forget):
    cache.set("k", "old")
    with cache.pinned_generation() as number:
        other.invalidate_namespace()
        forget(cache)
        assert cache.get("k") is None
        cache.set("k", "new")
        assert other.get("k") == "new"
        assert cache.generation == number + 2
        # It is pinned there.
        other.invalidate_namespace()
        assert cache.get("k") == "new"


def test_an_invalidation_by_another_alias_in_a_block_moves_it(build, other):
    cache, alias = build(), build()
    with cache.pinned_generation():
        alias.invalidate_namespace()
        cache.set("k", "new")
        assert other.get("k") == "new"


def test_an_invalidation_of_all_aliases_in_a_block_moves_it(backend, server, other):
    setting = {
        "BACKEND": "namespaced_cache.NamespacedCache",
        "LOCATION": server.location,
        "OPTIONS": {"WRAPPED_BACKEND": backend},
    }
    with override_settings(CACHES={"default": setting, "second": setting}):
        with caches["default"].pinned_generation() as number:
            generations = invalidate_namespaces()
            assert generations == dict.fromkeys(["default", "second"], number + 1)
            for alias in ("default", "second"):
                caches[alias].set(alias, "new")
                assert other.get(alias) == "new"
        caches.close_all()


def test_a_write_that_an_invalidation_in_its_block_overtakes_is_not_lost(
    cache, other, monkeypatch
):
    """As one by a task that was started in the block."""
    real = cache._cache.wrapped
    forgotten = overtake(monkeypatch, real, ["set"], cache.invalidate_namespace)
    with cache.pinned_generation():
        cache.set("k", "written")
        assert cache.get("k") == "written"
    assert forgotten
    assert other.get("k") == "written"


def test_an_inner_block_reads_anew_and_gives_the_outer_back(cache, other):
    cache.set("k", "old")
    with cache.pinned_generation() as outer:
        other.invalidate_namespace()
        other.set("k", "new")
        with cache.pinned_generation() as inner:
            assert inner == outer + 1
            assert cache.get("k") == "new"
        assert cache.get("k") == "old"
    assert cache.get("k") == "new"


@pytest.mark.parametrize("depth", [2, 4])
def test_an_invalidation_in_an_inner_block_moves_the_outer_ones_as_well(cache, depth):
    cache.set("k", "old")
    blocks = [cache.pinned_generation() for _ in range(depth)]
    for block in blocks:
        block.__enter__()
    cache.invalidate_namespace()
    cache.set("k", "new")
    for block in reversed(blocks):
        assert cache.get("k") == "new"
        block.__exit__(None, None, None)
    assert cache.get("k") == "new"


def test_blocks_that_do_not_end_in_order_end_each_for_itself(cache, other):
    first, second = cache.pinned_generation(), cache.pinned_generation()
    first.__enter__()
    other.invalidate_namespace()
    other.set("k", "second")
    second.__enter__()
    other.invalidate_namespace()
    first.__exit__(None, None, None)
    assert cache.get("k") == "second"
    second.__exit__(None, None, None)
    assert cache.get("k") is None


def test_aliases_of_the_namespace_are_pinned_and_others_are_not(build, start, server):
    """Whichever client they use; and the same name on another server is another."""
    elsewhere = start().location
    shop = {"NAMESPACE": "shop"}
    cache, second = (build(OPTIONS=shop), build(OPTIONS={**shop, "MAX_STALENESS": 60}))
    by_client = [
        our_cache(path, server.location, OPTIONS=shop) for path in BACKENDS.values()
    ]
    free = [build(OPTIONS={"NAMESPACE": "bar"}), build(elsewhere, OPTIONS=shop)]
    caches = [cache, second, *by_client, *free]
    strangers = [
        as_another_process(build(location, OPTIONS={"NAMESPACE": name}))
        for location, name in [(None, "shop"), (None, "bar"), (elsewhere, "shop")]
    ]
    with cache.pinned_generation():
        for stranger in strangers:
            stranger.invalidate_namespace()
        for each in caches:
            each.set("k", b"written")
            assert each.get("k") == b"written"
        assert [each.get("k") for each in strangers] == [None, b"written", b"written"]
    for each in caches:
        each.close()


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_clone_is_pinned_as_well(cache, other):
    clone = cache._cache.clone()
    with cache.pinned_generation():
        other.invalidate_namespace()
        clone.set("raw", "written")
        assert clone.get("raw") == "written"
        assert other._cache.get("raw") is None


def test_a_block_of_a_bounded_alias_begins_with_a_look(bounded, other, clock):
    """And it is the pin that counts in it, not the window."""
    bounded.set("k", "old")
    other.invalidate_namespace()
    other.set("k", "new")
    assert bounded.get("k") == "old"
    with bounded.pinned_generation() as number:
        assert number == other.generation
        assert bounded.get("k") == "new"
        other.invalidate_namespace()
        clock.now += WINDOW
        assert bounded.get("k") == "new"
    assert bounded.get("k") is None


def test_threads_are_not_pinned(cache, other):
    """Neither one that was started before the block, nor one started in it."""
    cache.set("k", "old")
    with ThreadPoolExecutor(1) as before:
        before.submit(cache.get, "k").result()
        with cache.pinned_generation():
            other.invalidate_namespace()
            other.set("k", "new")
            assert before.submit(cache.get, "k").result() == "new"
            assert in_a_thread(lambda: cache.get("k")) == "new"
            assert cache.get("k") == "old"


def test_an_invalidation_in_another_thread_leaves_the_block_where_it_is(cache):
    cache.set("k", "old")
    with cache.pinned_generation():
        in_a_thread(cache.invalidate_namespace)
        assert cache.get("k") == "old"
        cache.set("w", "late")
        assert in_a_thread(lambda: cache.get("w")) is None
    assert cache.get("w") is None


def test_a_thread_that_is_given_the_context_is_pinned(cache, other):
    """And an invalidation in it moves the block that it comes from."""
    cache.set("k", "old")
    with cache.pinned_generation():
        other.invalidate_namespace()
        context = contextvars.copy_context()
        assert in_a_thread(lambda: context.run(cache.get, "k")) == "old"
        in_a_thread(lambda: context.run(cache.invalidate_namespace))
        assert cache.get("k") is None
        cache.set("k", "new")
    assert cache.get("k") == "new"


def test_two_threads_have_each_a_block_of_their_own(build, cache, other):
    def use(cache, value):
        with cache.pinned_generation():
            cache.set("k", value)
            yield
            yield cache.get("k")

    first, second = use(build(), "first"), use(build(), "second")
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        one.submit(next, first).result()
        other.invalidate_namespace()
        two.submit(next, second).result()
        other.invalidate_namespace()
        assert one.submit(list, first).result() == ["first"]
        assert two.submit(list, second).result() == ["second"]
    assert cache.get("k") is None


def test_tasks_that_start_in_a_block_are_pinned_for_as_long_as_they_run(cache, other):
    cache.set("k", "old")

    async def use():
        ended = asyncio.Event()

        async def late():
            """Outlive the block."""
            await ended.wait()
            await cache.aset("w", "late")
            return await cache.aget("k")

        async with cache.pinned_generation():
            await other.ainvalidate_namespace()
            await other.aset("k", "new")
            task = asyncio.create_task(late())
            gathered = await asyncio.gather(*(cache.aget("k") for _ in range(3)))
            assert gathered == ["old"] * 3
        assert await cache.aget("k") == "new"
        ended.set()
        assert await task == "old"
        assert await cache.aget("w") is None
        assert await other.aget("w") is None

    asyncio.run(use())


def test_tasks_that_start_outside_a_block_are_not_pinned(cache, other):
    cache.set("k", "old")

    async def use():
        pinned, asked = asyncio.Event(), asyncio.Event()

        async def sibling():
            await pinned.wait()
            found = await cache.aget("k")
            asked.set()
            return found

        task = asyncio.create_task(sibling())
        async with cache.pinned_generation():
            await other.ainvalidate_namespace()
            await other.aset("k", "new")
            pinned.set()
            await asked.wait()
            assert await cache.aget("k") == "old"
        assert await task == "new"

    asyncio.run(use())


def test_a_tasks_own_block_is_not_its_parents(cache, other):
    async def use():
        begun, end = asyncio.Event(), asyncio.Event()

        async def child():
            async with cache.pinned_generation():
                begun.set()
                await end.wait()
                return await cache.aget("k")

        task = asyncio.create_task(child())
        await begun.wait()
        await other.ainvalidate_namespace()
        await other.aset("k", "new")
        assert await cache.aget("k") == "new"
        end.set()
        assert await task is None

    asyncio.run(use())


def test_an_invalidation_in_a_task_moves_the_block_that_it_comes_from(cache, other):
    cache.set("k", "old")

    async def use():
        async with cache.pinned_generation():
            await other.ainvalidate_namespace()
            await asyncio.create_task(cache.ainvalidate_namespace())
            assert await cache.aget("k") is None
            await cache.aset("k", "new")
        assert await other.aget("k") == "new"

    asyncio.run(use())


def test_a_block_may_begin_in_one_task_and_end_in_another(cache, other):
    """As an asynchronous fixture does; it pins the one where it began."""

    async def use():
        block = cache.pinned_generation()

        async def begin():
            await block.__aenter__()
            await other.ainvalidate_namespace()
            await cache.aset("k", "dead")
            return await cache.aget("k")

        assert await asyncio.create_task(begin()) == "dead"
        assert await cache.aget("k") is None
        await block.__aexit__(None, None, None)
        assert await cache.aget("k") is None

    asyncio.run(use())


class LeavingError(Exception):
    """What ends a block."""


def test_an_exception_leaves_the_block_and_goes_on(cache, other):
    def leave():
        with cache.pinned_generation():
            other.invalidate_namespace()
            assert cache.get("k") == "old"
            raise LeavingError

    async def aleave():
        async with cache.pinned_generation():
            await other.ainvalidate_namespace()
            assert await cache.aget("k") == "old"
            raise LeavingError

    async def aleave_and_look():
        with pytest.raises(LeavingError):
            await aleave()
        assert await cache.aget("k") is None

    cache.set("k", "old")
    with pytest.raises(LeavingError):
        leave()
    assert cache.get("k") is None
    cache.set("k", "old")
    asyncio.run(aleave_and_look())


TWICE = r"^A pinned_generation\(\) is entered once; make another\.$"


def test_a_block_is_not_entered_within_itself(cache, other):
    """And the refusal leaves it as it was."""
    cache.set("k", "old")
    with cache.pinned_generation() as number:
        assert number
    block = cache.pinned_generation()
    with block:
        other.invalidate_namespace()
        with pytest.raises(RuntimeError, match=TWICE), block:
            pass
        assert cache.get("k") == "old"
    assert cache.get("k") is None


def test_a_block_is_not_entered_again(cache, other):
    block = cache.pinned_generation()
    with block:
        pass

    async def again():
        async with block:
            pass

    for enter in (block.__enter__, lambda: asyncio.run(again())):
        with pytest.raises(RuntimeError, match=TWICE):
            enter()
    other.invalidate_namespace()
    cache.set("k", "v")
    assert other.get("k") == "v"


def test_without_a_server_nothing_is_pinned(build, start):
    server = start()
    cache, again = (build(server.location) for _ in range(2))
    other = as_another_process(build(server.location))
    assert cache.generation
    server.kill()
    block = cache.pinned_generation()

    async def enter():
        await block.__aenter__()

    for attempt in (block.__enter__, lambda: asyncio.run(enter())):
        with pytest.raises(NamespaceUnavailable) as caught:
            attempt()
        assert str(caught.value).startswith(
            f"Namespace {cache.namespace!r} on {server.location}: no answer from the "
            f"server ("
        )
    server.start()
    # With clients that know of no outage.
    again.set("k", "old")
    other.invalidate_namespace()
    assert again.get("k") is None
    # It was never entered, so it still may be.
    block._look = again.pinned_generation()._look
    with block as number:
        assert number == other.generation


def test_pins_do_not_pile_up(cache):
    for _ in range(3):
        with cache.pinned_generation(), cache.pinned_generation():
            assert len(generation._pins.get()) == 2
    assert generation._pins.get() == ()
