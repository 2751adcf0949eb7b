"""Each namespace answers like a dictionary, after any operations in any order.

Two namespaces and a bare neighbour share one server. Two processes use each namespace.
Each of the five carries out any operation. Counters are lost and go back, other users
flush, the server restarts. The expected answers come from Django's own backend, with a
dictionary as its client.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random
from unittest import mock

import pylibmc
import pymemcache
import pytest
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from namespaced_cache.core import generation, registry
from namespaced_cache.keys import counter_key
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.dictionary import Dictionary, asynchronous, outcome, text_of
from tests.support.machines import run_machine
from tests.support.servers import Memcached
from tests.support.uses import WAYS_TO_INVALIDATE

OPTIONS = {
    # The client tries a restarted server again at once.
    "pymemcache": {"no_delay": True, "retry_timeout": 0},
    "pylibmc": {"behaviors": {"cas": True, "tcp_nodelay": True}},
}

#: The errors of a client whose connection broke.
ERRORS_WHILE_DOWN = (OSError, pymemcache.MemcacheServerError, pylibmc.Error)

TEXTS, NUMBERS = ("a", "b"), ("n",)
KEYS = TEXTS + NUMBERS


class Space:
    """The items of one namespace, or of the neighbour, which has none.

    `number` is the generation on the server, or None if the counter is lost. Values
    show their owner: texts by their letter, numbers by their size.
    """

    def __init__(self, client: str, name: str, letter: bytes, base: int) -> None:
        self.name, self.letter, self.base = name, letter, base
        self.counter = counter_key(name)
        self.number: int | None = None
        self.used: set[int] = set()
        self.items = Dictionary(client)
        self.expected = bare_cache(BACKENDS[client], "")
        self.expected._cache = self.items

    def value(self, key: str, size: int):
        return self.base + size if key in NUMBERS else self.letter * (size % 4)

    def is_own(self, value) -> bool:
        if isinstance(value, int):
            return self.base // 2 <= value < self.base * 2  # after incr and decr
        return set(value) <= set(self.letter)


class Process:
    """A user of a space. `latest` is the newest generation that it has seen."""

    def __init__(self, cache, space: Space) -> None:
        self.cache, self.space, self.latest = cache, space, 0


processes = st.integers(0, 3)
everyone = st.integers(0, 4)  # the last one is the neighbour
keys = st.sampled_from(KEYS)
sizes = st.integers(0, 30)
versions = st.sampled_from([None, 2])
timeouts = st.sampled_from([DEFAULT_TIMEOUT, None, DEFAULT_TIMEOUT, None, 0])
ways = st.sampled_from([getattr, getattr, getattr, asynchronous])
arguments = st.fixed_dictionaries(
    {"timeout": timeouts, "version": versions, "way": ways}
)
raw_keys = keys | keys.map(str.encode)


#: Arguments with which a command does nothing, and reads no counter.
NO_KEYS = ([],), ({},)


class Neighbours(RuleBasedStateMachine):
    """The rules. A subclass for each run sets `client` and `server`."""

    client: str
    server: Memcached
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.restarts = self.calm = 0
        # The same rules give the same seeds, or Hypothesis could not repeat them.
        bits = Random(0).getrandbits
        self.random_bits = mock.patch.object(generation.secrets, "randbits", bits)
        self.random_bits.start()
        path, options = BACKENDS[self.client], OPTIONS[self.client]
        neighbour = Space(self.client, "", b"x", 10**10)
        self.bare = bare_cache(path, self.server.location, OPTIONS=options)
        self.bare._cache.flush_all()
        self.spaces = [
            Space(self.client, "shop", b"s", 10**6),
            Space(self.client, "blog", b"b", 10**8),
        ]
        self.users_of_spaces = [self.start(space) for space in self.spaces * 2]
        self.users_of_spaces.append(Process(self.bare, neighbour))
        for who in range(5):
            self.fill(who, who)

    def start(self, space: Space) -> Process:
        """Make a process that has not read the counter yet."""
        cache = our_cache(
            BACKENDS[self.client],
            self.server.location,
            OPTIONS={"NAMESPACE": space.name, **OPTIONS[self.client]},
        )
        with mock.patch.object(registry, "_counters", {}):  # a registry of its own
            assert cache._cache.counter.latest == 0
        return Process(cache, space)

    def teardown(self) -> None:
        self.random_bits.stop()
        # Not close(), which does not close pylibmc's connections.
        for person in self.users_of_spaces:
            person.cache._cache.disconnect_all()

    # How answers are checked.

    def standing(self, space: Space) -> int | None:
        return self.bare._cache.get(space.counter)

    def check(self, person: Process, call, *, reads_the_counter: bool = True) -> None:
        """Call the function with a process's cache, and compare the answers."""
        if reads_the_counter:
            self.outrun(person)
        got = outcome(call, person.cache)
        assert got == outcome(call, person.space.expected)
        if reads_the_counter:
            self.settle(person)
        self.calm += 1

    def outrun(self, person: Process) -> None:
        """Expect a repair of a counter below the latest generation.

        Seeds of the same second are in no order. After a second loss, a process that
        knows nothing of the first may seed a lower number than others know.
        """
        if person.latest > (person.space.number or person.latest):
            person.space.number = None
            self.empty(person.space)

    def settle(self, person: Process) -> None:
        """Assert that the counter has not moved, or was seeded again."""
        space = person.space
        if not space.name:
            return
        standing = self.standing(space)
        if space.number is not None:
            assert standing == space.number
        elif standing is None:  # a read need not seed it if there are no items
            assert not space.items.items
            return
        else:
            assert standing not in space.used
            assert standing > person.latest
        space.used.add(standing)
        space.number = person.latest = standing

    def empty(self, space: Space) -> None:
        for key in list(space.items.items):
            space.items.delete(key)

    @invariant()
    def counters_have_not_moved(self) -> None:
        for space in self.spaces:
            assert self.standing(space) == space.number

    @rule(who=everyone)
    def read_everything(self, who):
        for version in (1, 2):
            self.do(who, "get_many", KEYS, version=version)
        self.do_raw(who, "get_multi", KEYS)

    @rule(who=everyone, size=sizes)
    def fill(self, who, size):
        values = {key: self.users_of_spaces[who].space.value(key, size) for key in KEYS}
        for version in (1, 2):
            self.do(who, "set_many", values, version=version)
        self.do_raw(who, "set_multi", values)

    # Django's methods.

    def do(self, who, method, *args, way=getattr, **kwargs):
        self.check(
            self.users_of_spaces[who],
            lambda cache: way(cache, method)(*args, **kwargs),
            reads_the_counter=args[:1] not in NO_KEYS,
        )

    @rule(
        who=everyone,
        method=st.sampled_from(["set", "add", "get_or_set"]),
        key=keys,
        size=sizes,
        how=arguments,
    )
    def store(self, who, method, key, size, how):
        self.do(
            who, method, key, self.users_of_spaces[who].space.value(key, size), **how
        )

    @rule(
        who=everyone,
        method=st.sampled_from(["get", "has_key", "delete", "incr", "decr"]),
        key=keys,
        version=versions,
        way=ways,
    )
    def use(self, who, method, key, version, way):
        self.do(who, method, key, version=version, way=way)

    @rule(who=everyone, key=keys, timeout=timeouts, version=versions, way=ways)
    def touch(self, who, key, timeout, version, way):
        self.do(who, "touch", key, timeout=timeout, version=version, way=way)

    @rule(
        who=everyone,
        method=st.sampled_from(["get_many", "delete_many"]),
        those=st.lists(keys, min_size=1),
        version=versions,
        way=ways,
    )
    def use_many(self, who, method, those, version, way):
        self.do(who, method, those, version=version, way=way)

    @rule(
        who=everyone,
        those=st.dictionaries(keys, sizes, min_size=1),
        how=arguments,
    )
    def set_many(self, who, those, how):
        value = self.users_of_spaces[who].space.value
        values = {key: value(key, size) for key, size in those.items()}
        self.do(who, "set_many", values, **how)

    @rule(who=everyone, key=keys, delta=st.sampled_from([-1, 1]), way=ways)
    def move_to_another_version(self, who, key, delta, way):
        version = 1 if delta == 1 else 2
        self.do(who, "incr_version", key, delta, version=version, way=way)

    # The client's own commands.

    def do_raw(self, who, command, *args):
        if hasattr(self.bare._cache, command):
            self.check(
                self.users_of_spaces[who],
                lambda cache: getattr(cache._cache, command)(*args),
                reads_the_counter=args[:1] not in NO_KEYS,
            )

    @rule(
        who=everyone,
        command=st.sampled_from(["set", "add", "replace", "__setitem__"]),
        key=raw_keys,
        size=sizes,
    )
    def store_raw(self, who, command, key, size):
        self.do_raw(
            who, command, key, self.users_of_spaces[who].space.value(text_of(key), size)
        )

    @rule(who=everyone, command=st.sampled_from(["append", "prepend"]), size=sizes)
    def lengthen(self, who, command, size):
        self.do_raw(who, command, "a", self.users_of_spaces[who].space.value("a", size))

    @rule(
        who=everyone,
        command=st.sampled_from(
            ["get", "delete", "__getitem__", "__delitem__", "__contains__"]
        ),
        key=raw_keys,
    )
    def use_raw(self, who, command, key):
        self.do_raw(who, command, key)

    @rule(
        who=everyone,
        command=st.sampled_from(["incr", "decr"]),
        key=raw_keys,
        delta=st.integers(0, 20),
    )
    def count_raw(self, who, command, key, delta):
        self.do_raw(who, command, key, delta)

    @rule(who=everyone, key=st.sampled_from(NUMBERS), delta=st.integers(0, 20))
    def count_many_raw(self, who, key, delta):
        self.do_raw(who, "incr_multi", [key], b"", delta)

    @rule(who=everyone, key=raw_keys)
    def touch_raw(self, who, key):
        self.do_raw(who, "touch", key, 1000)

    @rule(
        who=everyone,
        command=st.sampled_from(
            ["get_multi", "get_many", "delete_multi", "delete_many"]
        ),
        those=st.lists(raw_keys, unique_by=text_of),
    )
    def use_many_raw(self, who, command, those):
        self.do_raw(who, command, those)

    @rule(
        who=everyone,
        command=st.sampled_from(["set_multi", "set_many", "add_multi"]),
        those=st.lists(
            st.tuples(raw_keys, sizes), unique_by=lambda item: text_of(item[0])
        ),
    )
    def set_many_raw(self, who, command, those):
        value = self.users_of_spaces[who].space.value
        values = {key: value(text_of(key), size) for key, size in those}
        self.do_raw(who, command, values)

    @rule(target=tokens, who=everyone, key=keys)
    def take_a_token(self, who, key):
        person = self.users_of_spaces[who]
        self.outrun(person)
        value, token = person.cache._cache.gets(key)
        expected, expected_token = person.space.items.gets(key)
        assert value == expected
        self.settle(person)
        if expected_token is None:
            assert token is None
            return multiple()
        return person.space, self.restarts, key, token, expected_token

    @rule(token=consumes(tokens), first=st.booleans(), size=sizes)
    def swap(self, token, first, size):
        """The token may be used by another process in the same space."""
        space, restarts, key, token, expected_token = token
        if restarts != self.restarts:
            return  # a restarted server gives the same
        owners = [person for person in self.users_of_spaces if person.space is space]
        person = owners[0 if first else -1]
        value = space.value(key, size)
        self.outrun(person)
        got = outcome(person.cache._cache.cas, key, value, token)
        assert got == outcome(space.items.cas, key, value, expected_token)
        self.settle(person)

    # The namespace.

    @rule(who=processes, how=st.sampled_from(list(WAYS_TO_INVALIDATE)))
    def invalidate(self, who, how):
        self.invalidated(self.users_of_spaces[who], how)

    def invalidated(self, person: Process, how: str) -> None:
        self.outrun(person)
        space, number = person.space, person.space.number
        answer = WAYS_TO_INVALIDATE[how](person.cache)
        assert answer == {
            "flush_all": True,
            "clear": None,
            "aclear": None,
        }.get(how, self.standing(space))
        if number is not None:
            assert self.standing(space) == number + 1
            space.number = number + 1
        self.empty(space)
        self.settle(person)

    @rule(who=processes)
    def ask_for_the_generation(self, who):
        person = self.users_of_spaces[who]
        self.outrun(person)
        assert person.cache.generation == self.standing(person.space)
        self.settle(person)

    @rule(
        who=processes,
        key=keys,
        size=sizes,
        how=st.sampled_from(list(WAYS_TO_INVALIDATE)),
    )
    def keep_to_one_generation(self, who, key, size, how):
        """Meanwhile another process invalidates it: what is written then is lost."""
        person, other = self.users_of_spaces[who], self.users_of_spaces[(who + 2) % 4]
        value = person.space.value(key, size)
        self.outrun(person)
        with person.cache.pinned_generation() as number:
            self.settle(person)
            assert number == person.space.number
            self.do(who, "set", key, value)
            overtaken = other.latest > number
            self.invalidated(other, how)
            assert person.cache.get(key) == value
            assert person.cache.set_many(dict.fromkeys(TEXTS, value)) == []
            assert overtaken or self.standing(person.space) == number + 1
        self.read_everything(who)

    @rule(who=processes)
    def another_process_takes_its_place(self, who):
        self.users_of_spaces[who].cache._cache.disconnect_all()
        self.users_of_spaces[who] = self.start(self.users_of_spaces[who].space)

    # Events that go wrong from time to time.

    def _is_calm(self):
        return self.calm > 5

    @precondition(_is_calm)
    @rule(which=st.integers(0, 1))
    def a_counter_is_lost(self, which):
        self.calm = 0
        space = self.spaces[which]
        self.bare._cache.delete(space.counter)
        space.number = None
        self.empty(space)

    def _roll_backs(self):
        """Return each process with the old numbers that it would repair."""
        return [
            (person, number)
            for person in self.users_of_spaces[:4]
            for number in sorted(person.space.used)
            if person.space.number is not None and number < person.latest and self.calm
        ]

    @precondition(_roll_backs)
    # Seeds are random. So a draw must not depend on how many numbers there are.
    @rule(
        data=st.data(),
        which=st.integers(0, 1000),
        key=keys,
        size=sizes,
        peek=st.booleans(),
    )
    def a_counter_goes_back(self, data, which, key, size, peek):
        """As on a server that was down and returns with its old items.

        A process with a newer generation repairs the counter. Until then, the others
        may read old items, but only of their own namespace.
        """
        possible = self._roll_backs()
        person, number = possible[which % len(possible)]
        self.calm = 0
        space = person.space
        self.bare._cache.set(space.counter, number)
        for other in self.users_of_spaces[:4]:
            if peek and other.space is space and other.latest <= number:
                found = other.cache.get_many(KEYS) | other.cache._cache.get_multi(KEYS)
                assert all(space.is_own(value) for value in found.values())
                other.latest = number
        space.number = None
        self.empty(space)
        value = space.value(key, size)
        calls = [
            lambda cache: cache.get(key),
            lambda cache: cache.get_many(KEYS),
            lambda cache: cache.add(key, value),
            lambda cache: cache._cache.set(key, value),
            lambda cache: cache.delete(key),
        ]
        self.check(person, data.draw(st.sampled_from(calls)))

    @precondition(_is_calm)
    @rule()
    def a_stranger_flushes_the_server(self):
        self.calm = 0
        self.bare.clear()
        for space in {person.space for person in self.users_of_spaces}:
            space.number = None
            self.empty(space)

    @precondition(lambda self: self._is_calm() and self.restarts < 2)  # they are slow
    @rule()
    def the_server_restarts(self):
        """A broken connection may fail one operation of each process."""
        self.restarts, self.calm = self.restarts + 1, 0
        self.server.restart()
        for person in self.users_of_spaces:
            person.space.number = None
            self.empty(person.space)
        for person in self.users_of_spaces:
            with suppress(*ERRORS_WHILE_DOWN):
                person.cache.get("a")
            # libmemcached does not try the server again for two seconds.
            person.cache._cache.disconnect_all()
        for person in self.users_of_spaces[:4]:
            person.latest = person.cache._cache.counter.latest
        for space in self.spaces:
            space.number = self.standing(space)  # if one of those seeded it
            assert space.number not in space.used


@pytest.mark.parametrize(
    ("times", "steps"), [(30, 50), pytest.param(1000, 100, marks=pytest.mark.stress)]
)
def test_each_namespace_answers_like_a_dictionary(client, start, times, steps):
    run_machine(Neighbours, times, steps, client=client, server=start())
