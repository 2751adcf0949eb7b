"""One process invalidates while another reads, computes or writes.

The numbers are those of the scenarios in tests/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import chain, product
from operator import methodcaller

import pytest

from tests.support.other_processes import FIRST_OPERATIONS
from tests.support.uses import EACH_WRITE, overtake
from tests.support.wires import once

# 8. A reads the generation, B invalidates it, A writes.

#: When B invalidates, and the request that A sends at that moment.
MOMENTS = {
    "before the write": None,
    "while the write is under way": rb"^(set|add) nsc:",
    "before the writer reads the counter": rb"^get nsc:",
    "after the write": None,
}


@EACH_WRITE
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_write_survives_an_invalidation_only_if_it_ends_later(  # noqa: PLR0913, PLR0917
    client, patient, wire, another, write, moment
):
    cache, other = patient(wire.location), another()
    for _ in range(2):  # the first creates the counter
        cache.set("warm", 1)
    if client == "pymemcache" and "reads" in moment:
        moment = "while the write is under way"  # pipelined, in the same packet
    invalidated = []

    def invalidate():
        invalidated.append(other("cache.invalidate_namespace()"))

    if moment == "before the write":
        invalidate()
    elif MOMENTS[moment]:
        wire.before = once(MOMENTS[moment], invalidate)
    write(cache)
    if moment == "after the write":
        invalidate()
    assert len(invalidated) == 1
    seen = cache.get("w")
    assert seen == (None if moment == "after the write" else "written") or (
        # A parallel counter read may be answered while the write is under way. Then it
        # is as if the write had come just before the invalidation.
        client == "pylibmc" and moment == "while the write is under way"
    )
    assert [process("cache.get('w')") for process in (other, another())] == [seen] * 2


# 9. A computes a value from the database. B changes the database and invalidates. A
# stores its old value.


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize(
    "fill",
    [
        lambda cache, compute: cache.set("price", compute()),
        lambda cache, compute: cache.get_or_set("price", compute),
        lambda cache, compute: cache._cache.set(":1:price", compute()),
        lambda cache, compute: asyncio.run(cache.aset("price", compute())),
    ],
)
def test_only_a_pin_keeps_an_old_value_out_of_the_new_generation(
    cache, another, fill, pinned
):
    """Without a pin the value is stored there, because nothing shows how old it is."""
    other, database = another(), {"price": 1}

    def compute():
        value = database["price"]
        database["price"] += 1
        other("cache.invalidate_namespace()")
        return value

    with cache.pinned_generation() if pinned else contextlib.nullcontext():
        fill(cache, compute)
        assert cache.get("price") == 1
    left = None if pinned else 1
    assert cache.get("price") == other("cache.get('price')") == left
    found = cache.get_or_set("price", lambda: database["price"])
    assert found == (2 if pinned else 1)


# 10. A late writer restores an old number. Other processes invalidate at the same time.


@pytest.mark.parametrize("first", FIRST_OPERATIONS)
def test_a_restored_old_number_brings_no_item_back(bare, another, first):
    """Processes with a newer generation see none.

    The others see none after the repair.
    """
    knows, late = another(), another()
    old = late("cache.generation")
    late("cache.set('k', 'old')")
    newest = [knows("cache.invalidate_namespace()") for _ in range(3)][-1]
    bare._cache.set(f"nsc:{late('cache.namespace')}", old)
    knows(first)
    for process in (knows, late, another()):
        assert process("cache.get('k')") is None
        assert process("cache.generation") > newest
    knows("cache.set('k', 'new')")
    assert late("cache.get('k')") == "new"


def test_invalidations_at_the_same_time_never_return_one_number_twice(cache, another):
    before = cache.generation
    processes = [another() for _ in range(4)]
    for process in processes:
        process.begin("[cache.invalidate_namespace() for _ in range(500)]")
    numbers = [process.end() for process in processes]
    assert all(mine == sorted(mine) for mine in numbers)
    assert sorted(chain(*numbers)) == list(range(before + 1, before + 2001))


# 11. The namespace is invalidated during an operation that sends several requests.


@pytest.mark.parametrize("held", ["request", "answer"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_get_many_returns_items_of_one_generation(
    patient, strung, another, held, which
):
    """Each server in turn gets its request, or answers, after the invalidation."""
    locations = [wire.location for wire in strung]
    cache, other = patient(locations), another(locations)
    old = {f"k{number}": "old" for number in range(90)}
    # Every second key, so that a mixture has more keys than one of the generations.
    new = dict.fromkeys([*old][::2], "new")
    cache.set_many(old)
    assert other(f"cache.get_many({[*old]})") == old
    invalidated = []

    def invalidate():
        invalidated.append(other("cache.invalidate_namespace()"))
        other(f"cache.set_many({new})")

    if held == "request":
        strung[which].before = once(b"^get", invalidate)
    else:
        strung[which].after = once(b"^VALUE", invalidate)
    assert cache.get_many(old) in (old, new)
    assert len(invalidated) == 1
    assert cache.get_many(old) == new


@pytest.mark.parametrize(
    "get_or_set",
    [
        methodcaller("get_or_set", "k", "mine"),
        lambda cache: asyncio.run(cache.aget_or_set("k", "mine")),
    ],
)
@pytest.mark.parametrize("moment", [*product(["get", "add"], [None, "theirs"])])
def test_get_or_set_during_an_invalidation_returns_a_new_value(
    cache, another, monkeypatch, get_or_set, moment
):
    """The invalidation comes after its `get` or `add`.

    Items of other processes count.
    """
    method, theirs = moment
    other = another()
    other("cache.set('k', 'dead')")
    cache.invalidate_namespace()

    def invalidate():
        other("cache.invalidate_namespace()")
        if theirs:
            other("cache.set('k', 'theirs')")

    invalidated = overtake(monkeypatch, cache._cache, [method], invalidate)
    assert get_or_set(cache) == (theirs or "mine")
    assert invalidated
    left = theirs or ("mine" if method == "get" else None)
    assert cache.get("k") == other("cache.get('k')") == left


# 12. A worker that has run for a long time sees other processes' invalidations.

#: Where the worker uses the cache. Each place has its own backend, which has read the
#: counter.
PLACES = {
    "another thread": "THREAD.submit(lambda: {}).result()",
    "a task": "asyncio.run(asyncio.to_thread(lambda: {}))",
    "a child": "in_a_fork(lambda: {})",
    "its main thread": "{}",  # last, because threads share the latest generation
}


def everywhere(worker) -> list:
    """Return what the worker reads in each place."""
    return [worker(place.format("cache.get('k')")) for place in PLACES.values()]


@pytest.mark.parametrize("who", ["another process", *PLACES])
def test_a_long_lived_worker_sees_an_invalidation_at_once(cache, another, who):
    worker = another()
    worker("globals().update(THREAD=ThreadPoolExecutor(1))")
    for number in range(2):
        cache.set("k", number)
        assert everywhere(worker) == [number] * 4
        if who in PLACES:
            worker(PLACES[who].format("cache.invalidate_namespace()"))
        else:
            cache.invalidate_namespace()
        assert cache.get("k") is None
        assert everywhere(worker) == [None] * 4
