"""Fixtures: servers, wires to them, caches for both clients, and other processes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from contextlib import closing

import pytest
from django.core.cache.backends.base import BaseCache

from namespaced_cache.core import identity
from tests.support import django_settings
from tests.support.caches import BACKENDS, bare_cache, our_cache
from tests.support.other_processes import LIMIT, Process, begun
from tests.support.round_trips import CountingProxy
from tests.support.servers import Memcached, Twemproxy
from tests.support.uses import outcome
from tests.support.wires import Wire

# These helpers contain assertions. The tests import them later.
pytest.register_assert_rewrite("tests.support.side_by_side")

# The first is a project that the tests run with a pytest of its own. The others need
# packages that only `make instrumentation` and `make plugins` install.
collect_ignore = ["integration/isolated_project", "tools", "plugins"]


def pytest_configure() -> None:
    django_settings.configure()
    # A shell lets what it runs in the background ignore Ctrl-C, and so do its children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_run(monkeypatch):
    """Make each test a run of its own, which is not a worker's."""
    monkeypatch.delenv("NAMESPACED_CACHE_WORKER", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("NAMESPACED_CACHE_RUN", f"test-{secrets.token_hex(8)}")
    identity.begin_epoch()


@pytest.fixture(scope="session")
def server():
    """A memcached that the tests share. No test stops it."""
    memcached = Memcached()
    yield memcached
    memcached.close()


@pytest.fixture(scope="module")
def servers():
    """Two memcached processes for one module: one for ours, one for bare."""
    pair = Memcached(), Memcached()
    yield pair
    for each in pair:
        each.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate that memcached can read as the user `nobody`."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    paths = ["-keyout", key, "-out", certificate]
    subprocess.run(
        ["openssl", "req", *made, "-subj", "/CN=localhost", *paths],
        check=True,
        capture_output=True,
    )
    for path in (key, certificate, folder, folder.parent, folder.parent.parent):
        path.chmod(path.stat().st_mode | 0o755)
    return certificate, key


@pytest.fixture(scope="session")
def encrypted(certificate):
    """A memcached that is reached by TLS."""
    chain, key = certificate
    with closing(
        Memcached(
            "-Z", "-o", f"ssl_chain_cert={chain},ssl_key={key}", "-I", "4m", "-m", "512"
        )
    ) as server:
        yield server


@pytest.fixture(scope="session")
def twemproxy():
    """A twemproxy in front of two memcached processes."""
    behind = [Memcached(), Memcached()]
    tier = Twemproxy(*behind)
    yield tier
    for process in (tier, *behind):
        process.close()


@pytest.fixture(autouse=True)
def _empty_servers(request):
    """Delete what a test stored outside of any namespace.

    The next test must not find it.
    """
    yield
    for shared in {"server", "twemproxy"} & set(request.fixturenames):
        request.getfixturevalue(shared).empty()


@pytest.fixture
def start():
    """Start memcached processes for one test: start(*arguments, unix=False)."""
    started: list[Memcached] = []

    def start_one(*arguments: str, unix: bool = False) -> Memcached:
        memcached = Memcached(*arguments, unix=unix)
        started.append(memcached)
        return memcached

    yield start_one
    for memcached in started:
        memcached.close()


@pytest.fixture
def proxy(server):
    """A proxy in front of `server` that counts round trips."""
    counting = CountingProxy(server.port)
    yield counting
    counting.close()


@pytest.fixture(params=BACKENDS)
def client(request) -> str:
    """The client library. A test that uses this fixture runs once for each library."""
    return request.param


@pytest.fixture
def backend(client) -> str:
    """The dotted path of Django's own backend for `client`."""
    return BACKENDS[client]


@pytest.fixture
def build(backend, server):
    """Build a NamespacedCache for `client`. Its default server is `server`."""

    built: list[BaseCache] = []

    def build_one(location=None, **params):
        built.append(our_cache(backend, location or server.location, **params))
        return built[-1]

    yield build_one
    for cache in built:
        cache.close()


@pytest.fixture
def cache(build):
    """A NamespacedCache for `client` on `server`, in a namespace of this test."""
    return build()


@pytest.fixture
def real(cache):
    """The real client, outside any namespace."""
    return cache._cache.wrapped


@pytest.fixture
def bare(backend, server):
    """Django's own backend for `client` on `server`, which has no namespace."""
    neighbour = bare_cache(backend, server.location)
    yield neighbour
    neighbour.close()


@pytest.fixture(scope="module")
def door():
    """The connection to a process that forks other processes."""
    with begun() as door:
        yield door


@pytest.fixture
def another(door, backend, server):
    """Start another process of this run: another(location, worker="", **OPTIONS)."""
    processes: list[Process] = []

    def begin_one(location=None, worker="", **options) -> Process:
        process = Process(door)
        processes.append(process)
        run = os.environ["NAMESPACED_CACHE_RUN"]
        env = {"NAMESPACED_CACHE_RUN": run, "PYTEST_XDIST_WORKER": worker}
        process(f"os.environ.update({env!r})")
        process(f"use({backend!r}, {location or server.location!r}, {options!r})")
        return process

    yield begin_one
    for process in processes:
        process.close()


@pytest.fixture
def wires():
    """Put wires in front of servers, and return them in the order of their locations.

    So the first wire leads to the counter server, if a cache uses all of them.
    """
    strung: list[Wire] = []

    def string(*servers) -> list[Wire]:
        new = [Wire(server) for server in servers]
        strung.extend(new)
        return sorted(new, key=lambda wire: wire.location)

    yield string
    for wire in strung:
        outcome(wire.cut)


@pytest.fixture
def wire(wires, server):
    return wires(server)[0]


@pytest.fixture
def strung(start, wires):
    """Wires to three servers."""
    return wires(start(), start(), start())


@pytest.fixture
def patient(build, client):
    """Build a cache that waits as long as a test delays a reply.

    By default, libmemcached gives up after five seconds and returns only a part of the
    answer.
    """
    waits = {"behaviors": {"_poll_timeout": LIMIT * 1000}}
    options = waits if client == "pylibmc" else {}
    return lambda location: build(location, OPTIONS=options)


@pytest.fixture
def strangers(backend, wires):  # noqa: ARG001  # the wires must be cut later
    """Build Django's own backend on a server: a neighbour without a namespace."""
    built = []

    def build_one(location, **options):
        built.append(bare_cache(backend, location, OPTIONS=options))
        return built[-1]

    yield build_one
    for cache in built:
        outcome(cache.clear)
        cache.close()
