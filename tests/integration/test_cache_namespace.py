"""`manage.py cache_namespace` on real servers: what it lists, deletes and leaves."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
import time
from contextlib import closing

import pylibmc
import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from namespaced_cache.admin.inventory import Inventory
from namespaced_cache.admin.server import Server
from namespaced_cache.core import identity
from namespaced_cache.keys import GenerationKeys
from namespaced_cache.management.commands import cache_namespace
from tests.support.ages import TWO_DAYS, aged
from tests.support.caches import BACKENDS, our_cache
from tests.support.side_by_side import Watched
from tests.support.uses import as_another_process
from tests.support.wires import answering

HEAD = [
    "namespace",
    "generation",
    "first seen",
    "last seen",
    "live",
    "dead",
    "unclaimed",
]
#: A generation, a hundred invalidations after its counter was seeded.
NEWEST = 1_790_000_000_000_000_100


def setting(client, location, **options):
    """Return the setting of a bare alias, as on a site whose tests are namespaced."""
    return {"BACKEND": BACKENDS[client], "LOCATION": location, "OPTIONS": options}


def run(caches, *arguments, out=None, err=None):
    """Run the command on these CACHES. Return its output and its error output."""
    out = io.StringIO() if out is None else out
    err = io.StringIO() if err is None else err
    with override_settings(CACHES=caches):
        call_command(cache_namespace.Command(), *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def listed(caches, *arguments):
    """Return the output of `list`, by namespace."""
    out, _ = run(caches, "list", "--json", *arguments)
    return {each["name"]: each for each in json.loads(out)}


def amounts(namespace):
    """Return how many items are live, dead and unclaimed."""
    return [namespace[state]["items"] for state in ("live", "dead", "unclaimed")]


class Wire(Watched):
    """A plain connection to a server."""

    def fill(self, items) -> None:
        """Store pairs of key and value, many at once."""
        commands = [b"ms %b %d q\r\n%b\r\n" % (k, len(v), v) for k, v in items]
        assert self.ask(b"".join(commands) + b"mn\r\n", b"MN\r\n") == b"MN\r\n"

    def everything(self):
        """Return all items with their values."""
        with Server(self._socket.getpeername()) as server:
            keys = [item.key for item in server.items(b"")]
        found = {}
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            asked = b"".join(b"mg %b v k q\r\n" % key for key in some) + b"mn\r\n"
            lines = self.ask(asked, b"MN\r\n").split(b"\r\n")[:-2]
            for head, value in zip(lines[::2], lines[1::2], strict=True):
                found[head.split(b" k", 1)[1]] = value
        assert len(found) == len(keys)
        return found


@pytest.fixture
def wire(server):
    with closing(Wire(server)) as wire:
        yield wire


@pytest.fixture
def site(server, client):
    """A site's own CACHES."""
    return {"default": setting(client, server.location)}


@pytest.fixture
def named(build):
    """Build a cache in a namespace with this name, like one in another process."""
    return lambda name: as_another_process(build(OPTIONS={"NAMESPACE": name}))


def fill(cache, generations, items=3):
    """Store so many items in each of so many generations."""
    for number in range(generations):
        if number:
            cache.invalidate_namespace()
        cache.set_many({f"k{n}": "v" * 100 for n in range(items)})


def test_it_lists_live_and_dead_items(site, named, bare):
    fill(named("shop"), 3)
    fill(named("api"), 1)
    bare.set("k", "the site's")
    found = listed(site)
    assert list(found) == ["api", "shop"]
    assert amounts(found["api"]) == [3, 0, 0]
    assert amounts(found["shop"]) == [3, 6, 0]
    assert found["shop"]["generation"] == named("shop").generation
    assert found["shop"]["last_seen"] <= found["shop"]["first_seen"] <= 2
    assert found["shop"]["dead"]["bytes"] == 2 * found["shop"]["live"]["bytes"]
    assert 300 < found["shop"]["live"]["bytes"] < 900


def test_it_lists_a_table_for_people(site, named):
    fill(named("shop"), 2)
    out, _ = run(site, "list")
    head, line = out.splitlines()
    assert re.split("  +", head) == HEAD
    name, generation, *_ = line.split()
    assert (name, int(generation)) == ("shop", named("shop").generation)
    assert re.findall(r"(\d+) \([\d,]+ B\)", line) == ["3", "3", "0"]


def test_items_without_a_counter_are_unclaimed_and_stay(site, named, wire):
    cache = named("shop")
    fill(cache, 2)
    delete_the_counter(wire)
    (found,) = listed(site).values()
    assert amounts(found) == [0, 0, 6]
    assert found["generation"] is None
    before = wire.everything()
    with aged():
        run(site, "purge")
    assert wire.everything() == before


def test_items_above_the_counter_are_unclaimed_and_stay(site, wire):
    keys = GenerationKeys("shop", NEWEST + 1)
    above = {keys.wire_key(key).encode(): b"v" for key in "ab"}
    wire.fill([(b"nsc:shop", b"%d" % NEWEST), *above.items()])
    assert amounts(listed(site)["shop"]) == [0, 0, 2]
    with aged():
        run(site, "purge")
    assert above.items() <= wire.everything().items()


@pytest.mark.parametrize(
    "key",
    [
        b"nsc:shop:users:1",  # the word "users" is a number in base 36, but too low
        b"nsc:shop:0:1",
        b"nsc::1",
        b"nsc:shop:%d:k" % NEWEST,
    ],
)
def test_keys_of_other_programs_are_not_listed_and_stay(site, wire, key):
    wire.fill([(key, b"v")])
    assert listed(site) == {}
    with aged():
        run(site, "purge")
    assert wire.everything() == {key: b"v"}


def test_rubbish_in_the_counter_makes_no_item_dead(site, wire):
    key = GenerationKeys("shop", NEWEST).wire_key("k").encode()
    wire.fill([(b"nsc:shop", b"rubbish"), (key, b"v")])
    assert amounts(listed(site)["shop"]) == [0, 0, 1]
    before = wire.everything()
    with aged():
        run(site, "purge")
    assert wire.everything() == before


def strangers(namespaces):
    """Give keys that look like wire keys but belong to no namespace."""
    yield from (b"plain", b":1:k", b"nsc", b"nsc:", b"nsc::1:k", b"nscx:a:1:k")
    for name in namespaces:
        # Generations contain no capital letters.
        yield from (name + b":1:k", b"x" + b"nsc:" + name, b"nsc:" + name + b":A:k")


@pytest.mark.parametrize(
    "total", [5_000, pytest.param(1_000_000, marks=pytest.mark.stress)]
)
def test_a_purge_deletes_dead_items_and_leaves_all_others_unchanged(start, total):
    """It needs little memory, and shows its progress."""
    server = start("-m", "1024")
    names = [f"name{number}" for number in range(20)]
    generations = {
        (name, back): GenerationKeys(name, NEWEST - back)
        for name in names
        for back in range(3)
    }
    dead = 0
    stay = dict.fromkeys(strangers(map(str.encode, names)), b"stranger")
    stay |= {b"nsc:" + name.encode(): b"%d" % NEWEST for name in names}
    with closing(Wire(server)) as wire:
        wire.fill(stay.items())
        batch = []
        for number in range(total - len(stay)):
            name, back = names[number % 20], number // 20 % 3
            key = generations[name, back].wire_key(f":1:key:{number}").encode()
            batch.append((key, b"%020d" % number))
            if back:
                dead += 1
            elif total < 100_000 or number % 100 < 20:
                stay[key] = batch[-1][1]
            if len(batch) == 2000:
                wire.fill(batch)
                batch.clear()
        wire.fill(batch)
        project = [
            "from django.conf import settings",
            f"caches = {{'default': {setting('pymemcache', server.location)!r}}}",
            "settings.configure(CACHES=caches, INSTALLED_APPS=['namespaced_cache'])",
            "import django, resource, sys; django.setup()",
            "from django.core.management import call_command",
            "from namespaced_cache.management.commands import cache_namespace",
            "from tests.support.ages import aged",
            "cache_namespace.PROGRESS_AFTER = 0",
            "with aged(): call_command('cache_namespace', 'purge')",
            "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss",
            "print('peak', peak // 1024)",
        ]
        # A small process starts the command, because the system counts a parent's
        # memory as its child's.
        call = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", call, sys.executable, "-c", "\n".join(project)],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        *_, summary, peak = done.stdout.splitlines()
        assert summary.startswith(f"{dead:,} (")
        assert summary.endswith(" of 20 namespaces deleted")
        assert int(peak.split()[1]) < 200
        percents = [line.split(" %")[0].strip() for line in done.stderr.splitlines()]
        assert percents == [str(percent) for percent in range(10, 101, 10)]
        with Server(server.location) as asked:
            assert asked.count() == total - dead
        left = wire.everything()
        assert len(left) == total - dead
        assert stay.items() <= left.items()


def test_the_command_waits_for_a_busy_server(client, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    answers = [
        b"STAT curr_items 1\r\nEND\r\n",
        b"STAT time 100\r\nEND\r\n",
        *[b"BUSY currently processing crawler request\r\n"] * 3,
        b"key=nsc%3Ashop exp=-1 la=90 cas=1 fetch=no cls=1 size=85\nEND\r\n",
        b"HD l10 c1\r\n",
        b"VA 19\r\n%d\r\n" % NEWEST,
    ]
    with answering(*answers) as (host, port):
        out, err = run({"default": setting(client, f"{host}:{port}")}, "list")
    assert len(pauses) == 3
    said = f"{host}:{port} is busy with another walk: waiting.\n"
    assert err.count(said) == 3
    assert f"shop  {NEWEST}" in re.sub(" +", "  ", out)


def test_a_walk_by_another_client_does_no_harm(start, client):
    """memcached answers that it is busy, or waits until that client has finished."""
    server = start()
    with closing(Wire(server)) as filling, closing(Wire(server)) as other:
        # Too much for the buffers, because each "/" is listed as "%2F", but too few
        # items for the hash table to grow.
        keys = GenerationKeys("shop", NEWEST - 1)
        names = (keys.wire_key(f"{number:/>200}") for number in range(18_000))
        filling.fill((name.encode(), b"") for name in names)
        filling.fill([(b"nsc:shop", b"%d" % NEWEST)])
        other.ask(b"lru_crawler metadump all\r\n", b"")  # the answer is not read
        reading = threading.Timer(1, other.ask, [b"", b"END\r\n"])
        reading.start()
        with aged():
            out, _ = run({"default": setting(client, server.location)}, "purge")
        reading.join()
    assert out.startswith("shop: 18,000 (")


def test_an_interrupted_purge_can_be_repeated(site, named, monkeypatch):
    cache = named("shop")
    fill(cache, 4, items=1000)
    delete, batches = Server.delete, []

    def interrupted(server, items):
        if batches:
            raise KeyboardInterrupt
        batches.append(list(items))
        delete(server, batches[0])

    with monkeypatch.context() as patch:
        patch.setattr(Server, "delete", interrupted)
        out = io.StringIO()
        with (
            aged(),
            pytest.raises(
                CommandError, match="the next purge continues"
            ) as interruption,
        ):
            run(site, "purge", out=out)
    assert interruption.value.returncode == 130
    assert out.getvalue().startswith("shop: 1,000 (")
    assert amounts(listed(site)["shop"]) == [1000, 2000, 0]
    with aged():
        run(site, "purge")
    assert amounts(listed(site)["shop"]) == [1000, 0, 0]
    assert len(cache.get_many(f"k{n}" for n in range(1000))) == 1000


def test_a_dry_run_reports_and_deletes_nothing(site, named, wire):
    fill(named("shop"), 2)
    before = wire.everything()
    with aged():
        out, _ = run(site, "purge", "--dry-run")
    assert out.splitlines()[-1].startswith("3 (")
    assert out.endswith(" of 1 namespace would be deleted\n")
    assert wire.everything() == before


@pytest.fixture
def runs(server):
    """A run with one live and one dead item, and its worker, whose counter is lost."""
    name = "run-0123456789abcdef"
    items = {
        f"nsc:{name}": b"%d" % NEWEST,
        GenerationKeys(name, NEWEST).wire_key("k"): b"v",
        GenerationKeys(name, NEWEST - 1).wire_key("k"): b"v",
        GenerationKeys(f"{name}.gw0", NEWEST).wire_key("k"): b"v",
        # This name only looks like that of a worker.
        f"nsc:{name}0": b"%d" % NEWEST,
        GenerationKeys(f"{name}0", NEWEST).wire_key("k"): b"v",
    }
    with closing(Wire(server)) as wire:
        wire.fill((key.encode(), value) for key, value in items.items())
    return name


def test_a_run_that_goes_on_loses_only_its_dead_items(site, runs, wire):
    before = wire.everything()
    dead = GenerationKeys(runs, NEWEST - 1).wire_key("k").encode()
    run(site, "purge")
    assert wire.everything() == before  # a pinned block may use it
    with aged(lambda key: TWO_DAYS * (key == dead)):
        run(site, "purge")
    assert before.keys() - wire.everything().keys() == {dead}


def test_code_may_give_the_age_as_text(site, named, wire):
    fill(named("shop"), 2)
    with aged(), override_settings(CACHES=site):
        command = cache_namespace.Command()
        call_command(command, "purge", older_than="1h", stdout=io.StringIO())
    assert len(wire.everything()) == 1 + 3


def test_a_finished_run_loses_all_its_items(site, runs, wire, monkeypatch):
    monkeypatch.setattr(cache_namespace, "IDLE_AFTER", 1)
    wait_until_idle(wire, runs)
    found = listed(site)
    assert found[runs]["generation"] == NEWEST
    assert amounts(found[runs]) == [1, 1, 0]
    # Listing the run does not count as an access.
    out, _ = run(site, "purge", "--older-than", "2s")
    assert out.splitlines()[-1].startswith("3 (")
    # The worker's counter may be on a server that these settings do not name.
    left = {each["name"] for each in listed(site).values()}
    assert left == {f"{runs}0", f"{runs}.gw0"}
    assert len(wire.everything()) == 3


def wait_until_idle(wire, name):
    """Wait until a run was not used for two seconds, by the server's clock."""
    deadline = time.monotonic() + 30
    idle = b"0"
    while int(idle) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        answer = wire.ask(b"me nsc:%b\r\n" % name.encode(), b"\r\n")
        (idle,) = re.findall(rb" la=(\d+)", answer)


def delete_the_counter(wire):
    wire.ask(b"delete nsc:shop\r\n", b"DELETED\r\n")


EACH_WAY_TO_LOSE = pytest.mark.parametrize(
    "lose",
    [delete_the_counter, lambda wire: wire.fill([(b"nsc:shop", b"rubbish")])],
    ids=["lost", "rubbish"],
)


def test_a_generation_that_begins_during_the_walk_is_live(named, server):
    cache = named("shop")
    fill(cache, 1)
    with Server(server.location) as walked:
        taken = Inventory()
        taken.counter_servers.append(walked)
        states = []
        for found in taken.walk(walked):
            states.append(found.state.value)
            if len(states) == 1:
                cache.invalidate_namespace()
                cache.set("k0", "newer")
        again = [found.state.value for found in taken.walk(walked)]
    assert sorted(states) == ["counter", "live", "live", "live"]
    assert again.count("live") >= 1
    (namespace,) = taken.namespaces.values()
    assert namespace.generation == cache.generation
    # From the second walk, only the new item is live. From the first, those that were
    # live.
    assert (namespace.live.items, namespace.dead.items) == (1, 6)


@EACH_WAY_TO_LOSE
def test_a_counter_that_is_lost_during_the_walk_makes_no_item_dead(
    named, server, wire, lose
):
    cache = named("shop")
    fill(cache, 1)
    above = GenerationKeys("shop", cache.generation + 1).wire_key("k").encode()
    with Server(server.location) as walked:
        taken = Inventory()
        taken.counter_servers.append(walked)
        for _ in taken.walk(walked):
            pass
        lose(wire)
        wire.fill([(above, b"v")])
        states = {found.state.value for found in taken.walk(walked)}
    assert "unclaimed" in states
    assert "dead" not in states
    assert taken.namespaces["shop"].dead.items == 0


def test_of_two_counters_the_lower_decides_which_items_are_dead(client, start):
    """Two sites may use one name, and share some of their servers."""
    pair = [start(), start()]
    caches = {"default": setting(client, [server.location for server in pair])}
    for number, server in enumerate(pair):
        items = [
            (GenerationKeys("shop", NEWEST + n).wire_key("k").encode(), b"v")
            for n in (-1, 0, 1)
        ]
        with closing(Wire(server)) as wire:
            wire.fill([(b"nsc:shop", b"%d" % (NEWEST + number)), *items])
    with aged():
        run(caches, "purge")
    (found,) = listed(caches).values()
    assert found["generation"] == NEWEST
    assert amounts(found) == [4, 0, 0]  # each counter has live items


def test_the_command_finds_a_counter_on_any_server(client, server, start):
    """The counter is on one server, and its items are on both."""
    pair = [server.location, start().location]
    caches = {
        "default": setting(client, pair),
        "second": setting(client, max(pair)),
    }
    cache = as_another_process(
        our_cache(BACKENDS[client], pair, OPTIONS={"NAMESPACE": "shop"})
    )
    with closing(cache):
        fill(cache, 2, items=100)
        assert amounts(listed(caches)["shop"]) == [100, 100, 0]
        found = listed(caches, "--alias", "second")["shop"]
        assert found["generation"] == cache.generation
        live, dead, unclaimed = amounts(found)
        assert 0 < live < 100
        assert 0 < dead < 100
        assert unclaimed == 0
        with aged():
            run(caches, "purge", "--alias", "second")
        assert amounts(listed(caches)["shop"]) == [100, 100 - dead, 0]


def test_pymemcaches_key_prefix_is_supported(server):
    client, options = "pymemcache", {"key_prefix": b"site-"}
    caches = {"default": setting(client, server.location, **options)}
    ours = {"NAMESPACE": "shop", **options}
    cache = as_another_process(
        our_cache(BACKENDS[client], server.location, OPTIONS=ours)
    )
    with closing(cache):
        fill(cache, 2)
        assert amounts(listed(caches)["shop"]) == [3, 3, 0]
        assert listed({"default": setting(client, server.location)}) == {}
        with aged():
            run(caches, "purge")
        assert amounts(listed(caches)["shop"]) == [3, 0, 0]
        assert run(caches, "invalidate", "shop")[0]
        assert cache.get("k0") is None


def test_keys_that_need_the_binary_protocol_are_purged(server):
    """Keys that are too long for base64 stay until they expire."""
    caches = {"default": setting("pylibmc", server.location)}
    client = pylibmc.Client([server.location], binary=True)
    keys = GenerationKeys("shop", NEWEST - 1)
    client.set("nsc:shop", str(NEWEST))
    for length in (1, 100, 200):
        client.set(keys.wire_key(f"a b\n{'x' * length}"), "v")
    with aged():
        out, _ = run(caches, "purge")
    assert out.splitlines()[-1].startswith("2 (")
    assert amounts(listed(caches)["shop"]) == [0, 1, 0]


def test_a_namespace_is_invalidated_by_its_name(site, named, server):
    cache = named("by-name")
    fill(cache, 1)
    generation = cache.generation
    out, _ = run(site, "invalidate", "by-name")
    said = f"127.0.0.1:{server.port}: namespace by-name, generation {generation + 1}\n"
    assert out == said
    assert cache.get("k0") is None
    assert cache.generation == generation + 1


def test_without_a_name_the_namespace_of_each_alias_is_invalidated(
    site, named, client, server
):
    # No other test of this process knows a number of this namespace.
    name = f"without-a-name-{client}"
    caches = {
        "bare": site["default"],
        "one": {
            "BACKEND": "namespaced_cache.NamespacedCache",
            "LOCATION": server.location,
            "OPTIONS": {"WRAPPED_BACKEND": BACKENDS[client], "NAMESPACE": name},
        },
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }
    cache = named(name)
    fill(cache, 1)
    generation = cache.generation
    said = f"one: namespace {name}, generation {generation + 1}\n"
    assert run(caches, "invalidate")[0] == said
    assert cache.get("k0") is None
    assert run(caches, "invalidate", "--alias", "one")[0]
    assert cache.generation == generation + 2


OURS = {"BACKEND": "namespaced_cache.NamespacedCache", "LOCATION": "127.0.0.1:1"}
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


@pytest.mark.parametrize(
    ("caches", "arguments", "said"),
    [
        ({}, ["invalidate", "unknown"], "No server has a namespace 'unknown'."),
        ({}, ["invalidate", "a b"], "'a b' is not a namespace"),
        ({}, ["invalidate", "a..b"], "'a..b' is not a namespace"),
        ({}, ["invalidate"], "No alias of CACHES has a namespace. Give the name"),
        ({}, ["invalidate", "--alias", "default"], "'default' has no namespace"),
        ({"default": OURS}, ["invalidate"], "has a new namespace for each run"),
        (
            {},
            ["list", "--alias", "none"],
            "CACHES has no alias 'none': it has 'default'.",
        ),
        ({"default": LOCMEM}, ["list"], "CACHES has no alias on memcached."),
        (
            {"default": LOCMEM},
            ["list", "--alias", "default"],
            "CACHES has no alias on memcached.",
        ),
        ({"default": OURS}, ["list"], "No answer from memcached at 127.0.0.1:1: "),
        ({}, ["purge", "--older-than", "5m"], "'5m' is not an age"),
        ({}, ["purge", "--older-than", "soon"], "'soon' is not an age"),
        ({}, [], "the following arguments are required: WAY"),
    ],
)
def test_an_error_says_what_cannot_be_done(site, monkeypatch, caches, arguments, said):
    monkeypatch.delenv("NAMESPACED_CACHE_RUN")
    identity.begin_epoch()
    with pytest.raises(CommandError, match=re.escape(said)):
        run(caches or site, *arguments)


def test_rubbish_in_the_counter_is_not_incremented(site, wire):
    wire.fill([(b"nsc:shop", b"5")])
    with pytest.raises(CommandError, match=r"the key 'nsc:shop' on .*, holds b'5'"):
        run(site, "invalidate", "shop")
    assert wire.everything() == {b"nsc:shop": b"5"}


def test_a_counter_that_is_lost_before_it_is_incremented_is_unknown(
    site, named, wire, monkeypatch
):
    generation = named("brief").generation
    increment = Server.increment

    def lost_and_increment(server, key):
        wire.ask(b"delete " + key + b"\r\n", b"\r\n")
        return increment(server, key)

    monkeypatch.setattr(Server, "increment", lost_and_increment)
    with pytest.raises(CommandError, match="brief"):
        run(site, "invalidate", "brief")
    assert wire.everything() == {}
    assert named("brief").generation != generation


def test_a_server_without_its_crawler_is_named(client, start):
    server = start("-o", "no_lru_crawler")
    with pytest.raises(CommandError, match=rf"{server.port} answers .*LRU crawler on"):
        run({"default": setting(client, server.location)}, "list")


def test_a_proxy_is_refused(client, twemproxy):
    """Through a proxy, it would see one server's items at best."""
    with pytest.raises(CommandError, match=r"No answer from memcached at /.*socket"):
        run({"default": setting(client, twemproxy.location)}, "list")


def test_on_a_terminal_it_shows_a_progress_bar(start, monkeypatch):
    """The bar is overwritten, and a newline follows it."""
    monkeypatch.setattr(cache_namespace, "PROGRESS_AFTER", 0)
    server = start()
    with closing(Wire(server)) as wire:
        keys = GenerationKeys("a", NEWEST)
        names = (keys.wire_key(f"{number:06}").encode() for number in range(5000))
        wire.fill((name, b"") for name in names)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    err = Terminal()
    run({"default": setting("pymemcache", server.location)}, "list", err=err)
    *shown, last = err.getvalue().split("\r")
    assert last == "\n"
    assert len(shown) == 100
    assert re.fullmatch(r" 50 % \[#{12}\.{13}\] [\d,]+ of [\d,]+ items", shown[49])
