"""Processes, threads and tasks in one namespace, on real servers.

A test that forks runs in a process of its own (see `apart`). There a child may end in
any way, without an effect on pytest's own process. The names of runs and workers are
tested in tests/unit/core/test_identity.py. Backends that keep their clients in other
ways are tested in tests/unit/test_forks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from http.client import HTTPConnection
from pathlib import Path

import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.memcached import PyLibMCCache
from django.core.handlers.asgi import ASGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer
from django.core.signals import request_finished
from django.http import HttpResponse
from django.test import override_settings, runner
from django.test.testcases import LiveServerThread, _StaticFilesHandler
from django.urls import path

from namespaced_cache import namespaced
from namespaced_cache.adapters import adapter
from namespaced_cache.core import binding, counter, registry
from tests.support import django_settings
from tests.support.caches import BACKENDS, our_cache
from tests.support.servers import Memcached
from tests.support.uses import in_a_thread

#: The kernel ends a process after so many seconds, so that no process hangs the tests.
LIMIT = 60

#: The aliases, one for each way in which the libraries keep their connections.
ALIASES = {
    "pymemcache": (BACKENDS["pymemcache"], {}),
    "pooled": (BACKENDS["pymemcache"], {"use_pooling": True}),
    "pylibmc": (BACKENDS["pylibmc"], {}),
}

#: How many connections an alias has to its only server. pylibmc's counter reader has
#: one of its own.
FOR_ONE_SERVER = {
    alias: 1 + ("PyLibMC" in path) for alias, (path, _) in ALIASES.items()
}


def setting(location) -> dict:
    """Return CACHES with all the aliases, which share one namespace."""
    bare = {
        alias: {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}
        for alias, (backend, options) in ALIASES.items()
    }
    return namespaced({"default": bare["pymemcache"], **bare})


@pytest.fixture(params=ALIASES)
def alias(request) -> str:
    """The alias. A test that uses this fixture runs once for each alias."""
    return request.param


@pytest.fixture
def location(server) -> str:
    return server.location


@pytest.fixture(scope="module")
def three_locations():
    """Three servers for the items. One of them is the counter server."""
    servers = [Memcached() for _ in range(3)]
    yield ",".join(server.location for server in servers)
    for server in servers:
        server.close()


@pytest.fixture(params=["location", "three_locations"], ids=["1 server", "3 servers"])
def locations(request) -> str:
    """One server, or three. A test that uses this fixture runs once with each."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def aliases(server):
    """Set CACHES for a test that runs in pytest's own process."""
    with override_settings(CACHES=setting(server.location)):
        yield
        caches.close_all()


# A process for each test that forks.


def serve():
    """Fork a process for each test that standard input names, and report how it ended.

    Everything has been imported by then, so a fork is fast. Children of such a process
    may end like any Python process, which frees all objects.
    """
    django_settings.configure()
    gc.freeze()  # otherwise each process would collect all this
    for line in sys.stdin:
        test, run, arguments = json.loads(line)
        with tempfile.TemporaryFile("w+") as output:
            if not (child := os.fork()):
                os.setsid()
                signal.alarm(LIMIT)
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                os.environ["NAMESPACED_CACHE_RUN"] = run
                os.environ.pop("PYTEST_XDIST_WORKER", None)
                # New interpreters must not write coverage data after the run.
                os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
                globals()[test].__wrapped__(**arguments)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # ends its remaining children
            output.seek(0)
            print(json.dumps([status, output.read()]), flush=True)


@pytest.fixture(scope="module")
def launch():
    """Run the body of a test in a process of its own: launch(test, **arguments)."""
    code = f"import {__name__}; {__name__}.serve()"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as server:

        def launch_one(test, **arguments):
            order = [test, os.environ["NAMESPACED_CACHE_RUN"], arguments]
            print(json.dumps(order), file=server.stdin, flush=True)
            status, output = json.loads(server.stdout.readline())
            if status:
                pytest.fail(
                    f"The process ended with {status}.\n{output}", pytrace=False
                )

        yield launch_one


def apart(test):
    """Run this test in a process of its own. Its arguments must be text and numbers."""

    @wraps(test)
    def launched(launch, **arguments):
        launch(test.__name__, **arguments)

    names = ["launch", *inspect.signature(test).parameters]
    kind = inspect.Parameter.KEYWORD_ONLY
    launched.__signature__ = inspect.Signature(
        [inspect.Parameter(name, kind) for name in names]
    )
    return launched


# Helpers for such tests.


def fork(act, *arguments, end=os._exit) -> int:
    """Fork a child that calls `act` and then `end`. Return its process id."""
    if child := os.fork():
        return child
    signal.alarm(LIMIT)
    try:
        act(*arguments)
    except Exception:  # noqa: BLE001  # the parent sees any error
        traceback.print_exc()
        os._exit(1)
    return end(0)


def done(child) -> int:
    """Wait for a child, and return its exit status."""
    return os.waitpid(child, 0)[1]


def started(method, act, *arguments):
    """Start a child in one of four ways.

    Return a function that waits for its exit code.
    """
    if method == "os.fork":
        child = fork(act, *arguments)
        return lambda: os.waitstatus_to_exitcode(done(child))
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    process = context.Process(target=act, args=arguments, daemon=True)
    process.start()

    def wait():
        process.join(LIMIT)
        return process.exitcode

    return wait


def connections(location) -> dict:
    """Return this process's connections to the servers: addresses to descriptor.

    This includes connections that no Python object holds any more.
    """
    servers = [tuple(server.split(":")) for server in location.split(",")]
    found = {}
    for descriptor in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:
        with contextlib.suppress(OSError):  # the listing's own descriptor
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            connection = socket.socket(fileno=descriptor)
            with contextlib.suppress(OSError, ValueError):  # not connected; not TCP
                host, port = connection.getpeername()[:2]
                if (host, str(port)) in servers:
                    # Both ends, because two connections may have the same port here.
                    ends = connection.getsockname(), connection.getpeername()
                    found[ends] = descriptor
            connection.detach()
    return found


def hammer(cache, me, rounds):
    """Use keys of one user only, with values that name the user."""
    for number in range(rounds):
        mine = {f"{me}-{key}": [me, key, number] for key in ("a", "b", "c")}
        assert cache.set_many(mine) == []
        for key, value in mine.items():
            assert cache.get(key) == value
        assert cache.get_many([*mine, "missing"]) == mine
        cache.set(f"{me}-a", f"{me} {number}")
        assert cache.add(f"{me}-a", "too late") is False
        assert cache.get(f"{me}-a") == f"{me} {number}"
        assert cache.delete(f"{me}-b") is True
        assert cache.get(f"{me}-b") is None
        cache.add(f"{me}-count", 0)
        before = cache.get(f"{me}-count")
        assert cache.incr(f"{me}-count") == before + 1


# Workers have their own connections and namespaces.


def become(worker):
    """Make this process a worker, as pytest-xdist and Django's runner do."""
    if worker.startswith("gw"):
        os.environ["PYTEST_XDIST_WORKER"] = worker
    else:
        count = multiprocessing.Value("i", int(worker[1:]) - 1)
        runner._init_worker(count, used_aliases=[])


def work_as(worker, location, pipe):
    """Work as a worker, and report to the parent."""
    signal.alarm(LIMIT)
    if not settings.configured:  # in a new interpreter
        django_settings.configure()
        settings.CACHES = setting(location)
    inherited = connections(location)
    become(worker)
    found = {alias: caches[alias].get(alias) for alias in ALIASES}
    for alias in ALIASES:
        hammer(caches[alias], worker, 2)
        caches[alias].set(alias, worker)
    made = connections(location).keys() - inherited.keys()
    pipe.send(({caches[alias].namespace for alias in ALIASES}, found, made))
    pipe.recv()  # meanwhile the parent uses its own connections
    assert all(caches[alias].get(alias) == worker for alias in ALIASES)
    for alias in ALIASES:
        caches[alias].invalidate_namespace()


@pytest.mark.parametrize(
    ("method", "worker"),
    [("os.fork", "gw1"), ("fork", "w7"), ("forkserver", "gw1"), ("spawn", "w7")],
)
@apart
def test_a_worker_has_its_own_connections_and_namespace(method, worker, location):
    """One process uses both libraries. The parent has used all aliases before."""
    settings.CACHES = setting(location)
    for alias in ALIASES:
        caches[alias].set(alias, "parent")
    parents = connections(location)
    assert len(parents) == sum(FOR_ONE_SERVER.values())
    here, there = multiprocessing.Pipe()
    wait = started(method, work_as, worker, location, there)
    there.close()
    namespaces, found, made = here.recv()
    assert namespaces == {f"{os.environ['NAMESPACED_CACHE_RUN']}.{worker}"}
    assert found == dict.fromkeys(ALIASES)
    assert len(made) == sum(FOR_ONE_SERVER.values())
    assert not made & parents.keys()
    for alias in ALIASES:
        hammer(caches[alias], "parent", 2)
    here.send("go on")
    assert wait() == 0
    assert all(caches[alias].get(alias) == "parent" for alias in ALIASES)
    assert connections(location) == parents


# A parent and its children never share a connection.


def opened(alias, locations):
    """Return a cache with all of its connections, and these."""
    settings.CACHES = setting(locations)
    cache = caches[alias]
    for _ in range(2):  # the first creates the counter
        assert cache.set_many(dict.fromkeys(map(str, range(60)), "parent's")) == []
    found = connections(locations)
    # With several servers, the reader has one more.
    several = "," in locations
    assert len(found) == (4 if several else FOR_ONE_SERVER[alias])
    return cache, found


@apart
def test_parents_and_children_read_their_own_answers(alias, locations):
    """All work at the same time in one namespace, after the parent has connected."""
    cache, parents = opened(alias, locations)

    def work(me):
        inherited = connections(locations).keys()
        hammer(cache, me, 8)
        assert len(connections(locations).keys() - inherited) >= 1

    def works_and_forks():
        hammer(cache, "childs-parent", 1)
        mine = connections(locations)
        born = fork(work, "grandchild", end=sys.exit)
        hammer(cache, "childs-parent", 8)
        assert mine.items() <= connections(locations).items()
        assert done(born) == 0

    def only_forks():
        assert done(fork(work, "idle-childs-child", end=sys.exit)) == 0

    children = [
        fork(work, "child", end=sys.exit),
        fork(works_and_forks, end=sys.exit),
        fork(only_forks, end=sys.exit),
    ]
    hammer(cache, "parent", 8)
    assert [done(child) for child in children] == [0] * 3
    assert len(cache.get_many(map(str, range(60)))) == 60
    assert connections(locations) == parents


def _drop(alias):
    del caches[alias]
    gc.collect()


#: What a child may do with an alias that its parent has used.
ACTIONS = {
    "nothing": lambda _: None,
    "reads and writes": lambda alias: hammer(caches[alias], "child", 2),
    "only invalidates": lambda alias: caches[alias].invalidate_namespace(),
    "closes": lambda alias: caches[alias].close(),
    "ends a request": lambda _: request_finished.send(None),  # caches.close_all()
    "disconnects": lambda alias: caches[alias]._cache.disconnect_all(),
    "drops the backend": _drop,
    "works, then closes and drops it": lambda alias: (
        hammer(caches[alias], "child", 1),
        caches[alias]._cache.disconnect_all(),
        _drop(alias),
    ),
}


def _crash(_):
    raise RuntimeError("as a child that crashes")


#: The ways in which a child may end, and the exit status of each.
ENDS = {
    "os._exit": (os._exit, 0),
    "sys.exit": (sys.exit, 0),
    "an exception": (_crash, 1 << 8),
    "another program": (lambda _: os.execlp("true", "true"), 0),
    "a signal": (lambda _: os.kill(os.getpid(), signal.SIGKILL), signal.SIGKILL),
}


def check(cache, parents, locations):
    """Assert that the parent works on with the connections that it had."""
    hammer(cache, "parent", 1)
    assert connections(locations) == parents


@apart
def test_the_parents_connections_survive_all_actions_of_a_child(alias, locations):
    cache, parents = opened(alias, locations)
    for action, act in ACTIONS.items():
        cache.set("k", 1)
        assert done(fork(act, alias, end=sys.exit)) == 0, action
        assert cache.get("k") == (None if action == "only invalidates" else 1), action
        check(cache, parents, locations)


@apart
def test_the_parents_connections_survive_each_end_of_a_child(alias, location):
    cache, parents = opened(alias, location)
    for action in ("nothing", "reads and writes"):
        for name, (end, status) in ENDS.items():
            assert done(fork(ACTIONS[action], alias, end=end)) == status, name
            check(cache, parents, location)
        assert started("fork", ACTIONS[action], alias)() == 0  # as multiprocessing does
        check(cache, parents, location)


@apart
def test_a_child_sends_nothing_on_its_parents_connections(alias, locations):
    """It sends no byte until it ends. Inherited connections are closed or not used."""
    _, parents = opened(alias, locations)
    for action, do in ACTIONS.items():
        listener, speaker = socket.socketpair()

        def act(do=do, listener=listener, speaker=speaker):
            listener.close()
            inherited = connections(locations)
            # pylibmc cannot close its own.
            own = len(parents) - 1 if alias == "pylibmc" else 0
            assert inherited.items() <= parents.items()
            assert len(inherited) == own
            for descriptor in inherited.values():
                os.dup2(speaker.fileno(), descriptor)
            do(alias)

        child = fork(act, end=sys.exit)
        speaker.close()
        assert listener.recv(100) == b"", action
        listener.close()
        assert done(child) == 0, action


#: An alias, and whether its threads share one backend. Only the pooled client allows
#: that. Otherwise each thread has the backend that Django builds for it.
THREADED = [*((alias, "each") for alias in ALIASES), ("pooled", "shared")]


def of_either(alias, shared):
    """Return the shared backend, or the one that Django builds for this thread."""
    return caches[alias] if shared is None else shared


@pytest.mark.parametrize(
    ("alias", "whose", "threads"),
    [
        *((*threaded, 3) for threaded in THREADED),
        *((alias, "each", 50) for alias in ALIASES),
    ],
)
@apart
def test_a_process_can_fork_during_operations_of_other_threads(
    alias, whose, threads, three_locations
):
    """No thread and no child receives the reply to another's command."""
    mine, _ = opened(alias, three_locations)
    over = threading.Event()

    def work(me):
        cache = of_either(alias, mine if whose == "shared" else None)
        hammer(cache, me, 1)
        while not over.is_set():
            hammer(cache, me, 1)
        hammer(cache, me, 1)

    def child(number):
        assert mine.get("1") == "parent's"
        hammer(mine, f"child{number}", 1)

    with ThreadPoolExecutor(threads) as pool:
        working = [pool.submit(work, f"thread{number}") for number in range(threads)]
        children = [
            fork(child, number, end=[os._exit, sys.exit][number % 2])
            for number in range(6)
        ]
        statuses = [done(child) for child in children]
        hammer(mine, "parent", 1)
        over.set()
        for thread in working:
            thread.result()
    assert statuses == [0] * 6


def test_threads_of_a_child_can_start_at_the_same_time(alias, location, monkeypatch):
    """One thread replaces the inherited clients, and the others wait for it."""
    cache = our_cache(ALIASES[alias][0], location, OPTIONS=ALIASES[alias][1])
    inherited = cache._cache.wrapped
    is_client = adapter.is_client
    found = []
    other = threading.Thread(target=lambda: found.append(cache._cache.wrapped))

    def overtaken(value):
        if not other.ident:
            other.start()
            other.join(0.1)  # it waits for us, or it has finished
        return is_client(value)

    monkeypatch.setattr(binding, "is_client", overtaken)
    monkeypatch.setattr(cache._cache._binder, "_process", 0)  # as after a fork
    found.append(cache._cache.wrapped)
    other.join()
    assert found == [cache._cache.wrapped] * 2
    assert inherited not in found


@apart
def test_a_child_does_not_wait_for_a_lock_of_its_parent(alias, location):
    cache, parents = opened(alias, location)

    def child():
        hammer(cache, "child", 1)
        # The forking thread holds a lock, too, which it can enter itself.
        in_a_thread(lambda: hammer(caches[alias], "childs-thread", 1))

    with ThreadPoolExecutor(1) as pool:
        for module in binding, counter, registry:
            pool.submit(module._lock.__enter__).result()
        assert done(fork(child)) == 0
    check(cache, parents, location)


class TwoClientsCache(PyLibMCCache):
    """A backend with a second client that Django does not use."""

    def __init__(self, *settings):
        super().__init__(*settings)
        self._beside = self._class(self.client_servers)

    def beside(self):
        return self._beside.get("missing")


@apart
def test_a_child_does_not_free_the_client_of_an_idle_thread(location):
    """The thread does not exist in the child, so Python frees its objects at once."""
    cache = our_cache("tests.support.backends.LocalPyLibMCCache", location)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cache.set, "k", 1).result()
        assert cache.get("k") == 1  # with another client, which is used last
        assert done(fork(lambda: None)) == 0
        assert pool.submit(cache.get, "k").result() == 1


@pytest.mark.parametrize("used", [0, 1])
@apart
def test_a_child_does_not_free_a_second_client_of_a_backend(used, location):
    cache = our_cache(f"{__name__}.TwoClientsCache", location)
    cache.set("k", 1)
    assert cache.beside() is None

    def child():
        if used:
            assert cache.beside() is None
            assert cache.get("k") == 1

    assert done(fork(child, end=sys.exit)) == 0
    assert cache.beside() is None
    assert cache.get("k") == 1


# Without the name of a worker, parents and children share a namespace.


def answer(cache, pipe):
    """Call the methods that the parent names."""
    while True:
        method, *arguments = pipe.recv()
        pipe.send(getattr(cache, method)(*arguments))


def family(cache):
    """Fork a child and a grandchild.

    Return a function that calls a method, for each.
    """
    pipes = [multiprocessing.Pipe() for _ in range(2)]

    def child():
        fork(answer, cache, pipes[1][1])
        answer(cache, pipes[0][1])

    def asking(pipe):
        def ask(*call):
            pipe.send(call)
            return pipe.recv()

        return ask

    fork(child)
    return [
        lambda method, *arguments: getattr(cache, method)(*arguments),
        *(asking(here) for here, _ in pipes),
    ]


@pytest.mark.parametrize("used", [0, 1])
@apart
def test_parent_child_and_grandchild_share_a_namespace(alias, used, location):
    """All read what one writes, and all miss what one has invalidated, at once."""
    settings.CACHES = setting(location)
    cache = caches[alias]
    if used:
        cache.set("k", "before")
    family_members = family(cache)
    before = ["before" if used else None] * 3
    assert [member("get", "k") for member in family_members] == before
    for number, one in enumerate(family_members * 2):
        one("set", "k", number)
        assert [member("get", "k") for member in family_members] == [number] * 3
        # Twice, so that the others are more than one generation behind.
        assert one("invalidate_namespace") < (newest := one("invalidate_namespace"))
        assert [member("get", "k") for member in family_members] == [None] * 3
        assert cache.generation == newest
        one("clear")
        # A process that is behind writes, and all processes read the item.
        for writer in reversed(family_members):
            assert writer("add", "k", number) is (writer is family_members[-1])
        assert [member("incr", "k") for member in family_members] == [
            number + 1,
            number + 2,
            number + 3,
        ]


# Threads.


def shelf(request, alias, key):
    """Store the body of a request, and return the stored value."""
    if request.method == "PUT":
        caches[alias].set(key, request.body.decode())
    found = caches[alias].get(key, "miss")
    caches[alias].close()  # Django closes it, too, but perhaps after the test
    # A connection is kept only if the length of the answer is known.
    headers = {"Content-Length": len(found), "X-By": threading.current_thread().name}
    return HttpResponse(found, headers=headers)


async def async_shelf(request, alias, key):
    """Do the same in a task."""
    cache = caches[alias]
    if request.method == "PUT":
        await cache.aset(key, request.body.decode())
    if request.method == "DELETE":
        await cache.ainvalidate_namespace()
    found = await cache.aget(key, "miss")
    cache.close()  # Django closes another cache, because its context is not this task's
    return HttpResponse(found)


urlpatterns = [
    path("<alias>/<key>", shelf),
    path("async/<alias>/<key>", async_shelf),
]


class QuickServer(ThreadedWSGIServer):
    """The server of Django's live server, with a shorter poll interval."""

    def serve_forever(self):
        super().serve_forever(poll_interval=0.01)


class LiveServer(LiveServerThread):
    server_class = QuickServer


@pytest.fixture
def live_server(server):
    """Django's live server, with the views above."""
    with override_settings(
        ALLOWED_HOSTS=["127.0.0.1"],
        CACHES=setting(server.location),
        ROOT_URLCONF=__name__,
        STATIC_URL="/static/",
    ):
        thread = LiveServer("127.0.0.1", _StaticFilesHandler)
        thread.daemon = True
        thread.start()
        assert thread.is_ready.wait(LIMIT)
        assert thread.error is None
        yield thread
        thread.terminate()
        caches.close_all()


@pytest.mark.parametrize("kept", [False, True])
def test_a_live_server_sees_a_tests_invalidation_at_once(alias, live_server, kept):
    """This holds in a running thread and in a new thread."""
    connection = HTTPConnection("127.0.0.1", live_server.port, timeout=LIMIT)
    threads = set()

    def ask(method, key, body=None):
        connection.request(method, f"/{alias}/{key}", body)
        response = connection.getresponse()
        threads.add(response.headers["X-By"])
        text = response.read().decode()
        assert response.status == 200, text
        if not kept:
            connection.close()
        return text

    cache = caches[alias]
    for number in range(2):
        cache.set("k", f"test's {number}")
        assert ask("GET", "k") == f"test's {number}"
        cache.invalidate_namespace()
        assert ask("GET", "k") == "miss"
        assert ask("PUT", "l", f"server's {number}") == f"server's {number}"
        assert cache.get("l") == f"server's {number}"
        cache.clear()
        assert ask("GET", "l") == "miss"
        assert cache.get("l") is None
    connection.close()
    assert (len(threads) == 1) is kept


def in_threads(act, count=8):
    """Run act(number, barrier) in so many threads at once. Each closes its caches."""
    together = threading.Barrier(count, timeout=LIMIT)

    def run(number):
        try:
            return act(number, together)
        except BaseException:
            together.abort()  # otherwise the others would wait for this thread
            raise
        finally:
            caches.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_threads_can_use_one_cache_in_turn(alias, location):
    """They use its connections, also after an invalidation."""
    others = connections(location).keys()  # of earlier tests, which may end meanwhile
    with override_settings(CACHES=setting(location)):
        cache = in_a_thread(lambda: caches[alias])
        for _ in range(2):  # the first creates the counter
            in_a_thread(lambda: cache.set("k", 0))
        mine = connections(location).keys() - others
        assert len(mine) == FOR_ONE_SERVER[alias]
        for number in range(3):
            in_a_thread(lambda value=number: cache.set("k", value))
            assert in_a_thread(lambda: cache.get("k")) == number
            in_a_thread(cache.invalidate_namespace)
            assert in_a_thread(lambda: cache.get("k")) is None
            assert cache.get("k") is None
        assert connections(location).keys() - others == mine
        cache._cache.disconnect_all()


@pytest.mark.parametrize(("alias", "whose"), THREADED)
@pytest.mark.usefixtures("aliases")
def test_all_threads_see_an_invalidation_by_one_at_once(alias, whose):
    shared = caches[alias] if whose == "shared" else None

    def work(me, together):
        cache = of_either(alias, shared)
        for turn in range(16):
            cache.set(f"k{me}", [me, turn])
            together.wait()
            everything = cache.get_many([f"k{other}" for other in range(8)])
            assert everything == {f"k{other}": [other, turn] for other in range(8)}
            together.wait()
            if turn % 8 == me:
                cache.invalidate_namespace()
            together.wait()
            assert cache.get(f"k{(me + 1) % 8}") is None
            together.wait()

    in_threads(work)


# Tasks.


@pytest.mark.parametrize("whose", ["each", "shared"])
@pytest.mark.usefixtures("aliases")
def test_tasks_read_their_own_answers(alias, whose):
    """Each task uses the backend that Django builds for it, or all share one."""
    # Without a shared backend, none is built here, because tasks would inherit it.
    shared = caches[alias] if whose == "shared" else None
    others = [f"k{other}" for other in range(10)]

    async def work(me):
        cache = of_either(alias, shared)
        for number in range(4):
            await cache.aset(f"k{me}", [me, number])
            assert await cache.aget(f"k{me}") == [me, number]
            await cache.aset_many({f"a{me}": me, f"b{me}": me})
            found = await cache.aget_many([f"a{me}", f"b{me}", *others])
            assert found.pop(f"a{me}") == found.pop(f"b{me}") == me
            assert found[f"k{me}"] == [me, number]
            assert all(key == f"k{owner}" for key, (owner, _) in found.items())
            assert await cache.aincr(f"b{me}", number) == me + number
        if shared is None:
            cache.close()
        return cache

    async def work_all():
        return await asyncio.gather(*(work(me) for me in range(10)))

    backends = asyncio.run(work_all())
    assert len(set(map(id, backends))) == (1 if shared else 10)


async def in_a_thread_pool(cache):
    await asyncio.to_thread(cache.invalidate_namespace)


async def synchronously(cache):
    cache.invalidate_namespace()


async def asynchronously(cache):
    await cache.ainvalidate_namespace()


async def cleared(cache):
    await cache.aclear()


@pytest.mark.parametrize(
    "invalidate", [in_a_thread_pool, synchronously, asynchronously, cleared]
)
@pytest.mark.usefixtures("aliases")
def test_all_tasks_see_an_invalidation_by_one_at_once(alias, invalidate):
    async def work(me, together):
        cache = caches[alias]
        for turn in range(4):
            await cache.aset(f"k{me}", turn)
            await together.wait()
            found = await cache.aget_many([f"k{other}" for other in range(4)])
            assert found == {f"k{other}": turn for other in range(4)}
            await together.wait()
            if turn == me:
                await invalidate(cache)
            await together.wait()
            assert await cache.aget(f"k{(me + 1) % 4}") is None
            await together.wait()
        cache.close()

    async def work_all():
        together = asyncio.Barrier(4)
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
            for me in range(4):
                tasks.create_task(work(me, together))

    asyncio.run(work_all())


async def answered(method, url, body=b""):
    """Return the site's answer through Django's ASGI handler."""
    scope = {"type": "http", "method": method, "path": url, "headers": []}
    site = ApplicationCommunicator(ASGIHandler(), scope)
    await site.send_input({"type": "http.request", "body": body})
    start = await site.receive_output(LIMIT)
    end = await site.receive_output(LIMIT)
    await site.wait(LIMIT)
    assert start["status"] == 200, end
    return end["body"].decode()


@pytest.mark.usefixtures("aliases")
def test_an_async_view_sees_a_tests_invalidation_at_once(alias):
    """The test also sees the view's invalidation. Both run in one event loop."""
    cache = caches[alias]
    url = f"/async/{alias}/k"

    async def use():
        for invalidate in (in_a_thread_pool, synchronously, asynchronously, cleared):
            await cache.aset("k", "test's")
            assert await answered("GET", url) == "test's"
            await invalidate(cache)
            assert await answered("GET", url) == "miss"
            assert await answered("PUT", url, b"view's") == "view's"
            assert await cache.aget("k") == "view's"
            await invalidate(cache)
            assert await cache.aget("k") is None
            await cache.aset("k", "test's")
            assert await answered("DELETE", url) == "miss"
            assert await cache.aget("k") is None
            assert cache.get("k") is None

    with override_settings(ROOT_URLCONF=__name__):
        asyncio.run(use())
