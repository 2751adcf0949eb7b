"""Workers, runs, children and other users share one server.

The numbers are those of the scenarios in tests/README.md.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from namespaced_cache.core import identity
from tests.support.other_processes import LIMIT
from tests.support.servers import stat

#: The invalidations of scenario 23. `make test` makes fewer, because all would take ten
#: seconds.
INVALIDATIONS = 100_000 if os.environ.get("NAMESPACED_CACHE_STRESS") else 10_000


# 21. Two workers use equal primary keys on one memcached, and one invalidates in a
# loop.

#: The code that makes a process a worker of each test runner.
WORKERS_OF = {
    "pytest-xdist": "os.environ.update(PYTEST_XDIST_WORKER='gw{}')",
    "Django's": "setattr(runner, '_worker_id', {})",
}


@pytest.mark.parametrize("become_worker", WORKERS_OF.values(), ids=WORKERS_OF)
def test_a_worker_that_invalidates_in_a_loop_leaves_another_workers_items(
    another, become_worker
):
    invalidates, works = another(), another()
    for number, worker in enumerate((invalidates, works), 1):
        worker(become_worker.format(number))
    objects = {f"pk:{number}": number for number in range(50)}
    for _ in range(10):
        invalidates.begin(
            "[cache.set('pk:1', 'theirs') or cache.invalidate_namespace()"
            " for _ in range(50)]"
        )
        assert works(f"cache.set_many({objects})") == []
        assert {key: works(f"cache.get({key!r})") for key in objects} == objects
        invalidates.end()
        assert works(f"cache.get_many({[*objects]})") == objects


A_RUN = """
import os, sys
os.getpid = lambda: 4242
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache
cache = NamespacedCache(sys.argv[2], {"OPTIONS": {"WRAPPED_BACKEND": sys.argv[1]}})
print(cache.namespace, cache.get("pk:1"))
cache.set("pk:1", "stale", None)
"""


def test_two_runs_with_one_process_id_have_different_namespaces(
    backend, server, monkeypatch
):
    """Two containers may have equal process ids, and a system reuses them."""
    monkeypatch.delenv("NAMESPACED_CACHE_RUN")
    identity.begin_epoch()
    command = [sys.executable, "-c", A_RUN, backend, server.location]
    runs = [
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT).stdout
        for _ in range(2)
    ]
    assert [run.split()[1] for run in runs] == [b"None", b"None"]
    assert runs[0] != runs[1]


# 22. A parent uses the cache, then forks.


def test_a_child_and_its_parent_never_share_a_connection(wire, another):
    """Both work at the same time."""
    parent = another(wire.location)
    parent("cache.set('before', 'value')")
    (own,) = {port for port, _ in wire.requests}
    work = "[cache.set({0!r}, n) or cache.get({0!r}) for n in range(100)]".format
    child, parents = work("childs"), work("parents")
    answers = parent(f"in_a_fork(lambda: {child}, beside=lambda: {parents})")
    assert answers == parent(parents) == [*range(100)]
    ports = {
        who: {port for port, request in wire.requests if b":1:%s" % who in request}
        for who in (b"parents", b"childs")
    }
    assert ports[b"parents"] == {own}
    assert len(ports[b"childs"]) == 1
    assert own not in ports[b"childs"]


# 23. The namespace is invalidated very often: the cost for neighbours.


def test_many_invalidations_cost_the_neighbours_nothing(build, start, strangers):
    """There is no eviction and no miss, and one more item: the counter."""
    server = start("-m", "64")
    cache, neighbour = build(server.location), strangers(server.location)
    items = {f"k{number}": "v" * 1000 for number in range(5000)}
    assert neighbour.set_many(items, timeout=None) == []
    before = stat(server, "curr_items")
    first = cache.generation
    for _ in range(INVALIDATIONS):
        cache.invalidate_namespace()
    assert cache.generation == first + INVALIDATIONS
    assert neighbour.get_many(items) == items
    assert stat(server, "curr_items") == before + 1
    assert stat(server, "evictions") == 0
