"""pytest-socket, which lets no test connect, or only to some hosts.

It blocks sockets after the isolation has emptied the cache, and until the test ends. So
the isolation itself can connect, and tests then use its connection. A connection of
pylibmc is none of Python's sockets, and is never blocked.
"""

from __future__ import annotations

import pytest

#: Warnings are no errors, because pytest-socket warns of what it blocks.
WARN = ("-W", "default", "-p", "no:randomly")

TESTS = """
from django.core.cache import caches

def test_first():
    assert caches["default"].add("k", 1)
    assert caches["pylibmc"].add("k", 1)

test_second = test_first

def test_without_a_cache():
    pass
"""


@pytest.mark.parametrize(
    "restriction",
    [
        ["--disable-socket", "--allow-hosts=127.0.0.1"],
        ["--disable-socket"],
        ["--allow-hosts=192.0.2.1"],
    ],
    ids=" ".join,
)
def test_each_test_begins_with_an_empty_cache(project, restriction):
    project.write("test_it.py", TESTS)
    run = project.pytest(*WARN, *restriction)
    assert (run.code, run.count("passed")) == (0, 3), run.output
    assert "is not isolated" not in run.output
    assert "A test tried to use" not in run.output


def test_each_test_begins_with_an_empty_cache_over_a_unix_socket(project, start):
    project.write("test_it.py", TESTS)
    restriction = ["--disable-socket", "--allow-unix-socket"]
    run = project.pytest(
        *WARN, *restriction, MEMCACHED_LOCATION=start(unix=True).location
    )
    assert (run.code, run.count("passed")) == (0, 3), run.output
    assert "is not isolated" not in run.output


OF_A_THREAD = """
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.cache import caches

def use():
    '''Use the cache of another thread, which has no connection yet.'''
    with pytest.raises(Exception, match="A test tried to use socket"):
        caches["default"].get("k")

def test_of_a_thread():
    caches["default"].set("k", 1)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(use).result()
    assert caches["default"].get("k") == 1
"""


@pytest.mark.parametrize("restriction", ["--disable-socket", "--allow-hosts=192.0.2.1"])
def test_a_connection_that_the_isolation_has_not_opened_is_blocked(
    project, restriction
):
    project.write("test_it.py", OF_A_THREAD)
    run = project.pytest(*WARN, restriction)
    assert (run.code, run.count("passed")) == (0, 1), run.output


CONFTEST = """
import pytest_socket

pytest_socket.disable_socket()
"""

PLAIN = """
def test_first():
    pass

def test_second():
    pass
"""


def test_a_notice_names_the_server_if_the_isolation_itself_is_blocked(project):
    project.write("conftest.py", CONFTEST)
    project.write("test_it.py", PLAIN)
    run = project.pytest(*WARN, "-o", "cache_namespace_exclude=pylibmc")
    assert (run.code, run.count("passed")) == (0, 2), run.output
    assert run.output.count("CACHES['default'] is not isolated: Namespace 'run-") == 1
    server = project.environment["MEMCACHED_LOCATION"]
    assert f"on {server}: no answer from the server (SocketBlocked" in run.output
