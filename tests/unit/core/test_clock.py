"""Clocks that tests replace: no operation reads one unless it must."""

from __future__ import annotations

import time
from contextlib import ExitStack
from unittest import mock

import pytest

from namespaced_cache.core import clock
from namespaced_cache.core.expiry import LONGEST_RELATIVE
from tests.support.uses import as_another_process

DAY = 24 * 60 * 60

#: The functions of the module `time` that show a time.
FUNCTIONS = [
    "time",
    "time_ns",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "clock_gettime",
    "clock_gettime_ns",
]


def pinned(cache):
    with cache.pinned_generation():
        cache.set("k", 1)
        assert cache.get("k") == 1


def after_anothers(cache):
    """An operation that is repeated, because another process has invalidated."""
    cache._cache.wrapped.incr(cache._cache.counter.key, 1)
    assert cache.get("k") is None


#: Methods of Django's cache API, with timeouts that Django itself reads no clock for.
METHODS = {
    "get": lambda cache: cache.get("k"),
    "get missing": lambda cache: cache.get("missing"),
    "get_many": lambda cache: cache.get_many(["k", "l"]),
    "has_key": lambda cache: cache.has_key("k"),
    "contains": lambda cache: "k" in cache,
    "set": lambda cache: cache.set("k", 1),
    "set for ever": lambda cache: cache.set("k", 1, None),
    "set with a timeout": lambda cache: cache.set("k", 1, 60),
    "set for a month": lambda cache: cache.set("k", 1, LONGEST_RELATIVE),
    "set that deletes": lambda cache: cache.set("k", 1, 0),
    "add": lambda cache: cache.add("new", 1, 5),
    "set_many": lambda cache: cache.set_many({"k": 1, "l": 2}),
    "get_or_set": lambda cache: cache.get_or_set("made", 1),
    "touch": lambda cache: cache.touch("k", 5),
    "incr": lambda cache: cache.incr("n"),
    "decr": lambda cache: cache.decr("n"),
    "incr_version": lambda cache: cache.set("v", 1) or cache.incr_version("v"),
    "delete": lambda cache: cache.delete("k"),
    "delete_many": lambda cache: cache.delete_many(["k", "l"]),
    "clear": lambda cache: cache.clear(),
    "invalidate_namespace": lambda cache: cache.invalidate_namespace(),
    "generation": lambda cache: cache.generation,
    "pinned_generation": pinned,
    "after another's": after_anothers,
}

#: Raw commands that both clients have.
RAW = {
    "get": lambda raw: raw.get("k"),
    "gets": lambda raw: raw.gets("k"),
    "set": lambda raw: raw.set("k", 1, 60),
    "add": lambda raw: raw.add("k", 1, 60),
    "replace": lambda raw: raw.replace("k", 1, 60),
    "append": lambda raw: raw.append("text", "b"),
    "prepend": lambda raw: raw.prepend("text", "b"),
    "touch": lambda raw: raw.touch("k", 60),
    "incr": lambda raw: raw.incr(":1:n", 1),
    "decr": lambda raw: raw.decr(":1:n", 1),
    "delete": lambda raw: raw.delete(":1:k"),
    "get_multi": lambda raw: raw.get_multi(["k", "l"]),
    "set_multi": lambda raw: raw.set_multi({"k": 1}, 60),
    "delete_multi": lambda raw: raw.delete_multi([":1:k", ":1:l"]),
    "flush_all": lambda raw: raw.flush_all(),
    "disconnect_all": lambda raw: raw.disconnect_all(),
}


class ClockReadError(Exception):
    """A clock was read."""


@pytest.fixture
def without_clocks():
    """Let every clock raise. Nothing hides the error."""
    patches = ExitStack()

    def enter():
        for name in FUNCTIONS:
            patches.enter_context(
                mock.patch.object(time, name, side_effect=ClockReadError)
            )
        for name in ("monotonic", "wall"):
            patches.enter_context(
                mock.patch.object(clock, name, side_effect=ClockReadError)
            )
        return patches

    yield enter
    patches.close()


@pytest.fixture(params=[None, 60, DAY, LONGEST_RELATIVE])
def strict(build, client, request):
    """A strict alias with any MAX_TIMEOUT up to 30 days, as in a test run."""
    tokens = {"behaviors": {"cas": True}} if client == "pylibmc" else {}
    cache = build(OPTIONS={"MAX_TIMEOUT": request.param, **tokens})
    cache.set_many({"k": 1, "l": 2, "n": 5})
    cache._cache.set("text", "a")
    return cache


@pytest.mark.parametrize("act", METHODS.values(), ids=METHODS)
def test_no_method_of_a_strict_alias_reads_a_clock(strict, without_clocks, act):
    with without_clocks():
        act(strict)


@pytest.mark.parametrize("act", RAW.values(), ids=RAW)
def test_no_raw_command_of_a_strict_alias_reads_a_clock(strict, without_clocks, act):
    with without_clocks():
        act(strict._cache)


def test_a_pinned_bounded_alias_reads_no_clock(build, without_clocks):
    cache = build(OPTIONS={"MAX_STALENESS": 60})
    with cache.pinned_generation(), without_clocks():
        cache.set("k", 1)
        assert cache.get("k") == 1


@pytest.mark.parametrize("name", ["monotonic", "time", "time_ns", "perf_counter"])
@pytest.mark.parametrize(
    "options", [{}, {"MAX_TIMEOUT": DAY}, {"MAX_STALENESS": 60, "MAX_TIMEOUT": 60}]
)
def test_a_test_that_patches_two_readings_gets_both(build, name, options):
    """Around a lock that is built on `add`, and around a `set`."""
    cache = build(OPTIONS=options)
    _ = cache._cache.wrapped  # as it is made, pymemcache's own client reads a clock
    with mock.patch.object(time, name, side_effect=[10.0, 12.5]):
        begun = getattr(time, name)()
        assert cache.add("lock", 1)
        cache.set("k", "v", 300)
        assert not cache.add("lock", 1)
        assert cache.delete("lock")
        assert getattr(time, name)() - begun == 2.5
    assert cache.get("k") == "v"


@pytest.mark.parametrize("timeout", [None, LONGEST_RELATIVE + 1, 400 * DAY])
def test_a_maximum_above_30_days_may_read_the_wall_clock(build, timeout):
    """But not one that a test has replaced."""
    cache = build(OPTIONS={"MAX_TIMEOUT": 40 * DAY})
    wall = clock.wall()
    with mock.patch.object(clock, "wall", return_value=wall) as reads:
        cache.set("k", 1, timeout)
    assert reads.called
    assert cache.get("k") == 1


# Bounded staleness.


@pytest.fixture
def other(build):
    return as_another_process(build())


STANDING = {
    "stands": lambda: mock.patch.object(time, "monotonic", return_value=5.0),
    "jumps": lambda: mock.patch.object(time, "monotonic", side_effect=[9.0, 1e9] * 99),
    "goes back": lambda: mock.patch.object(
        time, "monotonic", side_effect=range(10**6, 0, -1000)
    ),
}


@pytest.mark.parametrize("replaced", STANDING.values(), ids=STANDING)
def test_a_bounded_value_grows_stale_although_the_clock_is_replaced(
    build, other, replaced
):
    cache = build(OPTIONS={"MAX_STALENESS": 0.05})
    with replaced():
        cache.set("k", "v")
        other.invalidate_namespace()
        time.sleep(0.06)
        assert cache.get("k") is None


def test_a_real_clock_that_goes_back_ends_the_trust(build, other, monkeypatch):
    cache = build(OPTIONS={"MAX_STALENESS": 60})
    moments = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: moments[-1])
    cache.set("k", "v")
    other.invalidate_namespace()
    assert cache.get("k") == "v"
    moments.append(999.0)
    assert cache.get("k") is None


@pytest.mark.parametrize("now", [0.0, 16_700_000_000.0])
def test_a_namespace_begins_and_goes_on_in_any_year(build, now):
    """Whose clock another process, in another year, does not share."""
    cache = build(OPTIONS={"MAX_STALENESS": 60})
    other = as_another_process(build())
    with ExitStack() as patches:
        for name, value in (("time", now), ("time_ns", int(now * 10**9))):
            patches.enter_context(mock.patch.object(time, name, return_value=value))
        patches.enter_context(mock.patch.object(clock, "wall", return_value=now))
        first = cache.generation
        cache.set("k", "v")
    assert other.get("k") == "v"
    assert other.invalidate_namespace() == first + 1
    cache._cache.wrapped.delete(cache._cache.counter.key)
    assert other.generation > first + 1
    assert other.get("k") is None
