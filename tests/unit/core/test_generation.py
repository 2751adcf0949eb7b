"""Seeds: no two are equal, whatever the clocks of their processes show."""

from __future__ import annotations

import secrets

import pytest

from namespaced_cache import NamespaceError
from namespaced_cache.core import clock
from namespaced_cache.core.counter import Counter
from namespaced_cache.core.generation import (
    LINEAGE,
    MAX_GENERATION,
    MIN_GENERATION,
    generation_in,
    is_of_lineage,
    seed,
)
from tests.support.uses import reach

YEAR = 365.25 * 24 * 60 * 60

#: Clocks, in seconds since 1970.
CLOCKS = {
    "now": clock.wall(),
    "never set": 0.0,
    "before 1970": -5 * YEAR,
    "2001": 31 * YEAR,
    "2026": 56 * YEAR,
    "2199": 229 * YEAR,
    "2500": 530 * YEAR,
    "no number": float("nan"),
    "endless": float("inf"),
}

EACH_CLOCK = pytest.mark.parametrize("now", CLOCKS.values(), ids=CLOCKS)


@pytest.fixture
def frozen(monkeypatch, now):
    """The clock stands still."""
    monkeypatch.setattr(clock, "wall", lambda: now)


def another(counter: Counter) -> Counter:
    """Return the counter as another process sees it."""
    return Counter(counter.namespace, counter.server)


@EACH_CLOCK
@pytest.mark.usefixtures("frozen")
def test_a_seed_has_19_digits_and_is_a_generation():
    for number in [seed(0) for _ in range(100)]:
        assert len(str(number)) == 19
        assert MIN_GENERATION < number <= MAX_GENERATION
        assert generation_in(number) == number


@EACH_CLOCK
@pytest.mark.usefixtures("frozen")
def test_no_two_seeds_are_equal_under_a_frozen_clock():
    latest = seed(0)
    for above in (0, latest):
        seeds = [seed(above) for _ in range(1000)]
        assert len({*seeds}) >= 999  # 30 random bits: one pair in two thousand runs


@EACH_CLOCK
@pytest.mark.usefixtures("frozen")
def test_a_seed_is_above_the_latest():
    for latest in (MIN_GENERATION, seed(0), seed(0) + 70_000, 8 * 10**18):
        for number in (seed(latest), seed(latest + 1)):
            assert number > latest


@EACH_CLOCK
@pytest.mark.usefixtures("frozen")
def test_a_seed_leaves_room_for_invalidations():
    number = seed(0)
    assert is_of_lineage(number, number)
    assert is_of_lineage(number, number + LINEAGE - 1)
    assert not is_of_lineage(number, number + LINEAGE)
    assert not is_of_lineage(number + 1, number)
    # And for a million more losses of the counter.
    assert MAX_GENERATION - number > 10**6 * 2**30


def test_seeds_rise_with_the_clock(monkeypatch):
    numbers = []
    for step in range(1000):
        monkeypatch.setattr(clock, "wall", lambda step=step: step * 1.1 + 50 * YEAR)
        numbers.append(seed(0))
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("step", [-10 * YEAR, -60, -(10**-9), 0])
def test_a_clock_that_goes_back_gives_no_number_twice(monkeypatch, step):
    moments = [56 * YEAR + number * step for number in range(5)] * 20
    monkeypatch.setattr(clock, "wall", moments.pop)
    latest, numbers = 0, []
    while moments:
        latest = seed(latest)
        numbers.append(latest)
    assert numbers == sorted({*numbers})


@pytest.mark.parametrize("latest", [MAX_GENERATION])
@pytest.mark.parametrize("bits", [0, 2**30 - 1])
def test_no_counter_is_stored_above_the_largest_generation(
    cache, real, monkeypatch, latest, bits
):
    """It would be refused as soon as it is read."""
    monkeypatch.setattr(secrets, "randbits", lambda _: bits)
    counter = cache._cache.counter
    counter.latest = latest
    for act in (
        lambda: cache.generation,
        lambda: cache.set("k", "v"),
        cache.invalidate_namespace,
    ):
        with pytest.raises(NamespaceError) as caught:
            act()
        assert caught.type is NamespaceError
        assert f"had the value {latest}, which is too large" in str(caught.value)
        assert repr(counter.key) in str(caught.value)
    assert real.get(counter.key) is None


def test_a_counter_near_the_largest_generation_is_seeded(cache, real, monkeypatch):
    monkeypatch.setattr(secrets, "randbits", lambda _: 0)
    counter = cache._cache.counter
    counter.latest = MAX_GENERATION - 2
    latest = counter.latest
    assert latest < cache.generation <= MAX_GENERATION
    assert real.get(counter.key) == counter.latest


@pytest.mark.parametrize("verb", ["read", "invalidate"])
@pytest.mark.parametrize("now", [0.0, 56 * YEAR, 530 * YEAR])
@pytest.mark.usefixtures("frozen")
def test_processes_that_know_one_generation_never_seed_one_number(cache, real, verb):
    """Neither has seen what the other seeded, and the counter is lost again."""
    counter = cache._cache.counter
    counter.read(reach(real))
    others = [another(counter) for _ in range(8)]
    for other in others:
        assert other.read(reach(real)) == counter.latest
    numbers = []
    for other in others:
        real.delete(counter.key)
        numbers.append(getattr(other, verb)(reach(real)))
        numbers.append(other.invalidate(reach(real)))
    assert len({*numbers}) == len(numbers)
    assert min(numbers) > counter.latest


@pytest.mark.parametrize("now", [0.0, 56 * YEAR, 530 * YEAR])
@pytest.mark.usefixtures("frozen")
def test_a_second_process_does_not_seed_what_the_first_has_seeded(cache, real):
    """Under a frozen clock, of which neither process knows."""
    counter = cache._cache.counter
    numbers = []
    for _ in range(20):
        real.delete(counter.key)
        numbers.append(another(counter).read(reach(real)))
    assert len({*numbers}) == 20


def test_what_was_invalidated_does_not_return_to_a_second_seeder(
    build, real, monkeypatch
):
    """The whole story, with values."""
    monkeypatch.setattr(clock, "wall", lambda: 0.0)
    one = build(OPTIONS={"NAMESPACE": "twice"})
    counter = one._cache.counter
    real.delete(counter.key)
    latest = one.generation
    for _ in range(30):
        real.delete(counter.key)
        counter.latest = latest  # a process that knows no more than this
        one.set("k", "old")
        one.invalidate_namespace()
        real.delete(counter.key)
        counter.latest = latest  # and another
        assert one.get("k") is None
        one.set("other", 1)
        assert one.get("k") is None
