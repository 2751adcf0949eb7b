"""Histories with wrong clocks, evicted counters, signals that raise, and shared pools.

`test_history.py` has the rules, and the histories without disturbances.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

import pytest
from pymemcache import Client

from tests.support.caches import BACKENDS
from tests.support.disturbances import (
    ALL_CLOSED,
    BROKEN_OFF,
    CLOCKS,
    NOT_CLOSED,
    SAME_SEEDS,
    Clocks,
    Storm,
)
from tests.support.disturbed_traffic import record_disturbed, record_evictions
from tests.support.history import EVICT, SETTLING, Call, History
from tests.support.traffic import Plan

SHORT, LONG = 2_000, pytest.param(200_000, marks=pytest.mark.stress)

#: How many histories may be recorded until one shows that a fix was taken out.
TRIES = 20

each_length = pytest.mark.parametrize("operations", [SHORT, LONG])

#: A backend object that threads share, and its options. A pymemcache client has a pool.
#: A pylibmc client is for one thread, so the backend has a client for each.
SHARED = {
    "pymemcache": (BACKENDS["pymemcache"], {"use_pooling": True}),
    "pylibmc": (
        "tests.support.storm_backends.LocalStormCache",
        {"behaviors": {"cas": True}},
    ),
}
ALONE = {
    "pymemcache": (BACKENDS["pymemcache"], {}),
    "pylibmc": (
        "tests.support.storm_backends.StormCache",
        {"behaviors": {"cas": True}},
    ),
}

#: Of a thousand operations, how many are so at least, or the history proves little.
SHARES = {
    "invalidations": 10,
    "writes": 50,
    "hits": 20,
    "hits that had to be": 5,
    "answers with several values": 3,
    "counters read": 3,
}


@pytest.fixture
def plan(client, start, tmp_path):
    """A plan on a server with one thread: see `disturbances.Storm`."""
    backend, options = ALONE[client]
    location = start("-m", "512", "-t", "1").location
    return Plan(backend, location, tmp_path, options)


@pytest.fixture
def shared_plan(client, plan):
    """A plan in which the threads of each process share one backend."""
    backend, options = SHARED[client]
    return replace(plan, backend=backend, options=options, threads=4, is_shared=True)


def violations_of(history):
    violations = history.violations()
    print(f"{len(violations)} violations in {dict(history.tally)}")
    return violations


def assert_possible(history, operations):
    violations = violations_of(history)
    shown = "\n".join(map(str, violations[:10]))
    assert not violations, f"{len(violations)} violations, of which the first:\n{shown}"
    # It was not idle, or it would prove nothing.
    tally = history.tally
    assert tally["calls"] >= operations
    few = {what for what in SHARES if tally[what] * 1000 < operations * SHARES[what]}
    assert not few


def rules_broken(history):
    return {violation.rule for violation in violations_of(history)}


def errors_of(calls):
    """Return the errors, except those of calls that a signal has broken off."""
    return [call.error for call in calls if call.error and not is_broken_off(call)]


def is_broken_off(call):
    return call.error.startswith(BROKEN_OFF)


def disturbed(plan, *disturbances):
    return replace(plan, disturbances=disturbances)


# The rules for evictions. test_history.py has the others.


def numbers(*spans, settled):
    """Make a history of invalidations: (begin, end, number). The counter is evicted."""
    calls = [Call(*span[:2], "a", "wipe", (), span[2], wipes=True) for span in spans]
    evicted = Call(3, 4, "server", EVICT, wipes=True)
    settling = Call(3, settled, "server", SETTLING, wipes=True)
    return History([*calls, evicted, settling])


def test_numbers_may_fall_until_all_have_seen_the_new_counter():
    spans = (1, 2, 20), (5, 6, 11), (8, 9, 30)
    assert not numbers(*spans, settled=7).violations()


@pytest.mark.parametrize(
    "spans",
    [
        ((1, 2, 20), (8, 9, 11)),
        ((1, 2, 20), (5, 6, 11), (8, 9, 12)),
        ((1, 2, 20), (5, 6, 20)),
    ],
    ids=["falls later", "rises too little", "is given twice"],
)
def test_else_no_number_falls_and_none_is_given_twice(spans):
    (violation,) = numbers(*spans, settled=7).violations()
    assert violation.rule == "numbered"


# Wrong clocks, and evictions of the counter.


@each_length
@pytest.mark.parametrize("clocks", CLOCKS)
def test_wrong_clocks_and_evictions_break_no_rule(plan, clocks, operations):
    plan = disturbed(plan, Clocks(clocks, time.time()))
    calls = record_evictions(plan, operations)
    assert_possible(History(calls), operations)
    assert errors_of(calls) == []
    assert [call.command for call in calls].count(EVICT) > operations / 300


@pytest.mark.parametrize("clocks", ["all frozen", "behind"])
def test_without_random_seeds_they_do(plan, clocks):
    plan = disturbed(plan, Clocks(clocks, time.time()), SAME_SEEDS)
    assert any(
        {"dead", "numbered"} & rules_broken(History(record_evictions(plan, SHORT)))
        for _ in afresh(plan)
    )


def afresh(plan):
    """Flush the server before each try."""
    for _ in range(TRIES):
        with closing(Client(plan.location)) as bare:
            bare.flush_all(noreply=False)
        yield


# Signals that raise.


def assert_only_main_threads_were_broken_off(calls, operations):
    assert errors_of(calls) == []
    broken_off = [call.who for call in calls if is_broken_off(call)]
    assert len(broken_off) > operations / 100
    assert {who.rpartition(".")[2] for who in broken_off} == {"0"}


@each_length
def test_signals_that_raise_break_no_rule(plan, operations):
    plan = disturbed(plan, Storm(plan.location))
    calls = record_disturbed(plan, operations)
    assert_possible(History(calls), operations)
    assert_only_main_threads_were_broken_off(calls, operations)


@pytest.mark.parametrize("client", ["pymemcache"])
def test_without_closing_connections_they_do(plan):
    plan = disturbed(plan, Storm(plan.location), NOT_CLOSED)
    assert any(
        rules_broken(History(record_disturbed(plan, SHORT))) for _ in afresh(plan)
    )


# One backend for all threads of a process.


@each_length
def test_threads_that_share_a_backend_break_no_rule(shared_plan, operations):
    calls = record_disturbed(shared_plan, operations)
    assert_possible(History(calls), operations)
    assert [call.error for call in calls if call.error] == []


@each_length
def test_signals_do_not_disturb_threads_that_share_a_backend(shared_plan, operations):
    plan = disturbed(shared_plan, Storm(shared_plan.location))
    calls = record_disturbed(plan, operations)
    assert_possible(History(calls), operations)
    assert_only_main_threads_were_broken_off(calls, operations)


@pytest.mark.parametrize("client", ["pymemcache"])
def test_closing_all_connections_disturbs_them(shared_plan):
    plan = disturbed(shared_plan, Storm(shared_plan.location), ALL_CLOSED)
    assert any(errors_of(record_disturbed(plan, SHORT)) for _ in afresh(plan))
