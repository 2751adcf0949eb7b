"""Backends and their clients after a fork: no child shares a connection."""

import os
import subprocess
import sys

import pytest

from tests.support.caches import BACKENDS


def run_script(code, *arguments):
    """Run code in a process of its own, which may fork and end in any way."""
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
@pytest.mark.parametrize(
    "own", [*BACKENDS.values(), "tests.support.backends.HoldingCache"]
)
def test_a_child_never_shares_a_socket_with_its_parent(own, server, how_the_child_ends):
    """Both use the cache at the same time.

    The parent's connection survives the child.
    """
    done = run_script(FORKING, own, server.location, *how_the_child_ends)
    assert done.stdout == "parent ok\n", done.stderr


UNREACHABLE = """
import os, sys, traceback
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache, NamespaceError

options = {"WRAPPED_BACKEND": "tests.support.backends." + sys.argv[1]}
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


def run_unreachable(backend, server):
    done = run_script(UNREACHABLE, backend, server.location)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_client_that_cannot_be_replaced_after_a_fork_is_refused(server):
    assert run_unreachable("LocalPyLibMCCache", server) == (
        "LocalPyLibMCCache still has the client of the process that this one was "
        "forked from, whose connections it would share. Keep the client in an "
        "attribute of the backend, where it can be replaced.\n1 2\n"
    )


def test_a_clone_is_made_anew_after_a_fork(server):
    assert run_unreachable("AssigningCache", server) == "1 3\n"


OTHERS_CLIENTS = """
import os, signal, sys, threading
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache, NamespaceError

options = {"WRAPPED_BACKEND": "tests.support.backends.LocalPyLibMCCache"}
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


def test_an_inherited_client_is_refused_though_another_was_used_last(server):
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
inner.client_pool._lock.acquire()  # another thread may hold it
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


def test_a_client_that_does_not_close_does_not_stop_the_release_of_others(server):
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


def test_a_child_that_never_uses_the_cache_keeps_its_parents_connection_open(
    backend, server
):
    """A pylibmc client says `quit` when it is freed, which must not happen here."""
    done = run_script(IDLE, backend, server.location)
    assert done.stdout == "1\n", done.stderr
