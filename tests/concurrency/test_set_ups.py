"""Each test finds what set-up has cached, after any operations in any order.

The expected answers come from Django's own backend, with a dictionary as its client.
The dictionary is copied at the end of a set-up, and a copy is put in before each test.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from namespaced_cache.test.set_up import SetUps
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.dictionary import Dictionary, outcome
from tests.support.machines import run_machine
from tests.support.uses import WAYS_TO_INVALIDATE

OPTIONS = {"pymemcache": {}, "pylibmc": {"behaviors": {"cas": True}}}

#: One is longer than fits into a wire key, and one is not ASCII.
TEXTS = "a", "ß" * 60, "b" * 240
NUMBERS = ("n",)
KEYS = TEXTS + NUMBERS

keys = st.sampled_from(KEYS)
sizes = st.integers(0, 30)
versions = st.sampled_from([None, 2])
arguments = st.fixed_dictionaries(
    {
        "timeout": st.sampled_from([DEFAULT_TIMEOUT, None, 1000, 0]),
        "version": versions,
    }
)


def value(key, size):
    return 10**6 + size if key in NUMBERS else b"v" * (size % 4)


class SetUpsAndTests(RuleBasedStateMachine):
    """The rules. A subclass for each run sets `client` and `locations`."""

    client: str
    locations: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.cache = our_cache(
            BACKENDS[self.client],
            self.locations,
            OPTIONS={"NAMESPACE": "set-ups", **OPTIONS[self.client]},
        )
        self.warnings: list[str] = []
        self.set_ups = SetUps(lambda: [self.cache], self.warnings.append)
        self.expected = bare_cache(BACKENDS[self.client], "")
        self.expected._cache = Dictionary(self.client)
        #: What each set-up that is in force has left, and whether another one runs.
        self.left: list[Dictionary] = []
        self.is_running = False
        self.renew()

    def teardown(self) -> None:
        self.set_ups.cancel()
        assert self.warnings == []
        self.cache._cache.disconnect_all()

    def renew(self) -> None:
        """Do what isolation does before each test and each set-up."""
        generation = self.cache.invalidate_namespace()
        self.set_ups.restore([self.cache], {self.cache._cache.counter: generation})
        last = self.left[-1] if self.left else Dictionary(self.client)
        self.expected._cache = deepcopy(last)

    def check(self, call) -> None:
        assert outcome(call, self.cache) == outcome(call, self.expected)

    @invariant()
    def both_have_the_same(self) -> None:
        for version in (1, 2):
            self.check(lambda cache, v=version: cache.get_many(KEYS, version=v))

    # Set-ups and tests.

    @precondition(lambda self: not self.is_running and len(self.left) < 3)
    @rule()
    def set_up_begins(self):
        self.renew()
        self.set_ups.begin(len(self.left), "a set-up")
        self.is_running = True

    @precondition(lambda self: self.is_running)
    @rule()
    def set_up_ends(self):
        self.set_ups.end()
        self.left.append(deepcopy(self.expected._cache))
        self.is_running = False

    @precondition(lambda self: not self.is_running)
    @rule()
    def a_test_begins(self):
        self.renew()

    @precondition(lambda self: self.left and not self.is_running)
    @rule()
    def what_was_set_up_is_torn_down(self):
        self.left.pop()
        self.set_ups.forget(len(self.left))
        self.renew()

    # Operations.

    @rule(
        method=st.sampled_from(["set", "add", "get_or_set"]),
        key=keys,
        size=sizes,
        how=arguments,
    )
    def store(self, method, key, size, how):
        self.check(lambda cache: getattr(cache, method)(key, value(key, size), **how))

    @rule(
        method=st.sampled_from(["get", "delete", "incr", "decr", "touch"]),
        key=keys,
        version=versions,
    )
    def use(self, method, key, version):
        self.check(lambda cache: getattr(cache, method)(key, version=version))

    @rule(those=st.dictionaries(keys, sizes, min_size=1), how=arguments)
    def set_many(self, those, how):
        values = {key: value(key, size) for key, size in those.items()}
        self.check(lambda cache: cache.set_many(values, **how))

    @rule(those=st.lists(keys, min_size=1, unique=True), version=versions)
    def delete_many(self, those, version):
        self.check(lambda cache: cache.delete_many(those, version=version))

    @rule(key=keys)
    def move_to_another_version(self, key):
        self.check(lambda cache: cache.incr_version(key))

    @rule(how=st.sampled_from(list(WAYS_TO_INVALIDATE)))
    def invalidate(self, how):
        WAYS_TO_INVALIDATE[how](self.cache)
        self.expected._cache = Dictionary(self.client)

    def check_raw(self, command, key, *args):
        """Use a client's own command on the item of a key."""
        if hasattr(self.expected._cache, command):
            made = self.cache.make_key(key)
            self.check(lambda cache: getattr(cache._cache, command)(made, *args))

    @rule(
        command=st.sampled_from(
            ["set", "add", "replace", "append", "prepend", "__setitem__"]
        ),
        key=st.sampled_from(TEXTS),
        size=sizes,
    )
    def store_raw(self, command, key, size):
        if hasattr(self.cache._cache.wrapped, command):
            self.check_raw(command, key, value(key, size))

    @rule(command=st.sampled_from(["delete", "__delitem__"]), key=keys)
    def delete_raw(self, command, key):
        if hasattr(self.cache._cache.wrapped, command):
            self.check_raw(command, key)

    @rule(key=keys, size=sizes)
    def swap(self, key, size):
        def swap(cache):
            client, made = cache._cache, self.cache.make_key(key)
            found, token = client.gets(made)
            return found, token and client.cas(made, value(key, size), token)

        self.check(swap)


@pytest.mark.parametrize("count", [1, 3], ids=["one server", "three"])
@pytest.mark.parametrize(
    ("times", "steps"), [(30, 40), pytest.param(1000, 100, marks=pytest.mark.stress)]
)
def test_each_test_finds_what_set_up_has_left(client, start, count, times, steps):
    locations = [start().location for _ in range(count)]
    run_machine(SetUpsAndTests, times, steps, client=client, locations=locations)
