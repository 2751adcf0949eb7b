"""Wrapped backends with ways of their own, servers of all kinds, and forks."""

import os
import subprocess
import sys
import threading

import pytest
from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache
from django.core.exceptions import ImproperlyConfigured
from django_prometheus.cache.metrics import django_cache_get_total

from namespaced_cache import NamespaceError
from tests.support.caches import BACKENDS, bare_cache, our_cache


class ReconnectingCache(PyMemcacheCache):
    """Makes its client anew at every other use, through a property of its own."""

    _held = None
    made = 0

    @property
    def _cache(self):
        if self._held is None or self.made % 2:
            if self._held is not None:
                self._held.close()
            self._held = self._class(self.client_servers, **self._options)
        self.made += 1
        return self._held

    def get_twice(self, key):
        """A verb of the backend's own, on the raw client."""
        key = self.make_and_validate_key(key)
        return self._cache.get(key), self._cache.get(key)


class AssigningCache(PyLibMCCache):
    """Makes its client in `__init__`, as many did before Django had a property."""

    def __init__(self, server, params):
        super().__init__(server, params)
        self._cache = self._class(self.client_servers)


class SettingCache(PyMemcacheCache):
    """Keeps its client behind a property that can be assigned and deleted."""

    _held = None

    @property
    def _cache(self):
        if self._held is None:
            self._held = self._class(self.client_servers, **self._options)
        return self._held

    @_cache.setter
    def _cache(self, client):
        self._held = client


class DiscoveringCache(PyMemcacheCache):
    """Finds its servers out, as some do in a cloud."""

    nodes = ()

    @property
    def client_servers(self):
        return list(self.nodes)


class HoldingCache(PyLibMCCache):
    """Holds a client from the first, under a name of its own."""

    def __init__(self, server, params):
        super().__init__(server, params)
        self._held = self._class(self.client_servers)

    _cache = property(lambda self: self._held)


class LocalCache:
    """Hides its client where nobody looks for one."""

    def __init__(self, server, params):
        super().__init__(server, params)
        self._local = threading.local()

    @property
    def _cache(self):
        if not hasattr(self._local, "client"):
            self._local.client = self._class(self.client_servers, **self._options)
        return self._local.client


class LocalPyMemcacheCache(LocalCache, PyMemcacheCache):
    pass


class LocalPyLibMCCache(LocalCache, PyLibMCCache):
    pass


class ForeignClient:
    """A client of a library that nobody knows here."""


class ForeignCache(PyMemcacheCache):
    _cache = property(lambda _: ForeignClient())


@pytest.mark.parametrize("own", [ReconnectingCache, AssigningCache, HoldingCache])
def test_a_backend_keeps_its_way_of_making_clients(own, server, bare):
    cache = our_cache(f"{__name__}.{own.__name__}", server.location)
    cache.set("k", 1)
    clients = {id(cache._cache.wrapped) for _ in range(4)}
    assert (len(clients) > 1) == (own is ReconnectingCache)
    assert cache.get("k") == 1
    assert bare.get("k") is None
    cache.invalidate_namespace()
    assert cache.get("k") is None
    cache.close()


def test_a_verb_of_the_backends_own_is_in_the_namespace(server, bare):
    cache = our_cache(f"{__name__}.ReconnectingCache", server.location)
    cache.set("k", 1)
    bare.set("k", "theirs")
    assert cache.get_twice("k") == (1, 1)
    cache.invalidate_namespace()
    assert cache.get_twice("k") == (None, None)
    cache.close()


def test_a_client_of_another_library_is_refused(server):
    cache = our_cache(f"{__name__}.ForeignCache", server.location)
    with pytest.raises(NamespaceError) as caught:
        cache.get("k")
    assert str(caught.value) == (
        f"The wrapped backend's client is a {__name__}.ForeignClient: only clients "
        f"made from pymemcache's and pylibmc's can be namespaced."
    )


@pytest.mark.parametrize("client", BACKENDS)
def test_prometheus_backend_counts_each_call_once(client, server, bare):
    name = BACKENDS[client].rpartition(".")[2]
    cache = our_cache(
        f"django_prometheus.cache.backends.memcached.{name}", server.location
    )
    counted = django_cache_get_total.labels(backend="memcached")._value
    before = counted.get()
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert counted.get() - before == 1
    assert bare.get("k") is None
    cache.close()


# Servers.


def test_a_unix_socket(backend, start):
    memcached = start(unix=True)
    cache = our_cache(backend, memcached.location)
    bare = bare_cache(backend, memcached.location)
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert bare.get("k") is None
    cache.invalidate_namespace()
    assert cache.get("k") is None
    cache.close()
    bare.close()


@pytest.mark.parametrize("as_text", [True, False])
def test_several_servers(build, start, as_text):
    locations = [start().location for _ in range(3)]
    cache = build(",".join(locations) if as_text else locations)
    items = {f"k{number}": number for number in range(200)}
    assert cache.set_many(items) == []
    assert cache.get_many(items) == items
    assert [cache.get(key) for key in items] == list(items.values())
    assert cache.incr("k7") == 8
    cache.delete_many(["k1", "k2"])
    assert len(cache.get_many(items)) == 198
    cache.clear()
    assert cache.get_many(items) == {}


def test_aliases_of_different_clients_on_several_servers_disturb_nobody(start, caplog):
    """pymemcache and pylibmc may look for one counter on different servers."""
    locations = [start().location for _ in range(3)]
    # Several names, for with some of them both happen to choose the same server.
    for name in ("a", "b", "c", "d", "e", "f", "g", "h"):
        aliases = [
            our_cache(path, locations, OPTIONS={"NAMESPACE": name})
            for path in BACKENDS.values()
        ]
        for cache in aliases * 2:
            cache.set("k", 1)
            assert cache.get("k") == 1
            generation = cache.generation
            assert cache.invalidate_namespace() == generation + 1
            assert cache.get("k") is None
            cache.close()
    assert "went back" not in caplog.text


@pytest.mark.parametrize("unix", [False, True])
def test_aliases_of_different_clients_on_one_server_share_the_namespace(start, unix):
    location = start(unix=unix).location
    first, second = (
        our_cache(path, location, OPTIONS={"NAMESPACE": "both"})
        for path in BACKENDS.values()
    )
    assert first._cache.counter is second._cache.counter
    first.set("k", b"1")
    assert second.get("k") == b"1"
    second.invalidate_namespace()
    assert first.get("k") is None
    first.close()


# pymemcache's options.


def test_pooling(server, bare):
    cache = our_cache(
        BACKENDS["pymemcache"],
        server.location,
        OPTIONS={"use_pooling": True, "max_pool_size": 4},
    )
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert cache.incr("k") == 2
    assert bare.get("k") is None
    cache.invalidate_namespace()
    assert cache.get("k") is None
    cache.close()


def test_the_clients_own_key_prefix(server):
    prefixed, plain = (
        our_cache(
            BACKENDS["pymemcache"],
            server.location,
            OPTIONS={"NAMESPACE": "shop", **options},
        )
        for options in ({"key_prefix": b"prefix-" * 10}, {})
    )
    key = "k" * (250 - 70 - len(":1:"))
    prefixed.set(key, 1)
    assert prefixed.get(key) == 1
    assert plain.get(key) is None
    plain.clear()
    assert prefixed.get(key) == 1
    with pytest.raises(Exception, match="too long"):
        prefixed.set(key + "k", 1)
    prefixed.close()
    plain.close()


# pylibmc's options.


def test_the_binary_protocol_takes_any_key(server):
    cache = our_cache(BACKENDS["pylibmc"], server.location, OPTIONS={"binary": True})
    bare = bare_cache(BACKENDS["pylibmc"], server.location, OPTIONS={"binary": True})
    bare._cache.set("b", "theirs")
    cache._cache.set("a b", 1)
    assert cache._cache.get("a b") == 1
    assert cache._cache.get("b") is None
    cache.set("k", 5)
    assert cache.incr("k") == 6
    cache.invalidate_namespace()
    assert cache.get("k") is None
    assert bare._cache.get("b") == "theirs"


# Backends with servers of their own finding.


def test_a_backend_that_finds_its_servers_has_one_home(start, monkeypatch):
    nodes = sorted(start().location for _ in range(2))
    monkeypatch.setattr(DiscoveringCache, "nodes", nodes[::-1])
    cache = our_cache(f"{__name__}.DiscoveringCache", "config:11211")
    cache.set_many({str(number): number for number in range(20)})
    client, counter = cache._cache.wrapped, cache._cache.counter
    assert counter.server == nodes[0]
    assert client.clients[nodes[0]].get(counter.key) == counter.latest
    assert client.clients[nodes[1]].get(counter.key) is None
    cache.close()


def test_servers_as_pairs(start):
    """As pymemcache takes them, and Django hands them on."""
    pairs = [("127.0.0.1", start().port) for _ in range(2)]
    cache = our_cache(BACKENDS["pymemcache"], pairs)
    cache.set("k", 1)
    assert cache.invalidate_namespace() == cache.generation
    assert cache._cache.counter.server == min(f"{host}:{port}" for host, port in pairs)
    cache.close()


def test_a_unix_sockets_home_does_not_depend_on_its_spelling():
    counters = {
        our_cache(
            backend, [f"{scheme}/a/socket", "127.0.0.1:1"], OPTIONS=name
        )._cache.counter
        for backend in BACKENDS.values()
        for scheme in ("unix:", "")
        for name in [{"NAMESPACE": "shop"}]
    }
    assert [counter.server for counter in counters] == ["/a/socket"]


def test_a_client_assigned_through_the_backends_own_property_is_used(server):
    cache = our_cache(f"{__name__}.SettingCache", server.location)
    cache.set("k", 1)
    first = cache._cache.wrapped
    cache._cache = None
    assert cache._cache.wrapped is cache._held is not first
    assert cache.get("k") == 1
    first.close()
    cache.close()


# Forks.


def run_script(code, *arguments):
    """Run code in a process of its own, which may fork and end as it likes."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


FORKING = """
import os, sys, traceback
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache

cache = NamespacedCache(sys.argv[2], {"OPTIONS": {"WRAPPED_BACKEND": sys.argv[1]}})
raw = cache._cache
cache.key_prefix = "assigned"
cache.set("before", "value")
inherited = raw.wrapped
reader, writer = os.pipe()
child = os.fork()
if not child:
    try:
        if "Local" not in sys.argv[1]:
            assert raw.wrapped is not inherited
        assert raw.wrapped is raw.wrapped
        for number in range(200):
            cache.set("childs", number)
            assert cache.get("childs") == number
        assert cache.get("before") == "value"
        assert cache.make_key("k") == "assigned:1:k"
        os.write(writer, b"child ok")
        if len(sys.argv) > 3:
            sys.exit()
    except Exception:
        traceback.print_exc()
    os._exit(0)
for number in range(200):
    cache.set("parents", number)
    assert cache.get("parents") == number
os.waitpid(child, 0)
os.close(writer)
assert os.read(reader, 100) == b"child ok"
assert raw.wrapped is inherited
assert cache.get("parents") == 199
assert cache.get("childs") == 199
cache.close()
print("parent ok")
"""


@pytest.mark.parametrize("how_the_child_ends", [[], ["sys.exit"]])
@pytest.mark.parametrize("own", [*BACKENDS.values(), f"{__name__}.HoldingCache"])
def test_a_child_never_shares_a_socket_with_its_parent(own, server, how_the_child_ends):
    """Both talk at the same time; either end of the child leaves the parent's alone."""
    done = run_script(FORKING, own, server.location, *how_the_child_ends)
    assert done.stdout == "parent ok\n", done.stderr


HIDDEN = """
import os, sys, traceback
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache, NamespaceError

options = {"WRAPPED_BACKEND": "tests.unit.core.test_wrapped_backend." + sys.argv[1]}
cache = NamespacedCache(sys.argv[2], {"OPTIONS": options})
cache.set("k", 1)
clone = cache._cache.clone()
clone.set("k", 2)
if not (child := os.fork()):
    status = 1
    try:
        try:
            (cache if sys.argv[1] == "LocalPyLibMCCache" else clone).set("k", 3)
        except NamespaceError as error:
            print(error, flush=True)
        status = 0
    except Exception:
        traceback.print_exc()
    sys.exit(status)
_, status = os.waitpid(child, 0)
assert status == 0, status
print(cache.get("k"), clone.get("k"))
"""


def run_hidden(backend, server):
    done = run_script(HIDDEN, backend, server.location)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hidden_client_that_cannot_be_replaced_after_a_fork_is_refused(server):
    assert run_hidden("LocalPyLibMCCache", server) == (
        "LocalPyLibMCCache still has the client of the process that this one was "
        "forked from, whose connections it would share. Keep the client in an "
        "attribute of the backend, where it can be replaced.\n1 2\n"
    )


def test_a_clone_is_made_anew_after_a_fork(server):
    assert run_hidden("AssigningCache", server) == "1 3\n"


OTHERS_CLIENTS = """
import os, signal, sys, threading
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache, NamespaceError

options = {"WRAPPED_BACKEND": "tests.unit.core.test_wrapped_backend.LocalPyLibMCCache"}
cache = NamespacedCache(sys.argv[1], {"OPTIONS": options})
cache.set("k", 1)
thread = threading.Thread(target=cache.get, args=("k",))
thread.start()
thread.join()
if not (child := os.fork()):
    signal.alarm(10)
    try:
        cache.get("k")
    except NamespaceError:
        os._exit(0)
    os._exit(1)
print(os.waitpid(child, 0)[1], cache.get("k"))
"""


def test_a_hidden_client_is_refused_though_another_was_used_last(server):
    done = run_script(OTHERS_CLIENTS, server.location)
    assert done.stdout == "0 1\n", done.stderr


POOLED = """
import os, signal, sys
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache

cache = NamespacedCache(sys.argv[1], {"OPTIONS": {"use_pooling": True}})
cache.set("k", 1)
(inner,) = cache._cache.clients.values()
(inherited,) = inner.client_pool.free
inner.client_pool._lock.acquire()  # as another thread may
if not (child := os.fork()):
    signal.alarm(10)
    assert inherited.sock is None
    assert cache.get("k") == 1
    os._exit(0)
inner.client_pool._lock.release()
print(os.waitpid(child, 0)[1], inherited.sock is not None, cache.get("k"))
"""


def test_a_pool_whose_lock_was_held_at_the_fork_leaves_no_deadlock(server):
    done = run_script(POOLED, server.location)
    assert done.stdout == "0 True 1\n", done.stderr


RUDE = """
import os, sys
from django.conf import settings
settings.configure()
import pymemcache
from namespaced_cache import NamespacedCache
from namespaced_cache import forks
from namespaced_cache.core.binding import release_in_child

class Rude(pymemcache.Client):
    def close(self):
        raise RuntimeError("not now")

cache = NamespacedCache(sys.argv[1], {})
rude = [Rude(sys.argv[1]) for _ in range(5)]
for client in (*rude, cache._cache.wrapped):
    release_in_child(client)
cache.set("k", 1)
(inner,) = cache._cache.clients.values()
if not (child := os.fork()):
    assert inner.sock is None
    assert all(map(forks.is_unusable, rude))
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_a_client_that_does_not_close_keeps_no_other_from_being_left(server):
    done = run_script(RUDE, server.location)
    assert done.stdout == "0\n", done.stderr
    assert done.stderr.count("A client that was inherited over a fork does not") == 5


IDLE = """
import os, sys
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache

cache = NamespacedCache(sys.argv[2], {"OPTIONS": {"WRAPPED_BACKEND": sys.argv[1]}})
cache.set("k", 1)
if not (child := os.fork()):
    sys.exit()
os.waitpid(child, 0)
print(cache.get("k"))
"""


def test_a_child_that_never_uses_the_cache_leaves_its_parents_connection(
    backend, server
):
    """As a pylibmc client that is freed at the child's end does not, by itself."""
    done = run_script(IDLE, backend, server.location)
    assert done.stdout == "1\n", done.stderr


def test_a_location_that_names_no_server_is_refused():
    """By us, where pymemcache makes a client that has all of its servers down."""
    cache = our_cache(BACKENDS["pymemcache"], [])
    with pytest.raises(ImproperlyConfigured, match="LOCATION names no server"):
        cache.get("k")
