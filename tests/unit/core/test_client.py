"""Every public name of the real clients is in a table, and others are refused."""

import copy
import functools
import inspect
import time

import pylibmc
import pymemcache
import pytest
from pymemcache.client.base import PooledClient

from namespaced_cache.adapters.commands import Shape
from namespaced_cache.core import identity, operation
from namespaced_cache.core.client import NamespacedClient
from namespaced_cache.core.counter import Counter
from namespaced_cache.core.operation import Operation
from namespaced_cache.errors import NamespaceError, NamespaceUnavailable
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.commands import TABLES

CLIENTS = [pymemcache.HashClient, pymemcache.Client, PooledClient, pylibmc.Client]

#: Names that cannot be called. They are read from the real client.
DATA = {"behaviors", "behaviours", "client_class"}

#: Item access takes keys too, but these names are not public.
ITEM_ACCESS = {"__getitem__", "__setitem__", "__delitem__", "__contains__"}


@pytest.mark.parametrize("real", CLIENTS)
def test_every_public_name_is_in_the_table_of_its_library(real):
    """A new command in a later release makes this test fail instead of leaking."""
    own = {name for name in vars(NamespacedClient) if not name.startswith("_")}
    public = {name for name in dir(real) if not name.startswith("_")}
    assert public - TABLES[library_of(real)].keys() - own - DATA == set()


def library_of(real) -> str:
    return real.__module__.partition(".")[0]


@pytest.mark.parametrize("library", TABLES)
def test_a_table_names_no_command_that_its_library_does_not_have(library):
    real = [each for each in CLIENTS if library_of(each) == library]
    public = set().union(*map(dir, real))
    assert TABLES[library].keys() <= public


PARAMETERS = [
    (real, command)
    for real in CLIENTS
    for command in TABLES[library_of(real)].values()
    if command.shape in (Shape.ONE_KEY, Shape.MANY_KEYS, Shape.MAPPING)
    and hasattr(real, command.name)
]


def parameters_after_the_keys(real, name: str) -> list[str]:
    """Return the names of a command's parameters after the keys.

    HashClient passes `*args` to a Client. The names for pylibmc are in PYLIBMC, because
    a function in C has no signature.
    """
    if real is pylibmc.Client:
        return PYLIBMC[name].split()
    method = getattr(real, name)
    found = inspect.signature(method).parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in found) or len(found) == 1:
        plain = getattr(pymemcache.Client, name.replace("gets_multi", "gets_many"))
        named = [each.name for each in found if each.kind is each.POSITIONAL_OR_KEYWORD]
        rest = list(inspect.signature(plain).parameters)[2:]
        return named[2:] + [each for each in rest if each not in named]
    return [each.name for each in found][2:]


#: From `_pylibmcmodule.c` of pylibmc 1.6.3: the keyword lists of its commands.
PYLIBMC = {
    "get": "default",
    "gets": "",
    "set": "val time min_compress_len compress_level",
    "add": "val time min_compress_len compress_level",
    "replace": "val time min_compress_len compress_level",
    "append": "val time min_compress_len compress_level",
    "prepend": "val time min_compress_len compress_level",
    "cas": "val cas time",
    "touch": "time",  # only by position
    "delete": "",
    "incr": "delta",
    "decr": "delta",
    "get_multi": "key_prefix",
    "delete_multi": "key_prefix",
    "incr_multi": "key_prefix delta",
    "set_multi": "time key_prefix min_compress_len compress_level",
    "add_multi": "time key_prefix min_compress_len compress_level",
}


@pytest.mark.parametrize(
    ("real", "command"), PARAMETERS, ids=lambda value: getattr(value, "name", None)
)
def test_the_table_has_the_position_of_the_expiry_and_other_parameters(real, command):
    taken = parameters_after_the_keys(real, command.name)
    if command.expiry is not None:
        name, position = command.expiry
        assert taken[position] == name
    else:
        # memcached ignores the expiry of these two.
        is_ignored = command.name in ("append", "prepend")
        assert is_ignored or not {"expire", "time"} & set(taken)
    if {"gets", "key_prefix"} & set(taken):
        assert tuple(taken[: len(command.parameters)]) == command.parameters
        assert {"gets", "key_prefix"} & set(command.parameters)


@pytest.mark.parametrize("real", CLIENTS)
def test_every_special_method_that_takes_a_key_is_namespaced(real):
    special = {
        name
        for name in dir(real)
        if name.startswith("__")
        and not hasattr(object, name)
        and callable(getattr(real, name))
    }
    assert special <= ITEM_ACCESS
    assert vars(NamespacedClient).keys() >= ITEM_ACCESS


PYMEMCACHE = pytest.mark.parametrize("client", ["pymemcache"], indirect=True)


class Extended(pymemcache.HashClient):
    """A project's own client, with a command that is in no table."""

    motto = "data, not a command"

    def get_fresh(self, key):
        return self.get(key)

    get_partly = functools.partialmethod(get_fresh)


@pytest.fixture
def extended(build, client):
    if client == "pylibmc":
        extended_class = type("Extended", (pylibmc.Client,), dict(vars(Extended)))
    else:
        extended_class = Extended
    cache = build()
    cache._class = extended_class
    return cache


def test_a_command_that_is_not_in_the_table_is_refused(extended):
    assert not hasattr(extended._cache, "get_fresh")
    with pytest.raises(NamespaceError) as caught:
        extended._cache.get_fresh("k")
    assert str(caught.value) == (
        "Extended.get_fresh() cannot be namespaced: this package does not know "
        "where it takes its keys. The bare client, outside any namespace, is "
        "`cache._cache.wrapped`."
    )
    assert extended._cache.wrapped.get_fresh("k") is None
    assert not hasattr(extended._cache, "get_partly")
    assert extended._cache.motto == "data, not a command"


@PYMEMCACHE
@pytest.mark.parametrize("name", ["_run_cmd", "_get_client", "_set_many"])
def test_private_methods_are_refused_as_well(cache, name):
    """HashClient._run_cmd("get", "k") would read a key outside of any namespace."""
    assert hasattr(cache._cache.wrapped, name)
    assert not hasattr(cache._cache, name)


@PYMEMCACHE
@pytest.mark.parametrize("command", ["raw_command", "shutdown", "cache_memlimit"])
def test_a_command_for_the_whole_server_is_refused(cache, server, command):
    cache._cache = pymemcache.Client(server.location)
    with pytest.raises(AttributeError) as caught:
        getattr(cache._cache, command)
    reason = TABLES["pymemcache"][command].reason
    assert str(caught.value) == (
        f"Client.{command}() cannot be namespaced: {reason}. The bare client, "
        f"outside any namespace, is `cache._cache.wrapped`."
    )


@pytest.mark.parametrize("make", [pymemcache.Client, PooledClient])
def test_pymemcaches_other_clients_are_namespaced(make, server):
    """A backend may use any of the three clients."""
    cache = our_cache(BACKENDS["pymemcache"], server.location)
    bare = bare_cache(BACKENDS["pymemcache"], server.location)
    cache._cache = make(server.location, default_noreply=False)
    raw = cache._cache
    assert raw.set("k", b"1")
    assert raw.get("k") == b"1"
    assert raw["k"] == b"1"
    assert raw.get_many(["k", "none"]) == {"k": b"1"}
    assert raw.incr("k", 1) == 2
    value, token = raw.gets("k")
    assert value == b"2"
    assert raw.cas("k", b"3", token) is True
    raw["k"] = b"4"
    assert raw.set_many({"l": b"5"}) == []
    assert bare._cache.get_many(["k", "l"]) == {}
    raw.flush_all()
    assert raw.get_many(["k", "l"]) == {}
    with pytest.raises(KeyError, match="'k'"):
        raw["k"]
    raw["k"] = b"4"
    del raw["k"]
    assert raw.get("k") is None
    raw.close()
    bare.close()


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_clone_is_in_the_same_namespace(cache, bare):
    clone = cache._cache.clone()
    clone.set("k", 1)
    assert cache._cache.get("k") == 1
    assert bare._cache.get("k") is None
    assert clone.counter is cache._cache.counter


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_item_access_finds_nothing_while_a_client_hides_an_outage(cache, monkeypatch):
    monkeypatch.setattr(Counter, "read", lambda *_: None)
    cache._cache.counter.latest = None
    assert cache._cache["k"] is None


def test_a_command_that_the_real_client_lacks_is_missing(client, cache):
    """pymemcache has no clones; pylibmc has no `close()`."""
    assert hasattr(cache._cache, "clone") is (client == "pylibmc")
    assert hasattr(cache._cache, "close") is (client == "pymemcache")


@pytest.mark.parametrize("client", ["pymemcache"], indirect=True)
@pytest.mark.parametrize("leave", ["close", "disconnect_all", "quit"])
def test_disconnecting_also_ends_the_connection_to_the_counter_server(
    build, start, leave
):
    first, other = sorted([start(), start()], key=lambda server: server.location)
    cache = build([other.location, first.location])
    cache.set_many({str(number): number for number in range(20)})
    asking = pymemcache.Client(first.location)

    def connections():
        return asking.stats()[b"curr_connections"]

    alone = connections() - 2  # one for the items, one for the counter
    getattr(cache._cache, leave)()
    while connections() > alone:  # memcached needs a moment
        time.sleep(0.001)
    asking.close()
    assert cache.get("7") == 7


def test_the_counter_client_stays_in_a_new_epoch(build, start):
    cache = build([start().location for _ in range(2)])
    binding = cache._cache._binder.binding()
    identity.begin_epoch()
    again = cache._cache._binder.binding()
    assert again is not binding
    assert again.counter_client is binding.counter_client


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_clone_shares_no_client_with_the_thread_that_made_it(build, start):
    """With several servers, the counter client is cloned as well."""
    cache = build([start().location for _ in range(2)])
    clone = cache._cache.clone()
    ours, original = clone._binder.binding(), cache._cache._binder.binding()
    clients = {ours.client, ours.counter_client}
    assert clients.isdisjoint([original.client, original.counter_client])
    clone.set("k", 1)
    assert cache._cache.get("k") == 1


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_a_new_client_follows_its_own_rules(build, server):
    """A client with the text protocol can replace one with the binary protocol."""
    cache = build(OPTIONS={"binary": True})
    assert cache._cache.get("a b") is None
    cache._cache = pylibmc.Client([server.location])
    with pytest.raises(ValueError, match="ends a key early"):
        cache._cache.get("a b")


def test_data_attributes_are_the_real_clients(client, cache):
    raw = cache._cache
    if client == "pylibmc":
        raw.behaviors = {"tcp_nodelay": True}
        assert raw.wrapped.behaviors["tcp_nodelay"] == 1
    else:
        raw.encoding = "utf8"
        assert raw.wrapped.encoding == "utf8"
        del raw.encoding
        assert not hasattr(raw.wrapped, "encoding")


def test_a_spy_on_a_raw_command_stays_until_it_is_removed(cache):
    raw = cache._cache
    raw.get = lambda key: f"spied {key}"
    assert raw.get("k") == "spied k"
    raw.get = lambda _: "spied again"
    assert raw.get("k") == "spied again"
    del raw.get
    assert raw.get("k") is None
    assert "spied" not in vars(raw.wrapped)


def test_repr_and_dir_describe_the_client(cache):
    assert repr(cache._cache).startswith(f"<NamespacedClient {cache.namespace} of ")
    assert {"get", "get_multi", "flush_all", "wrapped"} <= set(dir(cache._cache))


def test_copy_does_not_recurse(cache):
    cache._cache.set("k", 1)
    assert copy.copy(cache._cache).get("k") == 1
    with pytest.raises(AttributeError):
        _ = object.__new__(NamespacedClient).get


def test_arguments_that_no_client_takes_are_refused(cache):
    with pytest.raises(TypeError):
        cache._cache.get_multi(["k"], no_such_argument=1)
    with pytest.raises(TypeError):
        cache._cache.set_multi()
    with pytest.raises(TypeError):
        cache._cache.set_multi({"k": 1}, no_such_argument=1)


def test_serde_and_behaviors_pass_through(client, cache):
    if client == "pylibmc":
        assert cache._cache.deserialize(*cache._cache.serialize(5)) == 5
        assert cache._cache.binary is False
    else:
        assert cache._cache.default_kwargs["serde"] is not None
        assert list(cache._cache.clients) == cache._servers


@PYMEMCACHE
def test_outage_defaults_are_those_of_the_bare_client(build, start):
    """In pymemcache's retry window, each command answers like the bare client."""
    memcached = start()
    options = {"NAMESPACE": "down"}
    cache = build(memcached.location, OPTIONS=options)
    bare = type(cache._cache.wrapped)([memcached.location], default_noreply=False)
    cache.set("k", 1)
    bare.set("k", b"1")
    memcached.kill()
    for raw in (cache._cache, bare):
        with pytest.raises(pymemcache.exceptions.MemcacheUnexpectedCloseError):
            raw.get("k")
        with pytest.raises(ConnectionRefusedError):
            raw.get("k")
    script = [
        lambda c: c.get("k", "default"),
        lambda c: c.gets("k"),
        lambda c: c.get_many(["k"]),
        lambda c: c.gets_many(["k"]),
        lambda c: c.set("k", 1),
        lambda c: c.add("k", 1),
        lambda c: c.delete("k"),
        lambda c: c.touch("k"),
        lambda c: c.incr("k", 1),
        lambda c: c.cas("k", 1, 1),
        lambda c: list(c.set_many({"k": 1})),
        lambda c: c.delete_many(["k"]),
    ]
    for call in script:
        assert call(cache._cache) == call(bare), inspect.getsource(call)
    with pytest.raises(NamespaceUnavailable, match="Namespace 'down' on "):
        cache._cache.flush_all()
    bare.close()


def test_an_error_of_the_callers_is_raised_while_the_server_is_down(start):
    memcached = start()
    cache = our_cache(
        BACKENDS["pymemcache"], memcached.location, OPTIONS={"ignore_exc": True}
    )
    cache.set("k", 1)
    memcached.kill()
    with pytest.raises(TypeError, match="A cache key is str or bytes, not int: 5"):
        cache._cache.set(5, 1)
    cache.close()


def test_a_lost_connection_raises_the_same_error_as_on_the_bare_client(
    client, build, start
):
    memcached = start()
    cache = build(memcached.location)
    bare = bare_cache(BACKENDS[client], memcached.location)
    for each in (cache, bare):
        each.set("k", 1)
    memcached.kill()
    raised = {cache: [], bare: []}
    # First the open connection breaks. Then no other can be opened.
    for each in (cache, bare) * 2:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # any error
            each.set("k", 2)
        raised[each].append(caught.type)
    assert raised[cache] == raised[bare]
    bare.close()


@pytest.fixture
def overtake(bare, monkeypatch):
    """Let another process invalidate that often just before the counter is read."""
    carry_out = Operation._carry_out_reading
    overtaken = []

    def overtake(times):
        def overtaking(operation, binding, generation, read):
            if len(overtaken) < times:
                overtaken.append(generation)
                bare._cache.incr(binding.counter.key, 1)
            return carry_out(operation, binding, generation, read)

        monkeypatch.setattr(Operation, "_carry_out_reading", overtaking)
        return overtaken

    return overtake


@pytest.mark.parametrize("times", [1, 5])
def test_a_write_is_repeated_after_an_invalidation(cache, overtake, times):
    """What the first attempt stored is in a dead generation.

    The caller never sees it.
    """
    cache.get("warm")
    overtaken = overtake(times)
    assert cache.add("k", "v") is True
    assert len(set(overtaken)) == times
    assert cache.get("k") == "v"
    assert cache.add("k", "w") is False


@pytest.mark.parametrize("times", [1, 5])
def test_a_read_is_repeated_after_an_invalidation(cache, overtake, times):
    cache.set("k", "old")
    overtaken = overtake(times)
    assert cache.get("k", "miss") == "miss"
    assert len(set(overtaken)) == times
    assert cache.get_many(["k"]) == {}


def test_an_operation_fails_after_too_many_attempts(cache, overtake, monkeypatch):
    monkeypatch.setattr(operation, "MAX_ATTEMPTS", 3)
    cache.get("warm")
    overtake(3)
    with pytest.raises(NamespaceUnavailable) as caught:
        cache.get("k")
    assert str(caught.value) == (
        f"Namespace {cache.namespace!r} on {cache._servers[0]}: invalidated 3 times "
        f"within one operation."
    )


def test_an_operation_waits_for_a_storm_of_invalidations_to_pass(
    cache, overtake, monkeypatch
):
    """Without the pauses, a hundred attempts would be over sooner."""
    cache.get("warm")
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    overtake(17)
    assert cache.get("k") is None
    assert len(pauses) == 8
    assert 0 < sum(pauses) < 1


def test_an_error_of_a_dead_generation_is_not_the_callers(build):
    """`incr` finds nothing in the latest generation, but an item in the live one."""
    ours, other = (build(OPTIONS={"NAMESPACE": "errors"}) for _ in range(2))
    ours.get("k")
    latest = ours._cache.counter.latest
    other.invalidate_namespace()
    other.set("k", 5)
    ours._cache.counter.latest = latest  # as in a process that has not read the counter
    assert ours.incr("k") == 6


@pytest.mark.parametrize("client", ["pylibmc"], indirect=True)
def test_an_error_over_many_keys_of_a_dead_generation_is_not_the_callers(build):
    """Here it is an error of `incr_multi`, which has no class of its own."""
    ours, other = (build(OPTIONS={"NAMESPACE": "errors"}) for _ in range(2))
    ours._cache.set_multi({"text": "t", "n": 1})
    latest = ours._cache.counter.latest
    other.invalidate_namespace()
    other._cache.set_multi({"text": 5, "n": 1})
    ours._cache.counter.latest = latest
    ours._cache.incr_multi(["text", "n"])
    assert ours._cache.get_multi(["text", "n"]) == {"text": 6, "n": 2}


def test_a_read_sees_another_process_invalidation(build):
    ours, other = (build(OPTIONS={"NAMESPACE": "reads"}) for _ in range(2))
    ours.set("k", "old")
    latest = ours._cache.counter.latest
    other.invalidate_namespace()
    ours._cache.counter.latest = latest
    assert ours.get("k") is None
    other.set("k", "new")
    ours._cache.counter.latest = latest
    assert ours.get_many(["k"]) == {"k": "new"}
