"""gevent: greenlets that share a cache, in a process where everything is patched.

Without a pool, pymemcache's client has one connection. Greenlets can share that as
little as threads can, also with Django's own backend.
"""

from __future__ import annotations

SET_UP = """
from gevent import monkey
monkey.patch_all()

import gevent
import django
from django.core.cache import cache as proxy, caches
from namespaced_cache import invalidate_namespaces
django.setup()
cache = caches["default"]
"""

SHARED = (
    SET_UP
    + """
def use(cache, name):
    for number in range(50):
        key = f"{name}-{number}"
        cache.set(key, key)
        assert cache.get(key) == key
        assert cache.get_many([key, "none"]) == {key: key}
        assert cache.incr(f"{name}-count") == number + 1

def count(name):
    for each in (cache, proxy):
        each.set(f"{name}-count", 0)
        use(each, name)
    return True

greenlets = [gevent.spawn(count, f"greenlet-{number}") for number in range(20)]
gevent.joinall(greenlets)
print("worked", sum(bool(each.value) for each in greenlets))

stopped = []

def write():
    while not stopped:
        cache.set("k", "old")
        gevent.sleep(0)

writers = [gevent.spawn(write) for _ in range(5)]
gevent.sleep(0.01)
stopped.append(True)
gevent.joinall(writers)
print("before", [gevent.spawn(proxy.get, "k").get() for _ in range(3)])
gevent.spawn(invalidate_namespaces).get()
print("after", [gevent.spawn(each.get, "k").get() for each in (cache, proxy)])
"""
)

PINNED = (
    SET_UP
    + """
from gevent.event import Event

invalidated, pinned = Event(), Event()

def hold():
    with cache.pinned_generation() as generation:
        pinned.set()
        invalidated.wait()
        cache.set("k", "computed from old data")
        return cache.get("k")

holder = gevent.spawn(hold)
pinned.wait()
cache.invalidate_namespace()
invalidated.set()
print("held", holder.get())
print("found", cache.get("k"), gevent.spawn(cache.get, "k").get())
"""
)

KILLED = (
    SET_UP
    + """
cache.set_many({f"k{number}": number for number in range(20)})
killed = rounds = 0
while rounds < 20 or (not killed and rounds < 2000):
    rounds += 1
    greenlets = [gevent.spawn(cache.get, f"k{number}") for number in range(20)]
    gevent.sleep(0)  # each has sent its command, and waits for the reply
    for greenlet in greenlets[::2]:
        killed += not greenlet.ready()
        greenlet.kill()
    gevent.joinall(greenlets)
    assert [each.value for each in greenlets[1::2]] == list(range(20))[1::2]
    for number in range(20):
        assert cache.get(f"k{number}") == number
        assert not cache.add(f"k{number}", "other")
    cache.incr("k0", 0)
print("killed", killed > 0)
"""
)

SETTINGS = """
from plain_settings import *
from namespaced_cache import namespaced

del CACHES["pylibmc"]
# As many connections as there are greenlets at the same time.
options = {"use_pooling": True, "max_pool_size": 20}
CACHES = namespaced(CACHES, NAMESPACE="greenlets", **options)
"""


def greenlets(project, script: str):
    project.write("greenlets.py", SETTINGS)
    run = project.run("-c", script, DJANGO_SETTINGS_MODULE="greenlets")
    assert run.code == 0, run.output
    return run.output.splitlines()


def test_greenlets_read_what_they_wrote_and_see_an_invalidation(project):
    assert greenlets(project, SHARED) == [
        "worked 20",
        "before ['old', 'old', 'old']",
        "after [None, None]",
    ]


def test_a_pin_belongs_to_one_greenlet(project):
    """An invalidation by another greenlet leaves its old items behind."""
    assert greenlets(project, PINNED) == [
        "held computed from old data",
        "found None None",
    ]


def test_no_command_gets_the_reply_of_a_greenlet_that_was_killed(project):
    assert greenlets(project, KILLED) == ["killed True"]
