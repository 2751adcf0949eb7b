"""Leaks: which commands ask for a key, and whose key it is by then."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import tracemalloc
from contextlib import contextmanager

import pytest

from namespaced_cache.signals import namespace_invalidated
from namespaced_cache.test import findings as findings_module
from namespaced_cache.test import leaks as leaks_module
from namespaced_cache.test.actors import Actor, group_of, set_up_of
from namespaced_cache.test.findings import ENDED_EARLY, Findings
from namespaced_cache.test.leaks import Leaks
from tests.support.dictionary import outcome
from tests.support.uses import EACH_WAY_TO_INVALIDATE, as_another_process

OPTIONS = {"pymemcache": {}, "pylibmc": {"behaviors": {"cas": True}}}


class Suite:
    """Tests that use a cache, each in a generation of its own."""

    def __init__(self, cache):
        self.cache = cache
        self.leaks = Leaks()
        self.leaks.start()

    def begin(self, test):
        """Begin a test: its name, or an actor."""
        actor = Actor(test) if isinstance(test, str) else test
        self.leaks.begin_test(actor)
        self.isolate()

    def isolate(self):
        with self.leaks.invalidating():
            self.cache.invalidate_namespace()

    @property
    def found(self):
        """The leaks, each as key, who cached it, and who asked with which command."""
        return [
            (leak["key"], leak["cached_by"], asked["test"], asked["command"])
            for leak in self.leaks.findings.as_plain()["leaks"]
            for asked in leak["asked_for_by"]
        ]


@pytest.fixture
def suite(client, build):
    made = Suite(build(OPTIONS=OPTIONS[client]))
    yield made
    made.leaks.stop()


@pytest.fixture
def site(suite, client, build, start):
    """The suite, and a function that builds a cache with one setting that differs."""

    def build_another(differing):
        location = start().location if differing == "server" else None
        namespace = "another" if differing == "namespace" else None
        return build(location, OPTIONS={**OPTIONS[client], "NAMESPACE": namespace})

    return suite, build_another


def in_thread(act):
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def has(cache, key):
    return key in cache


#: The commands that ask for a key, each with its name, or a name for each client.
ASKING = {
    "get": (lambda cache: cache.get("k"), "get"),
    "aget": (lambda cache: asyncio.run(cache.aget("k")), "get"),
    "has_key": (lambda cache: cache.has_key("k"), "get"),
    "in": (lambda cache: has(cache, "k"), "get"),
    "get_many": (
        lambda cache: cache.get_many(["other", "k"]),
        "get_multi",
    ),
    "get_or_set": (lambda cache: cache.get_or_set("k", 1), "get"),
    "incr": (lambda cache: cache.incr("k"), "incr"),
    "aincr": (lambda cache: asyncio.run(cache.aincr("k")), "get"),
    "decr": (lambda cache: cache.decr("k"), "decr"),
    "incr_version": (lambda cache: cache.incr_version("k"), "get"),
    "add": (lambda cache: cache.add("k", 1), "add"),
    "touch": (lambda cache: cache.touch("k"), "touch"),
    "raw get": (lambda cache: cache._cache.get(":1:k"), "get"),
    "bytes": (lambda cache: cache._cache.get(b":1:k"), "get"),
    "gets": (lambda cache: cache._cache.gets(":1:k"), "gets"),
    "replace": (lambda cache: cache._cache.replace(":1:k", 1), "replace"),
    "append": (lambda cache: cache._cache.append(":1:k", "1"), "append"),
    "prepend": (lambda cache: cache._cache.prepend(":1:k", "1"), "prepend"),
    "a thread": (lambda cache: in_thread(lambda: cache.get("k")), "get"),
}

ASKING_BY_CLIENT = {
    "pymemcache": {
        "gets_many": (lambda cache: cache._cache.gets_many([":1:k"]), "gets_many"),
        "cas": (lambda cache: cache._cache.cas(":1:k", 1, b"1"), "cas"),
    },
    "pylibmc": {
        "clone": (lambda cache: cache._cache.clone().get(":1:k"), "get"),
        "cas": (lambda cache: cache._cache.cas(":1:k", 1, 1), "cas"),
        "add_multi": (lambda cache: cache._cache.add_multi({":1:k": 1}), "add_multi"),
        "incr_multi": (lambda cache: cache._cache.incr_multi([":1:k"]), "incr_multi"),
        "key_prefix": (
            lambda cache: cache._cache.get_multi(["k"], key_prefix=":1:"),
            "get_multi",
        ),
        "client[key]": (lambda cache: cache._cache[":1:k"], "__getitem__"),
        "key in client": (lambda cache: has(cache._cache, ":1:k"), "__contains__"),
    },
}


def asking_ways():
    for client, own in ASKING_BY_CLIENT.items():
        for name, (ask, command) in {**ASKING, **own}.items():
            yield pytest.param(client, ask, command, id=f"{client}-{name}")


@pytest.mark.parametrize(
    ("client", "ask", "command"), [*asking_ways()], indirect=["client"]
)
def test_a_command_that_depends_on_what_is_there_asks(suite, ask, command):
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.begin("b")
    outcome(ask, suite.cache)
    assert (":1:k", "a", "b", command) in suite.found
    assert {leak[:3] for leak in suite.found} == {(":1:k", "a", "b")}


def setitem(cache):
    cache._cache[":1:k"] = 2


def delitem(cache):
    del cache._cache[":1:k"]


#: The commands that do not depend on what is there.
NOT_ASKING = {
    "set": lambda cache: cache.set("k", 2),
    "set_many": lambda cache: cache.set_many({"k": 2}),
    "delete": lambda cache: cache.delete("k"),
    "delete_many": lambda cache: cache.delete_many(["k"]),
    "client[key] = value": setitem,
    "del client[key]": delitem,
}


@pytest.mark.parametrize("act", NOT_ASKING.values(), ids=NOT_ASKING)
def test_any_other_command_does_not_ask(suite, act):
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.begin("b")
    outcome(act, suite.cache)
    assert suite.found == []


#: The commands that store a key which is not there, or is.
STORING = {
    "set": lambda cache: cache.set("k", 2),
    "add": lambda cache: cache.add("k", 2),
    "set_many": lambda cache: cache.set_many({"l": 1, "k": 2}),
    "get_or_set": lambda cache: cache.get_or_set("k", 2),
    "raw set": lambda cache: cache._cache.set(b":1:k", 2),
    "aset": lambda cache: asyncio.run(cache.aset("k", 2)),
}

CHANGING = {
    "incr": lambda cache: cache.incr("k"),
    "replace": lambda cache: cache._cache.replace(":1:k", 3),
    "append": lambda cache: cache._cache.append(":1:k", b"1"),
    "prepend": lambda cache: cache._cache.prepend(":1:k", b"1"),
}


@pytest.mark.parametrize("store", STORING.values(), ids=STORING)
def test_the_test_that_stored_the_key_last_has_cached_it(suite, store):
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.begin("b")
    store(suite.cache)
    suite.begin("c")
    suite.cache.get("k")
    assert (":1:k", "b", "c", "get") in suite.found
    assert (":1:k", "a", "c", "get") not in suite.found


@pytest.mark.parametrize("store", STORING.values(), ids=STORING)
def test_a_test_that_has_stored_the_key_itself_is_no_reader(suite, store):
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.begin("b")
    suite.cache.set("k", 1)
    store(suite.cache)
    suite.cache.get("k")
    assert suite.found == []


@pytest.mark.parametrize("change", CHANGING.values(), ids=CHANGING)
def test_a_change_of_an_item_stores_it(suite, change):
    """With the scope "off", the item of the other test is really there."""
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.leaks.begin_test(Actor("b"))
    change(suite.cache)
    suite.begin("c")
    suite.cache.get("k")
    assert (":1:k", "b", "c", "get") in suite.found


@pytest.mark.parametrize(
    "refused",
    [
        lambda cache: cache.incr("k"),
        lambda cache: cache._cache.replace(":1:k", 1),
        lambda cache: cache.set("k", lambda: None),  # it cannot be pickled
        lambda cache: cache.set("k", "x" * 2**21),
        lambda cache: cache.set("k", 1, timeout=0),
    ],
    ids=["incr", "replace", "no pickle", "too large", "no time"],
)
def test_a_command_that_stores_nothing_caches_nothing(suite, refused):
    suite.begin("b")
    outcome(refused, suite.cache)
    suite.begin("c")
    suite.cache.get("k")
    assert suite.found == []


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_of_many_items_those_that_were_not_stored_do_not_count(suite):
    suite.begin("a")
    suite.cache._cache.set("old", 1)
    suite.leaks.begin_test(Actor("b"))
    assert suite.cache._cache.add_multi({"old": 2, "new": 2}) == ["old"]
    suite.begin("c")
    suite.cache._cache.get_multi(["old", "new"])
    by_c = [leak[:2] for leak in suite.found if leak[2] == "c"]
    assert sorted(by_c) == [("new", "b"), ("old", "a")]


def test_a_touched_item_is_still_that_of_the_test_that_stored_it(suite):
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.leaks.begin_test(Actor("b"))
    assert suite.cache.touch("k", 60)
    suite.begin("c")
    suite.cache.get("k")
    assert (":1:k", "a", "c", "get") in suite.found


# What is no longer there.


DELETING = [
    *(
        pytest.param(client, NOT_ASKING[name], id=f"{client}-{name}")
        for client in OPTIONS
        for name in ("delete", "delete_many")
    ),
    pytest.param("pylibmc", delitem, id="pylibmc-del client[key]"),
]


@pytest.mark.parametrize("deleted_by", ["a", "b"])
@pytest.mark.parametrize(("client", "delete"), DELETING, indirect=["client"])
def test_a_key_that_was_deleted_does_not_leak(suite, delete, deleted_by):
    suite.begin("a")
    suite.cache.set("k", 1)
    if deleted_by == "b":
        suite.begin("b")
    outcome(delete, suite.cache)
    suite.begin("c")
    suite.cache.get("k")
    assert suite.found == []


@EACH_WAY_TO_INVALIDATE
@pytest.mark.parametrize("cleared_by", ["a", "b"])
@pytest.mark.parametrize("stores", [True, False])
def test_a_key_that_was_cleared_does_not_leak(suite, invalidate, cleared_by, stores):
    suite.begin("a")
    suite.cache.set("k", 1)
    if cleared_by == "b":
        suite.begin("b")
    invalidate(suite.cache)
    if stores:
        suite.cache.set("later", 1)
    suite.begin("c")
    suite.cache.get_many(["k", "later"])
    assert {leak[0] for leak in suite.found} == ({":1:later"} if stores else set())


def test_a_key_on_a_server_that_was_flushed_does_not_leak(suite):
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.cache._cache.wrapped.flush_all()
    suite.begin("b")
    suite.cache.get("k")
    assert suite.found == []


def test_a_key_that_another_process_has_cleared_does_not_leak(suite, build, client):
    suite.begin("a")
    suite.cache.set("k", 1)
    as_another_process(build(OPTIONS=OPTIONS[client])).clear()
    suite.begin("b")
    suite.cache.get("k")
    assert suite.found == []


def test_a_key_that_another_test_has_touched_to_its_end_does_not_leak(suite):
    """Isolated, the touch finds nothing. On the bare server it does."""
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.begin("b")
    suite.cache.touch("k", 0)
    suite.begin("c")
    suite.cache.get("k")
    assert [leak for leak in suite.found if leak[2] == "c"] == []


@pytest.mark.parametrize("stores", [True, False])
def test_commands_during_an_isolation_do_not_hide_a_leak(suite, stores):
    """Receivers of the signal run some, and so do threads that run across tests."""

    def receive(**_):
        if stores:
            suite.cache.set("warm", 1)
        else:
            suite.cache.get("warm")

    suite.begin("a")
    suite.cache.set("k", 1)
    namespace_invalidated.connect(receive)
    try:
        suite.begin("b")
    finally:
        namespace_invalidated.disconnect(receive)
    suite.cache.get("k")
    assert (":1:k", "a", "b", "get") in suite.found


def test_a_thread_that_has_seen_an_older_generation_clears_nothing(suite):
    suite.begin("a")
    suite.cache.set("k", 1)
    counter = suite.cache._cache.counter
    suite.leaks._generations[counter] = counter.latest + 1
    suite.cache.get("other")
    suite.leaks._generations[counter] = counter.latest
    suite.begin("b")
    suite.cache.get("k")
    assert len(suite.found) == 1


@pytest.mark.parametrize("how", ["set", "set_many", "touch", "moment"])
def test_a_key_whose_timeout_has_passed_does_not_leak(suite, how):
    suite.begin("a")
    if how == "set":
        suite.cache.set("k", 1, timeout=2)
    elif how == "set_many":
        suite.cache.set_many({"k": 1}, timeout=2)
    elif how == "moment":
        suite.cache._cache.set(":1:k", 1, int(time.time()) + 2)
    else:
        suite.cache.set("k", 1)
        suite.cache.touch("k", 2)
    suite.begin("b")
    suite.cache.get("k")
    found = suite.found
    assert {leak[:3] for leak in found} == {(":1:k", "a", "b")}
    time.sleep(2.1)
    suite.begin("c")
    suite.cache.get("k")
    assert suite.found == found


def test_a_counter_keeps_its_timeout(suite):
    suite.begin("a")
    suite.cache.set("n", 1, timeout=2)
    suite.cache.incr("n")
    time.sleep(2.1)
    suite.begin("b")
    outcome(suite.cache.incr, "n")
    assert suite.found == []


@pytest.mark.parametrize("days", [10, 40])
def test_a_long_timeout_has_not_passed(suite, days):
    suite.begin("a")
    suite.cache.set("k", 1, timeout=days * 86_400)
    suite.begin("b")
    suite.cache.get("k")
    assert len(suite.found) == 1


def test_what_clears_another_namespace_clears_nothing_here(suite, build):
    another = build(OPTIONS={"NAMESPACE": "another"})
    another.set("k", 1)
    suite.begin("a")
    suite.cache.set("k", 1)
    another.clear()
    another.get("k")
    suite.begin("b")
    suite.cache.touch("unknown", 60)
    suite.cache.get("k")
    assert suite.found == [(":1:k", "a", "b", "get")]


# Set-ups.


@contextmanager
def set_up(suite, actor):
    with suite.leaks.acting(actor):
        suite.isolate()
        yield
        suite.isolate()


MODULE = set_up_of("module", "m", "m")
CLASS = set_up_of("class", "m.C", "m.C", {"m"}.__contains__)
INSIDE = Actor("m.C.test", uses={"m", "m.C"}.__contains__)
OUTSIDE = Actor("o.D.test", uses={"o", "o.D"}.__contains__)


@pytest.mark.parametrize("owner", [MODULE, CLASS])
def test_what_a_set_up_caches_is_for_its_tests(suite, owner):
    with set_up(suite, owner):
        suite.cache.set("k", 1)
    suite.begin(INSIDE)
    suite.cache.get("k")
    assert suite.found == []
    suite.begin(OUTSIDE)
    suite.cache.get("k")
    assert suite.found == [(":1:k", owner.name, "o.D.test", "get")]


def test_the_set_up_of_a_class_may_find_that_of_its_module(suite):
    with set_up(suite, MODULE):
        suite.cache.set("k", 1)
    with set_up(suite, CLASS):
        suite.cache.get("k")
        suite.cache.set("k", 2)
        suite.cache.get("k")
    assert suite.found == []
    with set_up(suite, MODULE):
        suite.cache.get("k")
    asking = "m (set-up of the module)"
    assert suite.found == [(":1:k", "m.C (set-up of the class)", asking, "get")]


def test_a_test_that_changes_an_item_of_its_set_up_leaks(suite):
    with set_up(suite, CLASS):
        suite.cache.set("k", 1)
    suite.begin(INSIDE)
    suite.cache.set("k", 2)
    suite.begin(Actor("m.C.another", uses=INSIDE.uses))
    suite.cache.get("k")
    assert suite.found == [(":1:k", "m.C.test", "m.C.another", "get")]


def test_a_tear_down_may_find_what_its_set_up_and_its_tests_cached(suite):
    with set_up(suite, CLASS):
        suite.cache.set("k", 1)
    suite.begin(INSIDE)
    suite.cache.set("t", 1)
    suite.begin(OUTSIDE)
    suite.cache.set("o", 1)
    with suite.leaks.acting(CLASS.tear_down()):
        suite.cache.get_many(["k", "t", "o"])
        suite.cache.set("torn", 1)
    suite.begin(INSIDE)
    suite.cache.get("torn")
    assert [leak[:3] for leak in suite.found] == [
        (":1:o", "o.D.test", "m.C (tear-down of the class)")
    ]


def test_a_set_up_that_ends_after_a_test_has_begun_is_ignored(suite):
    suite.leaks.enter(CLASS)
    suite.begin("a")
    suite.leaks.leave()
    suite.cache.set("k", 1)
    suite.begin("b")
    suite.cache.get("k")
    assert suite.found == [(":1:k", "a", "b", "get")]


def test_tests_of_one_class_share_on_purpose(suite):
    one, two, other = (
        Actor(name, group=group_of("class", of))
        for name, of in [("C.one", "C"), ("C.two", "C"), ("D.other", "D")]
    )
    suite.begin(one)
    suite.cache.set("k", 1)
    suite.begin(two)
    suite.cache.get("k")
    assert suite.found == []
    suite.begin(other)
    suite.cache.get("k")
    assert suite.found == [(":1:k", "C.one", "D.other", "get")]


@pytest.mark.parametrize("scope", ["function", "empty", "off"])
def test_tests_of_a_class_with_another_scope_do_not_share(scope):
    assert group_of(scope, "C") is None


def test_a_test_that_runs_again_asks_for_its_own_keys(suite):
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.begin("a")
    suite.cache.get("k")
    assert suite.found == []


def test_what_ran_before_the_tests_is_named_so(suite):
    suite.cache.set("k", 1)
    suite.begin("a")
    suite.cache.get("k")
    assert suite.found == [(":1:k", "before the tests", "a", "get")]


# Stores.


@pytest.mark.parametrize("differing", [None, "namespace", "server"])
def test_aliases_with_one_server_and_namespace_are_one_store(site, differing):
    suite, build_another = site
    another = build_another(differing)
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.begin("b")
    another.get("k")
    assert bool(suite.found) is (differing is None)


def test_clients_with_other_prefixes_have_other_keys(suite, client, build):
    prefix = {
        "pymemcache": {"key_prefix": b"p:"},
        "pylibmc": {"behaviors": {"namespace": b"p:"}},
    }
    another = build(OPTIONS=prefix[client])
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.begin("b")
    another.get("k")
    assert suite.found == []


def test_a_long_key_is_named_in_full(suite):
    long = "k" * 200
    suite.begin("a")
    suite.cache.set(long, 1)
    suite.begin("b")
    suite.cache.get_many([long, "k" * 199])
    assert {leak[0] for leak in suite.found} == {f":1:{long}"}


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_text_and_its_bytes_are_one_key(suite):
    suite.begin("a")
    suite.cache._cache.set("schlüssel".encode(), 1)
    suite.begin("b")
    suite.cache._cache.get("schlüssel")
    assert [leak[0] for leak in suite.found] == ["schlüssel"]


@pytest.mark.parametrize("key", [5, None, "\ud800", "with space", "x" * 300])
@pytest.mark.parametrize("command", ["get", "incr", "delete"])
def test_a_key_that_the_client_refuses_does_not_disturb(suite, command, key):
    suite.begin("a")
    watched = outcome(getattr(suite.cache._cache, command), key)
    suite.leaks.stop()
    assert watched == outcome(getattr(suite.cache._cache, command), key)
    assert watched[0] == "raises"
    assert suite.leaks.take().keys == 0


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
@pytest.mark.parametrize("key", [5, None, ["k"], "\ud800", b"\xff"])
def test_a_key_that_a_hidden_outage_lets_pass_does_not_disturb(build, start, key):
    server = start()
    cache = build(server.location, OPTIONS={"ignore_exc": True})
    server.kill()
    suite = Suite(cache)
    watched = outcome(cache._cache.get, key)
    suite.leaks.stop()
    assert watched == outcome(cache._cache.get, key)


# Bounds.


def test_the_keys_that_came_first_are_forgotten(suite, monkeypatch):
    monkeypatch.setattr(leaks_module, "MAX_KEYS", 10)
    suite.begin("a")
    for number in range(11):
        suite.cache.set(f"k{number}", 1)
    suite.begin("b")
    suite.cache.get_many([f"k{number}" for number in range(11)])
    found = suite.leaks.take()
    asked = {leak["key"] for leak in found.as_plain()["leaks"]}
    assert asked == {f":1:k{number}" for number in range(5, 11)}
    assert found.incomplete == {"there were more than 10 keys"}
    assert found.keys >= 11


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
@pytest.mark.parametrize("length", [40, 240])
def test_a_million_keys_take_at_most_300_megabytes(suite, length):
    """Measured with 11,000, for which a dictionary has more room left than for them."""
    suite.begin("a")
    suite.cache.set("first", 1)
    number = 11_000
    tracemalloc.start()
    try:
        for start in range(0, number, 1000):
            keys = [f"{n}".ljust(length, "k") for n in range(start, start + 1000)]
            suite.cache.set_many(dict.fromkeys(keys, 1))
            del keys
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert suite.leaks.take().keys == number + 1
    assert used < 300 * number


def test_keys_are_counted_once(suite):
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.cache.delete("k")
    suite.cache.get("k")
    suite.cache.get("other")
    assert suite.leaks.take().keys == 2
    suite.cache.get_many(["k", "third"])
    assert suite.leaks.take().keys == 1


def test_nothing_is_watched_after_the_end(suite):
    suite.begin("a")
    suite.cache.set("k", 1)
    suite.leaks.stop()
    suite.leaks.begin_test(Actor("b"))
    suite.cache.get("k")
    assert suite.found == []


# Findings.


def findings(*leaks):
    made = Findings()
    for leak in leaks:
        made.add(*leak)
    return made


def test_the_report_has_the_key_that_most_tests_ask_for_first():
    made = findings(
        ("default", ":1:few", "a", "b", "get"),
        ("sessions", ":1:many", "a", "b", "incr"),
        ("sessions", ":1:many", "a", "b", "get"),
        ("sessions", ":1:many", "a", "c", "get"),
        ("sessions", ":1:many", "b", "d", "get"),
    )
    assert made.lines(show_all=False) == [
        "cache leaks: 2 keys that one test cached and another test asked for",
        "  sessions  :1:many   cached by     a, and 1 more",
        "                      asked for by  b (incr), and 2 more",
        "  default   :1:few    cached by     a",
        "                      asked for by  b (get)",
    ]


def test_one_key_is_one_key():
    (line, *_) = findings(("default", "k", "a", "b", "get")).lines(show_all=False)
    assert line == "cache leaks: 1 key that one test cached and another test asked for"


def test_without_leaks_one_line_tells_what_was_watched():
    made = Findings()
    made.tests |= {"a", "b"}
    made.keys = 1234
    assert made.lines(show_all=False) == [
        "cache leaks: none found in 2 tests, which used 1,234 keys"
    ]


def test_twenty_keys_are_shown_unless_all_are_asked_for():
    made = findings(*(("default", f"k{n}", "a", "b", "get") for n in range(22)))
    short, full = made.lines(show_all=False), made.lines(show_all=True)
    assert short[:-1] == full[:41]
    assert short[-1] == "  and 2 more keys: -v shows all"
    assert made.lines(show_all=False, option="-x")[-1] == short[-1].replace("-v", "-x")
    assert len(full) == 1 + 2 * 22


def test_a_long_key_does_not_move_the_others():
    made = findings(
        ("default", "x" * 100, "a", "b", "get"), ("default", "k", "a", "b", "get")
    )
    lines = made.lines(show_all=False)
    assert max(map(len, lines[1:3])) < 80
    assert f"  default  {'x' * 100}   cached by     a" in lines


def test_too_many_findings_are_not_kept(monkeypatch):
    monkeypatch.setattr(findings_module, "MAX_FINDINGS", 2)
    made = findings(*(("default", f"k{n}", "a", "b", "get") for n in range(3)))
    assert len(made.as_plain()["leaks"]) == 2
    assert made.lines(show_all=True)[-1] == (
        "cache leaks: the report is not complete, because there were more than 2 "
        "findings"
    )
    again = findings(*(("default", "k", "a", "b", "get") for n in range(3)))
    assert not again.incomplete


def test_findings_of_workers_are_merged(tmp_path):
    folder = tmp_path / "workers"
    folder.mkdir()
    merged, one = Findings(), findings(("default", "k", "a", "b", "get"))
    one.tests, one.keys = {"a", "b"}, 2
    two = findings(("default", "k", "a", "b", "get"), ("default", "k", "a", "c", "get"))
    two.tests, two.keys = {"a", "c"}, 3
    for each in (one, two):
        each.add_to(folder)
    merged.merge_folder(folder)
    assert not folder.exists()
    assert (merged.tests, merged.keys) == ({"a", "b", "c"}, 5)
    asked = [{"test": test, "command": "get"} for test in ("b", "c")]
    leak = {"alias": "default", "key": "k", "cached_by": "a", "asked_for_by": asked}
    assert merged.as_plain()["leaks"] == [leak]
    assert not merged.incomplete


def test_a_folder_that_a_test_has_deleted_is_mentioned(suite, tmp_path):
    folder = tmp_path / "gone"
    suite.leaks.folder = folder
    suite.leaks.hand_over()
    merged = Findings()
    merged.merge_folder(folder)
    assert merged.incomplete == {ENDED_EARLY}


def test_a_key_has_no_character_that_a_terminal_understands():
    made = findings(("default", "a\n\x1b[1mb\ud800ü", "a", "b", "get"))
    assert made.lines(show_all=False)[1].startswith("  default  a\\n\\x1b[1mb\\ud800ü ")


def test_a_file_that_was_not_written_to_its_end_is_mentioned(tmp_path):
    folder = tmp_path / "workers"
    folder.mkdir()
    findings(("default", "k", "a", "b", "get")).add_to(folder)
    (path,) = folder.iterdir()
    path.write_text(path.read_text() + path.read_text()[:50])
    merged = Findings()
    merged.merge_folder(folder)
    assert len(merged.as_plain()["leaks"]) == 1
    assert merged.incomplete == {ENDED_EARLY}


def test_the_file_has_everything(tmp_path):
    path = tmp_path / "new" / "leaks.json"
    made = findings(("default", b"\xff", "a", "b", "get"))
    assert len(made.report(path, show_all=False)) == 3
    assert json.loads(path.read_text()) == [
        {
            "alias": "default",
            "key": "\\xff",
            "cached_by": "a",
            "asked_for_by": [{"test": "b", "command": "get"}],
        }
    ]


def test_a_file_that_cannot_be_written_has_a_line(tmp_path):
    *_, line = Findings().report(tmp_path, show_all=False)
    assert line.startswith(f"cache leaks: {tmp_path} cannot be written: ")
