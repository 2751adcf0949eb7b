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

# 8. A reads the generation, B bumps it, A writes.

#: When B bumps, and what A sends at that moment.
MOMENTS = {
    "before the write": None,
    "while the write is under way": rb"^(set|add) nsc:",
    "before the writer reads the counter": rb"^get nsc:",
    "after the write": None,
}


@EACH_WRITE
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_write_is_seen_after_a_bump_only_if_it_ended_after_it(
    patient, wire, another, write, moment
):
    cache, other = patient(wire.location), another()
    cache.set("warm", 1)
    if cache._cache._binder.binding().counter_reader and "reads" in moment:
        moment = "while the write is under way"  # the read is in the same packet
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
    seen = None if moment == "after the write" else "written"
    assert cache.get("w") == seen
    assert [process("cache.get('w')") for process in (other, another())] == [seen] * 2


# 9. A computes a value from the database before B changes it and bumps, and stores it
#    after that.


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
def test_a_pin_alone_keeps_a_slow_fill_out_of_the_new_generation(
    cache, another, fill, pinned
):
    """Without one it is stored there: nothing tells how old a value is."""
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


# 10. A late writer puts an old number back; others bump at the same time.


@pytest.mark.parametrize("first", FIRST_OPERATIONS)
def test_an_old_number_that_is_put_back_brings_nothing_back(bare, another, first):
    """To processes that know a newer one, and to all after one of them has looked."""
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


def test_processes_that_bump_at_once_never_get_one_number_twice(cache, another):
    before = cache.generation
    processes = [another() for _ in range(4)]
    for process in processes:
        process.begin("[cache.invalidate_namespace() for _ in range(500)]")
    numbers = [process.end() for process in processes]
    assert all(mine == sorted(mine) for mine in numbers)
    assert sorted(chain(*numbers)) == list(range(before + 1, before + 2001))


# 11. The namespace is invalidated within an operation that asks more than once.


@pytest.mark.parametrize("held", ["question", "answer"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_get_many_answers_from_one_generation(patient, strung, another, held, which):
    """Whichever of the servers is asked, or answers, after the bump."""
    locations = [wire.location for wire in strung]
    cache, other = patient(locations), another(locations)
    old = {f"k{number}": "old" for number in range(90)}
    # Every other one, so that a mixture has more than either generation.
    new = dict.fromkeys([*old][::2], "new")
    cache.set_many(old)
    assert other(f"cache.get_many({[*old]})") == old
    invalidated = []

    def invalidate():
        invalidated.append(other("cache.invalidate_namespace()"))
        other(f"cache.set_many({new})")

    if held == "question":
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
def test_get_or_set_over_a_bump_answers_from_the_new_generation(
    cache, another, monkeypatch, get_or_set, moment
):
    """After its `get`, or after its `add`; what others stored in it comes first."""
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


# 12. A worker that has been at work for long sees what others bump.

#: Where it acts; each has a backend of its own that knows a number.
PLACES = {
    "another thread": "THREAD.submit(lambda: {}).result()",
    "a task": "asyncio.run(asyncio.to_thread(lambda: {}))",
    "a child": "in_a_fork(lambda: {})",
    "its main thread": "{}",  # last, because the threads share what it sees
}


def everywhere(worker) -> list:
    """Return what the worker reads in each place."""
    return [worker(place.format("cache.get('k')")) for place in PLACES.values()]


@pytest.mark.parametrize("who", ["another process", *PLACES])
def test_a_long_lived_worker_sees_a_bump_at_once(cache, another, who):
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
