"""A purge deletes what cannot be returned to anybody any more, and nothing else."""

from __future__ import annotations

import secrets
from contextlib import ExitStack, closing
from random import Random

import pylibmc
import pytest

from namespaced_cache.admin import purge as purge_module
from namespaced_cache.admin.inventory import Inventory
from namespaced_cache.admin.purge import Purge
from namespaced_cache.admin.server import Server
from namespaced_cache.core.generation import is_of_lineage, seed
from namespaced_cache.keys import GenerationKeys, counter_key
from tests.support.ages import TWO_DAYS, aged
from tests.support.caches import BACKENDS, our_cache
from tests.support.servers import ask
from tests.support.uses import as_another_process

DAY = TWO_DAYS // 2

KEYS = [f"k{number}" for number in range(10)]


@pytest.fixture
def client():
    return "pymemcache"


@pytest.fixture
def shared(start):
    """A server that the settings know."""
    return start()


def purged(*servers, dry_run=False):
    """Purge servers, and return how many items of which namespaces were deleted."""
    with ExitStack() as stack:
        inventory = Inventory()
        for server in servers:
            opened = stack.enter_context(Server(server.location))
            inventory.servers.append(opened)
            inventory.counter_servers.append(opened)
        purge = Purge(inventory, DAY, dry_run=dry_run, on_item=lambda: None)
        purge.run()
        return {name: amount.items for name, amount in purge.freed.items()}


def opened(stack, location, name):
    """A cache that knows nothing of the others, as one of another process."""
    cache = our_cache(BACKENDS["pymemcache"], location, OPTIONS={"NAMESPACE": name})
    return stack.enter_context(closing(as_another_process(cache)))


def a_run():
    return f"run-{secrets.token_hex(8)}"


def fill(cache, value="v"):
    cache.set_many(dict.fromkeys(KEYS, value))
    return dict.fromkeys(KEYS, value)


def wire_key(name, generation, key):
    return GenerationKeys(name, generation).wire_key(f":1:{key}").encode()


def pair_with_a_counter_on_the_first(start):
    """Two servers: of an alias on both, the first is the counter server."""
    return sorted((start(), start()), key=lambda server: server.location)


# (a) Counters that these settings do not know.


@pytest.mark.parametrize("known", ["no counter", "a lower one", "a higher one"])
def test_items_of_another_counter_stay(start, known):
    """It is on a server that is not in these settings, and any seed may be higher."""
    unknown, common = pair_with_a_counter_on_the_first(start)
    with ExitStack() as stack:
        theirs = opened(stack, [unknown.location, common.location], "shop")
        expected = fill(theirs)
        if known != "no counter":
            distance = 2**40 if known == "a higher one" else -(2**40)
            number = theirs.generation + distance
            assert ask(common, b"set nsc:shop 0 0 19\r\n%d" % number) == b"STORED\r\n"
        with aged():
            assert purged(common) == {}
        assert theirs.get_many(KEYS) == expected


def test_items_of_a_counter_that_was_lost_and_seeded_again_stay(shared):
    """Nothing tells them from those of a counter on another server."""
    with ExitStack() as stack:
        cache = opened(stack, shared.location, "shop")
        fill(cache)
        first = cache.generation
        ask(shared, b"delete nsc:shop")
        fill(cache)
        assert not is_of_lineage(first, cache.generation)
        with aged():
            assert purged(shared) == {}


def test_what_is_dead_is_deleted(shared):
    """The same, where no clause keeps it."""
    with ExitStack() as stack:
        cache = opened(stack, shared.location, "shop")
        fill(cache)
        cache.invalidate_namespace()
        expected = fill(cache, "w")
        with aged():
            assert purged(shared, dry_run=True) == {"shop": len(KEYS)}
            assert purged(shared) == {"shop": len(KEYS)}
            assert purged(shared) == {}
        assert cache.get_many(KEYS) == expected


def test_a_run_whose_counter_is_not_known_stays(start):
    """It may be in use all day, by items on the other server."""
    unknown, common = pair_with_a_counter_on_the_first(start)
    with ExitStack() as stack:
        both = [unknown.location, common.location]
        theirs = opened(stack, both, a_run())
        expected = fill(theirs)
        with aged():
            assert purged(common) == {}
        assert theirs.get_many(KEYS) == expected


# (b) Items that are in use, although nothing reads the counter.


@pytest.mark.parametrize("used", KEYS[:3])
def test_a_run_of_which_one_item_is_used_stays(shared, used):
    name = a_run()
    with ExitStack() as stack:
        cache = opened(stack, shared.location, name)
        expected = fill(cache)
        key = wire_key(name, cache.generation, used)
        with aged(lambda each: 0 if each == key else TWO_DAYS):
            assert purged(shared) == {}
        assert cache.get_many(KEYS) == expected


def test_a_run_whose_counter_alone_is_used_stays(shared):
    name = a_run()
    with ExitStack() as stack:
        cache = opened(stack, shared.location, name)
        expected = fill(cache)
        counter = counter_key(name).encode()
        with aged(lambda each: 0 if each == counter else TWO_DAYS):
            assert purged(shared) == {}
        assert cache.get_many(KEYS) == expected


@pytest.mark.parametrize("name", ["shop", "run-0123456789abcdef"])
def test_a_dead_generation_of_which_one_item_is_used_stays(shared, name):
    """By a block with a pinned generation. Other dead generations go."""
    with ExitStack() as stack:
        cache, other = (opened(stack, shared.location, name) for _ in range(2))
        fill(cache, "older")
        cache.invalidate_namespace()
        expected = fill(cache, "pinned")
        with cache.pinned_generation() as generation:
            other.invalidate_namespace()
            fill(other, "live")
            used = {
                wire_key(name, generation, KEYS[0]),
                counter_key(name).encode(),
            }
            with aged(lambda each: 0 if each in used else TWO_DAYS):
                assert purged(shared) == {name: len(KEYS)}
            assert cache.get_many(KEYS) == expected
        assert other.get_many(KEYS) == dict.fromkeys(KEYS, "live")


@pytest.mark.parametrize("servers", [2, 3])
def test_a_run_that_is_used_on_one_server_stays_on_all(start, servers):
    pair = [start() for _ in range(servers)]
    name = a_run()
    with ExitStack() as stack:
        cache = opened(stack, [server.location for server in pair], name)
        expected = fill(cache)
        key = wire_key(name, cache.generation, KEYS[0])
        with aged(lambda each: 0 if each == key else TWO_DAYS):
            assert purged(*pair) == {}
        assert cache.get_many(KEYS) == expected
        with aged():
            assert purged(*pair) == {name: len(KEYS)} or purged(*pair) == {}
        assert cache.get_many(KEYS) == {}


# (c) Runs that wake up.


@pytest.mark.parametrize("wakes_at", range(1, 9))
@pytest.mark.parametrize("batch", [3, 1000])
def test_a_run_that_wakes_up_during_a_purge_finds_all_or_nothing(
    shared, monkeypatch, batch, wakes_at
):
    """Before any of the questions and deletions that are sent to the server."""
    monkeypatch.setattr(purge_module, "_BATCH", batch)
    name, sent, found = a_run(), [], []
    used: set[bytes] = set()
    with ExitStack() as stack:
        cache = opened(stack, shared.location, name)
        expected = fill(cache)
        keys = {wire_key(name, cache.generation, key) for key in KEYS}

        def before(method):
            def hooked(server, argument):
                argument = list(argument)
                sent.append(method.__name__)
                if len(sent) == wakes_at:
                    found.append(cache.get_many(KEYS))
                    used.update(keys, [counter_key(name).encode()])
                return method(server, argument)

            return hooked

        with (
            aged(lambda each: 0 if each in used else TWO_DAYS),
            monkeypatch.context() as patch,
        ):
            patch.setattr(Server, "states", before(Server.states))
            patch.setattr(Server, "delete", before(Server.delete))
            purged(shared)
        for answer in found:
            assert answer in (expected, {})
        assert cache.get_many(KEYS) in (expected, {})
        if found == [{}]:
            assert cache.get_many(KEYS) == {}
        if wakes_at <= 2:  # before it was asked whether the items are unused
            assert cache.get_many(KEYS) == expected


@pytest.mark.parametrize("name", ["shop", "run-0123456789abcdef"])
@pytest.mark.parametrize("used", [KEYS[:1], KEYS])
def test_a_pinned_block_that_wakes_up_after_the_walk_keeps_its_items(
    shared, monkeypatch, name, used
):
    """It does not read the counter, so its items alone tell that it is in use."""
    with ExitStack() as stack:
        cache, other = (opened(stack, shared.location, name) for _ in range(2))
        expected = fill(cache)
        with cache.pinned_generation() as generation:
            other.invalidate_namespace()
            keys = {wire_key(name, generation, key) for key in used}
            asked: list[bytes] = []
            states = Server.states

            def hooked(server, argument):
                asked.extend(argument)
                return states(server, argument)

            monkeypatch.setattr(Server, "states", hooked)

            def age_of(key):
                return 0 if key in keys and keys & {*asked} else TWO_DAYS

            with aged(age_of):
                assert purged(shared) == {}
            assert keys <= {*asked}
            assert cache.get_many(KEYS) == expected


def test_an_item_that_is_stored_after_the_question_stays(shared):
    """It has another number of its last change."""
    with Server(shared.location) as server:
        assert ask(shared, b"set a 0 0 1\r\nv") == b"STORED\r\n"
        (state,) = server.states([b"a"])
        assert ask(shared, b"set a 0 0 1\r\nw") == b"STORED\r\n"
        server.delete([(b"a", state.cas)])
        assert server.value(b"a") == b"w"
        (state,) = server.states([b"a"])
        server.delete([(b"a", state.cas)])
        assert server.value(b"a") is None


# (d) Keys of others.

LOOKALIKES = [
    b"nsc:shop:users:1",
    b"nsc:shop:0:1",
    b"nsc:shop:1:1",
    b"nsc:shop:notification:x",  # a number in base 36, and in range or not
    b"nsc:shop:zzzzzzzzzzzzz:1",
    b"nsc:shop:1y2p0ij32e8e8:1",  # above the largest generation
    b"nsc:shop:0dll21jtdkswz:1",  # a generation with another spelling
    b"nsc:shop:7ihgd4xksqf3:k",
    b"nsc:shop:sessions~a~b",
    b"nsc:run-0123456789abcdef:users:1",
    b"nsc:run-0123456789abcdef:0:1",
]


@pytest.mark.parametrize("with_counter", [True, False])
def test_keys_of_others_stay(shared, with_counter):
    """Above and below the counter, and without one."""
    if with_counter:
        for name in (b"shop", b"run-0123456789abcdef"):
            number = seed(0) + 500
            assert ask(shared, b"set nsc:%b 0 0 19\r\n%d" % (name, number))
    for key in LOOKALIKES:
        assert ask(shared, b"set %b 0 0 1\r\nv" % key) == b"STORED\r\n"
    with aged():
        purged(shared)
    for key in LOOKALIKES:
        assert b"\r\nv\r\n" in ask(shared, b"get %b" % key), key


@pytest.mark.parametrize("line_end", [b" la=99999999 cas=1 ", b"\nME", b"\r\n", b"\n"])
def test_a_key_that_looks_like_an_answer_is_no_answer(shared, line_end):
    """The binary protocol may store it."""
    with Server(shared.location) as server:
        key = b"nsc:shop:%b:x" % line_end
        assert pylibmc.Client([shared.location], binary=True).set(key, "v")
        first, state, last = server.states([b"none", key, b"none"])
        assert (first, last) == (None, None)
        assert state.idle < 100
        assert state.cas >= 1
        server.delete([(key, state.cas)])
        assert server.states([key]) == [None]


# All at once.


class Actor:
    """One process, and what it must find in the generation that it uses."""

    def __init__(self, world, cache, name):
        self.world, self.cache, self.name = world, cache, name
        self.expected: dict[str, str] = {}
        self.pin = None
        self.kind = ""

    def write(self):
        if self.may_lose_all:
            self.read()
        values = {key: secrets.token_hex(4) for key in self.world.some_keys()}
        self.cache.set_many(values)
        self.expected |= values
        self.used(values)

    def read(self):
        found = self.cache.get_many(KEYS)
        if self.may_lose_all and not found:
            self.expected = {}
        assert found == self.expected, self.kind
        self.used(found)

    def invalidate(self):
        self.cache.invalidate_namespace()
        self.expected = {}
        self.used([])

    def used(self, keys):
        """Note as used what memcached would."""
        latest = self.cache._cache.counter.latest
        generation = self.pin or latest
        self.world.ages.update(
            dict.fromkeys([wire_key(self.name, generation, key) for key in keys], 0)
        )
        if self.pin is None:
            self.world.ages[counter_key(self.name).encode()] = 0

    may_lose_all = False


class World:
    """Actors on a server that the purge knows, and on one that it does not know."""

    def __init__(self, stack, unknown, common, random):
        self.random = random
        self.ages: dict[bytes, int] = {}
        self.is_purging = False
        name = f"shop-{secrets.token_hex(4)}"
        here, both = common.location, [unknown.location, common.location]
        self.site = Actor(self, opened(stack, here, name), name)
        self.foreign = Actor(self, opened(stack, both, name), name)
        self.pinned = Actor(self, opened(stack, here, name), name)
        self.runs = []
        for number in range(4):
            run = a_run()
            self.runs.append(
                Actor(self, opened(stack, both if number == 3 else here, run), run)
            )
        # The counter of the last one is unknown to the purge.
        self.awake = [self.runs[0], self.runs[3]]
        for actor in (self.site, self.foreign, *self.runs):
            for _ in range(random.randint(1, 3)):
                actor.write()
                if random.random() < 0.5:
                    actor.invalidate()
            actor.write()
        # A block that goes on in a generation that ends.
        self.pinned.expected = dict(self.site.expected)
        self.pinned.pin = stack.enter_context(self.pinned.cache.pinned_generation())
        self.site.invalidate()
        self.site.write()
        for kind in ("site", "foreign", "pinned"):
            getattr(self, kind).kind = kind
        for number, actor in enumerate(self.runs):
            actor.kind = f"run {number}"
        # All that sleeps was not used for two days.
        self.ages.clear()
        for actor in self.runs[1:3]:
            actor.may_lose_all = True
        self.use_all()

    def some_keys(self):
        return self.random.sample(KEYS, self.random.randint(1, len(KEYS)))

    def use_all(self):
        """Use one item of each that is awake, as a process does within a day."""
        for actor in (self.pinned, *self.awake):
            actor.used(list(actor.expected)[:1])

    def happen(self):
        """Let something happen while the purge is under way."""
        what = self.random.randint(0, 7)
        if what == 0:
            self.site.write()
        elif what == 1:
            self.site.invalidate()
            self.site.write()
        elif what == 2:
            self.foreign.write()
        elif what == 3:
            self.pinned.write()
        elif what == 4:
            actor = self.random.choice(self.runs)
            actor.read()
            if actor not in self.awake:
                self.awake.append(actor)
        elif what == 5:
            self.random.choice(self.awake).write()

    def check(self):
        for actor in (self.site, self.foreign, self.pinned, *self.runs):
            actor.read()


@pytest.mark.parametrize("batch", [2, 1000])
@pytest.mark.parametrize("times", [15, pytest.param(500, marks=pytest.mark.stress)])
def test_beside_live_traffic_no_item_that_is_alive_is_deleted(
    start, monkeypatch, times, batch
):
    """Compared to the byte, whatever happens between the steps of the purge."""
    unknown, common = pair_with_a_counter_on_the_first(start)
    monkeypatch.setattr(purge_module, "_BATCH", batch)
    deleted = 0
    for number in range(times):
        random = Random(number)
        with ExitStack() as stack:
            world = World(stack, unknown, common, random)

            def before(method, world=world):
                def hooked(server, argument):
                    argument = list(argument)
                    world.happen()
                    return method(server, argument)

                return hooked

            with aged(lambda key, ages=world.ages: ages.get(key, TWO_DAYS)):
                with monkeypatch.context() as patch:
                    patch.setattr(Server, "states", before(Server.states))
                    patch.setattr(Server, "delete", before(Server.delete))
                    freed = purged(common)
                deleted += sum(freed.values())
                world.check()
                purged(common)
                world.check()
        ask(common, b"flush_all")
        ask(unknown, b"flush_all")
    assert deleted > 5 * times
