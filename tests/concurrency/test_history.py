"""The contract under traffic: histories of many processes, and tests of the rules."""

from __future__ import annotations

import pytest

from tests.support.caches import bare_cache
from tests.support.commands import MANY_KEYS, ONE_KEY
from tests.support.history import KILL, SPAN, Call, History, Part
from tests.support.recorder import KEYS, RAW, Hand
from tests.support.servers import stat
from tests.support.traffic import Plan, record, record_restarts

# The rules, tested with hand-made histories. A call is written as
#
#     BEGIN-END COMMAND WHAT... [latest=NUMBER] [since=MOMENT] [by=WHO]
#
# A "?" after the command means that it failed and may have happened or not. A "!" means
# that its answer was that it did not happen. WHAT was stored or found is "a" for the
# key k, or "l:a" for another key. "-" is nothing. "2+5" is the number 2 after steps of
# 5 in total.


def value(text):
    if text == "-":
        return False
    number, plus, steps = text.partition("+")
    return int(number) * SPAN + SPAN // 2 + int(steps) if plus else text


def call(text):
    span, command, *words = text.split()
    more = dict(word.split("=") for word in words if "=" in word)
    words = [word for word in words if "=" not in word]
    keys = [word.rpartition(":")[0] or "k" for word in words]
    values = [word.rpartition(":")[2] for word in words]
    sure = {"?": None, "!": False}.get(command[-1], True)
    command = command.rstrip("?!")
    parts, number = [], None
    match command, *values:
        case "put", new:
            parts = [Part(*keys, did="put", value=value(new), sure=sure)]
        case "add", new:
            parts = [Part("k", not sure, "put", new, sure)]
        case "append", new:
            parts = [Part("k", sure, "affix", new, sure)]
        case "cas", old, new:
            parts = [Part("k", old, "put", new, sure)]
        case "incr", by, *found:
            seen = value(*found) if found else sure  # False: there was no number
            parts = [Part("k", seen, "step", int(by), sure)]
        case ("drop",):
            parts = [Part("k", did="drop", sure=sure)]
        case ("crash",):  # of a server that does not have the counter
            command, parts = KILL, [Part("k", did="drop")]
        case "get", *found:
            parts = [Part(*pair) for pair in zip(keys, map(value, found), strict=True)]
        case (("wipe" | "read"), *numbers):
            number = int(numbers[0]) if numbers else None
    begin, end = map(int, span.split("-"))
    return Call(
        begin,
        end,
        more.get("by", text),
        command,
        tuple(parts),
        number,
        wipes=command in ("wipe", KILL) and not parts,
        latest=int(more.get("latest", 0)),
        since=int(more["since"]) if "since" in more else None,
        error="down" if sure is None else "",
    )


def history(text):
    return History(call(words) for words in text.split(", "))


POSSIBLE = """
a write and a read: 1-2 put a, 3-4 get a
a read while the write runs: 1-4 put a, 2-3 get a
a read while the namespace is invalidated: 1-2 put a, 3-6 wipe, 4-7 get a
a write while the namespace is invalidated: 1-4 put a, 3-5 wipe, 6-7 get a
an invalidation as a write ends: 1-2 put a, 2-3 wipe, 4-5 get a
a write that is seen, and done again: 1-6 put a, 2-3 get a, 4-5 wipe, 7-8 get a
an invalidation that failed: 1-2 put a, 3-4 wipe?, 5-6 get a
a write that failed: 1-2 put? a, 3-4 get a
a write that failed is lost: 1-2 put? a, 3-4 get -
a second write that failed: 1-2 put a, 3-4 put? b, 5-6 get a
two writes at once: 1-4 put a, 2-3 put b, 5-6 get a
an old value under a new one: 0-1 put b, 2-4 put a, 3-5 get b, 6-7 get a
a deletion while it is read: 1-2 put a, 3-6 drop, 4-5 get -, 5-7 get a
a deletion that failed: 1-2 put a, 3-4 drop?, 5-6 get -
a miss as a deletion ends: 1-3 drop, 3-4 put a, 5-6 get -
a miss while one of two deletions runs: 1-10 drop, 2-3 drop, 4-5 put a, 6-7 get -
a restart: 1-2 put a, 3-4 kill, 5-6 get -
a data server's restart: 1-2 put a, 3-4 crash, 5-6 get -
another data server's restart: 1-2 put a, 3-4 crash, 5-6 get a
cut off by a data server's restart: 0-1 get - by=b, 1-2 crash, 3-4 put a, 5-6 get - by=b
cut off by a restart: 0-1 get - by=b, 1-2 kill, 3-4 put a, 5-6 get - by=b, 7-8 get a
a long restart: 1-9 kill, 2-3 get? by=b, 3-4 put a, 5-6 get - by=b, 7-8 get a
additions across an invalidation: 1-2 add a, 3-4 wipe, 5-6 add b
an addition refused when it was done again: 3-8 add! a, 4-5 get a, 6-7 wipe
a late adder: 1-9 get a, 2-3 wipe 11, 4-8 add! a
pieces of one value: 1-2 put a, 3-4 append b, 5-6 get a|b
one generation: 0-1 wipe 11, 1-2 put a, 3-4 put l:b latest=11, 5-6 get a l:b
a late writer: 1-2 put a, 3-9 get a l:b, 4-5 wipe 11, 6-8 put l:b latest=10
steps: 1-2 put 0+0, 3-4 incr 5 0+0, 5-8 incr -2 0+5, 6-7 get 0+5, 6-7 get 0+3
a step that failed: 1-2 put 0+0, 3-4 incr? 5, 5-6 get 0+0, 5-6 get 0+5
a step that was done again: 1-2 put 0+0, 4-5 get 0+7, 6-7 wipe, 3-8 incr! 7
a step while the number is put: 1-5 incr 5 0+0, 2-4 put 0+0, 6-7 get 0+5
a step while the number is read: 1-2 put 0+0, 3-6 get 0+5, 4-5 incr 5 0+0
a number without its steps: 1-10 put 0+0, 2-3 incr 5 0+0, 4-5 wipe, 6-7 get 0+0
a token that is good: 1-2 put a, 3-4 get a, 5-6 cas a b since=4, 7-8 get b
a token of a former life: 1-2 put a, 5-6 kill, 7-8 put b, 9-10 cas a c since=4
numbers: 1-3 wipe 11, 2-4 wipe 12, 5-6 read 12, 5-7 wipe 13
"""
IMPOSSIBLE = """
dead: 1-2 put a, 3-4 wipe, 5-6 get a
dead: 1-2 put a, 3-4 append b, 5-6 wipe, 7-8 get b
dead: 1-2 put a, 3-4 kill, 5-6 get a
dead: 1-2 put? a, 3-4 wipe, 5-6 get a
old: 1-2 put a, 3-4 put b, 5-6 get a
old: 1-9 put a, 2-3 get a, 4-5 put b, 6-7 get a
old: 1-2 put a, 3-4 drop, 5-6 get a
old: 1-2 put a, 3-4 put b, 5-6 crash, 7-8 get a
gone: 1-2 put a, 1-5 drop, 3-4 get -, 6-7 get a
lost: 1-2 put a, 3-4 get -
lost: 1-9 put a, 2-3 get a, 4-5 get -
lost: 0-1 get - by=b, 1-2 kill, 3-4 get - by=b, 5-6 put a, 7-8 get - by=b
lost: 1-2 add a, 3-4 add b
mixed: 1-2 put a, 3-9 get a l:b, 4-5 wipe 11, 6-8 put l:b latest=11
mixed: 1-2 put a, 3-9 get a|b, 4-5 wipe 11, 6-8 append b latest=11
foreign: 1-2 get a
foreign: 1-2 put l:a, 3-4 get a
foreign: 1-2 get a, 3-4 put a
foreign: 1-2 put a, 3-4 append b, 5-6 get a|b|b
refused: 1-2 add! a, 3-4 get a
refused: 1-2 wipe, 3-4 add! a, 5-6 get a
refused: 1-2 add! a, 4-5 wipe, 3-6 get a
counted: 1-2 put 0+0, 3-4 incr 5 0+0, 5-6 get 0+0
counted: 1-2 put 0+0, 3-4 incr 5 0+0, 5-6 get 0+10
counted: 1-2 put 0+0, 3-4 incr 5 0+0, 5-6 incr 5 0+0
counted: 1-2 put 0+0, 3-4 incr 5 0+0, 5-6 incr -5 0+0
counted: 1-2 put 0+0, 1-3 incr! 5, 4-5 get 0+5
counted: 7-12 incr? 5, 1-2 incr? 5, 3-4 put 0+0, 5-6 get 0+5
counted: 1-2 put 0+0, 3-6 put 1+0, 4-5 incr 7 0+0, 7-8 get 1+7
stale token: 1-8 put a, 5-6 wipe, 7-9 cas a b since=4
stale token: 1-8 put a, 5-6 put b, 7-9 cas a c since=4
numbered: 1-4 wipe 11, 2-3 wipe 11
numbered: 1-2 wipe 12, 3-4 wipe 11
numbered: 1-2 read 11, 3-4 wipe 11
numbered: 1-2 wipe 12, 3-4 read 11
numbered: 1-3 wipe 12, 2-4 wipe 11, 5-6 read 11
"""


def each(histories):
    lines = [line.split(": ") for line in histories.strip().splitlines()]
    ids = [f"{name} {calls}" for name, calls in lines]
    return pytest.mark.parametrize(("name", "calls"), lines, ids=ids)


def test_a_token_may_fit_on_another_server_after_an_invalidation():
    calls = [*map(call, ["1-2 put a", "5-6 wipe", "7-8 put b", "9-10 cas a c since=4"])]
    assert not History(calls, several=True).violations()
    rules = {violation.rule for violation in History(calls).violations()}
    assert "stale token" in rules


@each(POSSIBLE)
def test_a_possible_history_is_no_violation(name, calls):
    assert not history(calls).violations(), name


@each(IMPOSSIBLE)
def test_an_impossible_history_breaks_exactly_its_rule(name, calls):
    violations = history(calls).violations()
    assert {violation.rule for violation in violations} == {name}
    last = str(call(calls.rpartition(", ")[2]))
    assert last in "".join(map(str, violations))


# The traffic.

OPTIONS = {
    "pymemcache": {},
    "pylibmc": {"behaviors": {"cas": True}},
}
#: With these options, a client tries a server that was down again at once, without a
#: limit. Outage defaults and errors meanwhile are the client's own behaviour, and are
#: tested elsewhere.
RETRY_AT_ONCE = {
    "pymemcache": {"retry_timeout": -1, "retry_attempts": 10**9},
    "pylibmc": {"behaviors": {"cas": True, "retry_timeout": -1}},
}
#: The errors of a client while its server is down.
ERRORS_WHILE_DOWN = {
    "pymemcache": {
        "BrokenPipeError",
        "ConnectionRefusedError",
        "ConnectionResetError",
        "MemcacheUnexpectedCloseError",
        "NamespaceUnavailable",
    },
    "pylibmc": {
        "ConnectionError",
        "Error",
        "NamespaceUnavailable",
        "ServerDown",
        "UnknownReadFailure",
        "WriteError",
    },
}
#: After so many calls, a thread has used each of three servers.
BROKEN = 30
#: How many of a thousand operations must be so at least. With fewer, the history proves
#: little.
SHARES = {
    "invalidations": 10,
    "writes": 50,
    "hits": 50,
    "misses": 50,
    "hits that had to be": 20,
    "answers with several values": 10,
    "counters read": 10,
    "tokens taken": 0.3,
    "writes across an invalidation": 3,
    "reads under an old number": 1,
    "writes under an old number": 0.3,
}


def stress(amount):
    return pytest.param(amount, marks=pytest.mark.stress)


@pytest.fixture
def plan(client, backend, tmp_path):
    """Return a function that makes the configuration of a history's processes."""

    def make(servers, options=OPTIONS, blind=""):
        locations = [server.location for server in servers]
        return Plan(backend, locations, tmp_path, options[client], blind)

    return make


def assert_possible(history):
    violations = history.violations()
    print(f"{len(violations)} violations in {dict(history.tally)}")
    shown = "\n".join(map(str, violations[:10]))
    assert not violations, f"{len(violations)} violations, of which the first:\n{shown}"


def names_of(hand):
    return {name for commands in hand.commands.values() for name in commands}


def test_the_traffic_contains_all_commands(client, build):
    """All commands of the client. Django has only a few methods."""
    cache = build(OPTIONS=OPTIONS[client])
    names = names_of(Hand(cache, "invalidator", "one", 0))
    real = cache._cache.wrapped
    commands = {command for command in ONE_KEY | MANY_KEYS if hasattr(real, command)}
    assert {RAW + command for command in commands} <= names


@pytest.fixture
def strangers(backend, build):
    """Store items of other users on a server. Return a function that checks them."""
    theirs = dict.fromkeys(KEYS, "another user's")

    def put(location):
        neighbour = build(location, OPTIONS={"NAMESPACE": "neighbour"})
        bare.append(bare_cache(backend, location))
        for cache in (*bare, neighbour):
            cache.set_many(theirs, timeout=None)
        return lambda: all(
            cache.get_many(KEYS) == theirs for cache in (*bare, neighbour)
        )

    bare = []
    yield put
    for cache in bare:
        cache.close()


@pytest.fixture
def servers(request, start):
    """As many servers as the test asks for. The first has the counter."""
    started = [start("-m", "512") for _ in range(request.param)]
    return sorted(started, key=lambda server: server.location)


ONE_OR_SEVERAL = pytest.mark.parametrize(
    "servers", [1, 3], indirect=True, ids=["alone", "three"]
)


@ONE_OR_SEVERAL
@pytest.mark.parametrize("operations", [3_000, stress(200_000)])
def test_many_processes_break_no_rule(build, servers, plan, strangers, operations):
    locations = [server.location for server in servers]
    all_are_there = strangers(locations)

    calls = record(plan(servers), operations)
    history = History(calls, several=len(servers) > 1)
    assert_possible(history)
    assert all_are_there()

    # The history proves something only if the traffic was real and nothing was evicted.
    tally = history.tally
    assert tally["calls"] >= operations
    assert tally["errors"] == 0
    few = {what for what in SHARES if tally[what] * 1000 < operations * SHARES[what]}
    if len(servers) > 1:
        few.discard("tokens taken")  # few of them are of the same generation
    assert not few
    assert tally["calls of newcomers"] > 0
    names = names_of(Hand(build(locations), "invalidator", "one", 0))
    assert names <= {call.command for call in calls}
    assert [stat(server, "evictions") for server in servers] == [0] * len(servers)


@ONE_OR_SEVERAL
@pytest.mark.parametrize(("blind", "rule"), [("reads", "dead"), ("writes", "lost")])
def test_without_validation_rules_are_broken(servers, plan, blind, rule):
    """This shows that the histories detect errors: only validation is missing."""
    calls = record(plan(servers, blind=blind), 2_000)
    history = History(calls, several=len(servers) > 1)
    assert rule in {violation.rule for violation in history.violations()}


@pytest.mark.parametrize(
    ("servers", "killed"),
    [(1, 0), (3, 0), (3, 1)],
    indirect=["servers"],
    ids=["the only server", "the counter server of three", "a data server of three"],
)
@pytest.mark.parametrize("restarts", [10, stress(1_000)])
def test_restarts_break_no_rule(client, servers, plan, restarts, killed):
    """A server is killed at random moments and restarts empty.

    Each time, all threads work again.
    """
    calls = record_restarts(
        plan(servers, RETRY_AT_ONCE),
        servers[killed],
        restarts,
        has_counter=killed == 0,
    )
    several = len(servers) > 1
    history = History(calls, BROKEN if several else 1, several=several)
    assert_possible(history)

    errors = {call.error.partition(":")[0] for call in calls if call.error}
    assert errors
    assert errors <= ERRORS_WHILE_DOWN[client]
    assert [call.command for call in calls].count(KILL) == restarts
    for what in ("invalidations", "hits", "hits that had to be", "counters read"):
        assert history.tally[what] > restarts, what
