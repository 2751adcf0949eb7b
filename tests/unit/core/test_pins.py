"""pinned_generation(): which code is pinned to which generation, and how long."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.test import override_settings

from namespaced_cache import NamespaceUnavailable, invalidate_namespaces
from namespaced_cache.core import clock as clock_module
from namespaced_cache.core import pins
from tests.support.caches import BACKENDS, our_cache
from tests.support.uses import (
    EACH_WAY_TO_INVALIDATE,
    READS,
    WRITES,
    Clock,
    as_another_process,
    in_a_thread,
    overtake,
)


@pytest.fixture
def other(build):
    """A strict alias of the test's namespace, as in another process."""
    return as_another_process(build())


async def awaited(act):
    """Call `act` in a thread, as async code calls sync code."""
    return await sync_to_async(act)()


def assert_pinned(cache, other, number):
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


def assert_not_pinned(cache):
    for read in READS.values():
        assert read(cache) == "new"
    assert cache.get("w") is None


def test_a_block_is_pinned_to_the_generation_at_its_start(cache, other):
    cache.set("k", "old")
    with cache.pinned_generation() as number:
        assert_pinned(cache, other, number)
    assert_not_pinned(cache)


def test_an_async_block_is_pinned_to_the_generation_at_its_start(cache, other):
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


def test_a_block_takes_one_round_trip_at_its_start_and_none_after(client, build, proxy):
    cache = build(proxy.location)
    cache.set("n", 1)
    block = cache.pinned_generation()
    assert proxy.during(block.__enter__) == 1
    assert proxy.during(lambda: cache.set("k", "v")) == 1
    assert proxy.during(lambda: cache.get("k")) == 1
    assert proxy.during(lambda: cache.incr("n")) == 1
    assert proxy.during(lambda: block.__exit__(None, None, None)) == 0
    before = proxy.parallel
    assert proxy.during(lambda: cache.set("k", "v")) == 1
    # pymemcache's counter read is pipelined.
    assert proxy.parallel - before == {"pymemcache": 0, "pylibmc": 1}[client]


def test_no_operation_in_a_block_reads_the_counter(cache):
    """A counter read would find the counter lost, and seed it."""
    real, key = cache._cache.wrapped, cache._cache.counter.key
    with cache.pinned_generation() as number:
        real.delete(key)
        for write in WRITES.values():
            write(cache)
        assert cache.get_many(["w", "k"]) == {"w": "written"}
        assert real.get(key) is None
        # An invalidation seeds the counter, and moves the pin to it.
        assert cache.invalidate_namespace() > number
        assert cache.get("w") is None
        cache.set("w", "anew")
    assert cache.get("w") == "anew"


def test_generation_is_the_live_one_even_in_a_block(cache, other):
    with cache.pinned_generation() as number:
        assert cache.generation == number
        assert other.invalidate_namespace() == number + 1
        assert cache.generation == number + 1
        cache.set("k", "written")
        assert other.get("k") is None


@EACH_WAY_TO_INVALIDATE
def test_an_invalidation_in_a_block_moves_the_pin(cache, other, invalidate):
    cache.set("k", "old")
    with cache.pinned_generation() as number:
        other.invalidate_namespace()
        invalidate(cache)
        assert cache.get("k") is None
        cache.set("k", "new")
        assert other.get("k") == "new"
        assert cache.generation == number + 2
        # It is pinned to the new generation.
        other.invalidate_namespace()
        assert cache.get("k") == "new"


def test_an_invalidation_by_another_alias_in_a_block_moves_the_pin(build, other):
    cache, alias = build(), build()
    with cache.pinned_generation():
        alias.invalidate_namespace()
        cache.set("k", "new")
        assert other.get("k") == "new"


def test_an_invalidation_of_all_aliases_in_a_block_moves_the_pin(
    backend, server, other
):
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
    """A task that was started in the block may invalidate like this."""
    real = cache._cache.wrapped
    invalidated = overtake(monkeypatch, real, ["set"], cache.invalidate_namespace)
    with cache.pinned_generation():
        cache.set("k", "written")
        assert cache.get("k") == "written"
    assert invalidated
    assert other.get("k") == "written"


class Invalidates:
    """A value that invalidates when it is pickled: first in the block, then outside."""

    def __init__(self, cache, other):
        self.caches = [cache, other]

    def __reduce__(self):
        while self.caches:  # the first time
            self.caches.pop(0).invalidate_namespace()
        return str, ("stale",)


@pytest.mark.parametrize("max_staleness", [0, 60])
def test_a_write_is_repeated_where_the_pin_has_moved(build, other, max_staleness):
    """The write ends in the pinned generation, although the live one is newer."""
    cache = build(OPTIONS={"MAX_STALENESS": max_staleness})
    with cache.pinned_generation() as number:
        cache.set("k", Invalidates(cache, other))
        assert cache.get("k") == "stale"
    assert other.generation == number + 2
    assert other.get("k") is None


def test_an_inner_block_reads_the_counter_and_restores_the_outer_pin(cache, other):
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
def test_an_invalidation_in_an_inner_block_moves_the_outer_pins_as_well(cache, depth):
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


def test_blocks_may_end_in_any_order(cache, other):
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
    """They may use either client.

    An equal name on another server is another namespace.
    """
    elsewhere = start().location
    shop = {"NAMESPACE": "shop"}
    cache, second = (build(OPTIONS=shop), build(OPTIONS={**shop, "MAX_STALENESS": 60}))
    by_client = [
        our_cache(path, server.location, OPTIONS=shop) for path in BACKENDS.values()
    ]
    free = [build(OPTIONS={"NAMESPACE": "bar"}), build(elsewhere, OPTIONS=shop)]
    aliases = [cache, second, *by_client, *free]
    strangers = [
        as_another_process(build(location, OPTIONS={"NAMESPACE": name}))
        for location, name in [(None, "shop"), (None, "bar"), (elsewhere, "shop")]
    ]
    with cache.pinned_generation():
        for stranger in strangers:
            stranger.invalidate_namespace()
        for alias in aliases:
            alias.set("k", b"written")
            assert alias.get("k") == b"written"
        assert [each.get("k") for each in strangers] == [None, b"written", b"written"]
    for cache in by_client:
        cache.close()


def test_an_invalidation_of_another_namespace_does_not_move_the_pin(
    cache, build, other
):
    another = build(OPTIONS={"NAMESPACE": "another"})
    cache.set("k", "old")
    with cache.pinned_generation():
        other.invalidate_namespace()
        another.invalidate_namespace()
        assert cache.get("k") == "old"


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_clone_is_pinned_as_well(cache, other):
    clone = cache._cache.clone()
    with cache.pinned_generation():
        other.invalidate_namespace()
        clone.set("raw", "written")
        assert clone.get("raw") == "written"
        assert other._cache.get("raw") is None


def test_a_block_of_a_bounded_alias_begins_with_a_counter_read(
    build, other, monkeypatch
):
    """In the block, the pin counts and MAX_STALENESS does not."""
    clock = Clock()
    monkeypatch.setattr(clock_module, "monotonic", clock.monotonic)
    bounded = build(OPTIONS={"MAX_STALENESS": 60})
    bounded.set("k", "old")
    other.invalidate_namespace()
    other.set("k", "new")
    assert bounded.get("k") == "old"
    with bounded.pinned_generation() as number:
        assert number == other.generation
        assert bounded.get("k") == "new"
        other.invalidate_namespace()
        clock.now += 60
        assert bounded.get("k") == "new"
    assert bounded.get("k") is None


def test_threads_are_not_pinned(cache, other):
    """This holds for threads that were started before the block or in it."""
    cache.set("k", "old")
    with ThreadPoolExecutor(1) as before:
        before.submit(cache.get, "k").result()
        with cache.pinned_generation():
            other.invalidate_namespace()
            other.set("k", "new")
            assert before.submit(cache.get, "k").result() == "new"
            assert in_a_thread(lambda: cache.get("k")) == "new"
            assert cache.get("k") == "old"


def test_an_invalidation_in_another_thread_does_not_move_the_pin(cache):
    cache.set("k", "old")
    with cache.pinned_generation():
        in_a_thread(cache.invalidate_namespace)
        assert cache.get("k") == "old"
        cache.set("w", "late")
        assert in_a_thread(lambda: cache.get("w")) is None
    assert cache.get("w") is None


def test_a_thread_with_the_context_of_a_block_is_pinned(cache, other):
    """An invalidation in this thread moves the pin of the block."""
    cache.set("k", "old")
    with cache.pinned_generation():
        other.invalidate_namespace()
        context = contextvars.copy_context()
        assert in_a_thread(lambda: context.run(cache.get, "k")) == "old"
        in_a_thread(lambda: context.run(cache.invalidate_namespace))
        assert cache.get("k") is None
        cache.set("k", "new")
    assert cache.get("k") == "new"


def test_each_of_two_threads_has_its_own_block(build, cache, other):
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


def test_tasks_that_start_in_a_block_stay_pinned(cache, other):
    cache.set("k", "old")

    async def use():
        ended = asyncio.Event()

        async def late():
            """Run on after the end of the block."""
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


def test_the_block_of_a_task_does_not_pin_its_parent(cache, other):
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


def test_an_invalidation_in_a_task_moves_the_pin_of_its_parents_block(cache, other):
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
    """An asynchronous fixture does this. The block pins the task in which it began."""

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
    """Ends a block."""


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

    async def aleave_and_get():
        with pytest.raises(LeavingError):
            await aleave()
        assert await cache.aget("k") is None

    cache.set("k", "old")
    with pytest.raises(LeavingError):
        leave()
    assert cache.get("k") is None
    cache.set("k", "old")
    asyncio.run(aleave_and_get())


TWICE = r"^A pinned_generation\(\) is entered once; make another\.$"


def test_a_block_is_not_entered_within_itself(cache, other):
    """The block stays pinned after the error."""
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
    # These clients have not seen the outage.
    again.set("k", "old")
    other.invalidate_namespace()
    assert again.get("k") is None
    # The block was never entered, so it can still be entered.
    block._make_pin = again.pinned_generation()._make_pin
    with block as number:
        assert number == other.generation


def test_pins_do_not_pile_up(cache):
    for _ in range(3):
        with cache.pinned_generation(), cache.pinned_generation():
            assert len(pins.current.get()) == 2
    assert pins.current.get() == ()
