"""freezegun and time-machine, which stop, tick or move the clocks of the module `time`.

freezegun replaces the functions. time-machine changes them in place, so even a function
that was kept before shows the other time.
"""

from __future__ import annotations

import time
from functools import partial

import pytest
import time_machine
from freezegun import freeze_time

from tests.support.uses import as_another_process

DAY = 24 * 60 * 60

FREEZERS = {
    "freezegun": freeze_time,
    "freezegun, ticking": partial(freeze_time, tick=True),
    "time-machine": partial(time_machine.travel, tick=False),
    "time-machine, ticking": partial(time_machine.travel, tick=True),
}

#: Moments in the past and the future. No seed can be made of the first and the last.
MOMENTS = ["1970-01-02", "2012-12-21", "2150-06-01", "2290-01-01"]


@pytest.fixture(params=FREEZERS)
def freeze(request):
    """Make a block in which the time is another: freeze(moment)."""
    return FREEZERS[request.param]


@pytest.fixture(params=MOMENTS)
def frozen(freeze, request):
    return freeze(request.param)


def use(cache) -> None:
    """Use an empty cache, invalidate it, and use it again. Leave it empty."""
    for value in ("first", "second"):
        assert cache.get("k") is None
        assert cache.add("k", value)
        assert not cache.add("k", "other")
        assert cache.get("k") == value
        cache.set("n", 1, 60)
        assert cache.incr("n") == 2
        assert cache.invalidate_namespace() == cache.generation
        assert cache.get_many(["k", "n"]) == {}


@pytest.mark.parametrize(
    "options",
    [{}, {"MAX_STALENESS": 60}, {"MAX_TIMEOUT": DAY}],
    ids=["strict", "bounded", "capped"],
)
def test_a_cache_works_in_frozen_time_before_it_and_after_it(frozen, build, options):
    cache = build(OPTIONS=options)
    use(cache)
    cache.set("k", "before")
    with frozen:
        assert cache.get("k") == "before"
        cache.clear()
        use(cache)
        cache.set("k", "inside")
    assert cache.get("k") == "inside"
    cache.clear()
    use(cache)


def test_a_namespace_begins_in_frozen_time_and_goes_on_after_it(frozen, build):
    cache, other = build(), as_another_process(build())
    with frozen:
        use(cache)
        cache.set("k", "inside")
        assert other.get("k") == "inside"
    assert other.get("k") == "inside"
    cache.invalidate_namespace()
    assert other.get("k") is None
    use(other)


def test_a_counter_that_is_lost_in_frozen_time_brings_nothing_back(frozen, build):
    """Another process seeds it again while its clock shows the same moment."""
    cache, other = build(), as_another_process(build())
    with frozen:
        cache.set("k", "old")
        first = cache.generation
        cache._cache.wrapped.delete(cache._cache.counter.key)
        assert other.get("k") is None
        assert other.generation != first
        assert cache.get("k") is None
        other.set("k", "new")
        assert cache.get("k") == "new"
    assert cache.get("k") == other.get("k") == "new"


def test_a_bounded_value_grows_stale_in_frozen_time(frozen, build):
    cache = build(OPTIONS={"MAX_STALENESS": 0.05})
    other = as_another_process(build())
    with frozen:
        cache.set("k", "v")
        other.invalidate_namespace()
        time.sleep(0.06)  # this always takes real time
        assert cache.get("k") is None


def test_two_processes_whose_clocks_stand_still_never_choose_one_number(freeze, build):
    """Each is in a process of its own, which knows no earlier generation."""
    seeds = set()
    for _ in range(20):
        with freeze("2020-02-02"):
            cache = as_another_process(build())
            seeds.add(cache.generation)
            cache._cache.wrapped.delete(cache._cache.counter.key)
    assert len(seeds) == 20


@pytest.mark.parametrize("timeout", [0, 60, 40 * DAY, None])
def test_items_of_frozen_time_expire_as_in_djangos_backend(
    frozen, build, bare, timeout
):
    """Django makes a moment of a long timeout, by the clock that it sees."""
    cache = build()
    with frozen:
        for each in (cache, bare):
            each.set("k", "v", timeout)
        assert cache.get("k") == bare.get("k")
    assert cache.get("k") == bare.get("k")


@pytest.mark.parametrize("timeout", [0, 60, 40 * DAY, None])
@pytest.mark.parametrize("days", [1, 30])
def test_a_maximum_loses_no_item_that_djangos_backend_finds(
    frozen, build, bare, timeout, days
):
    cache = build(OPTIONS={"MAX_TIMEOUT": days * DAY})
    with frozen:
        for each in (cache, bare):
            each.set("k", "v", timeout)
        assert bare.get("k") in (cache.get("k"), None)
    assert bare.get("k") in (cache.get("k"), None)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_maximum_above_30_days_is_a_moment_that_freezegun_does_not_move(
    build, moment
):
    """time-machine does move it, because no clock of Python's shows the real date."""
    cache = build(OPTIONS={"MAX_TIMEOUT": 60 * DAY})
    with freeze_time(moment):
        cache.set("k", "v", None)
        assert cache.get("k") == "v"
    assert cache.get("k") == "v"
