"""identity: the names of the run and of the worker."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from unittest import mock

import django.test.runner
import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from namespaced_cache import NamespacedCache, namespaced
from namespaced_cache.core import identity

RUN = "NAMESPACED_CACHE_RUN"
XDIST = "PYTEST_XDIST_WORKER"

names = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)


def in_a_child(code: str) -> str:
    """Run code in a new process that inherits the environment; return its output."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@pytest.fixture(autouse=True)
def _no_run_yet(monkeypatch):
    monkeypatch.delenv(RUN)
    identity.begin_epoch()
    # monkeypatch does not remove what setdefault() has set.
    yield
    os.environ.pop(RUN, None)


def run_of_a_child() -> str:
    return in_a_child(
        "from namespaced_cache.core import identity; print(identity.run())"
    )


def test_a_run_is_named_once():
    name = identity.run()
    assert name.startswith("run-")
    assert identity.is_name(name)
    assert identity.run() == name == os.environ[RUN]


def test_a_child_process_inherits_the_run():
    assert identity.run() == run_of_a_child()


def test_a_process_keeps_the_name_of_its_run(monkeypatch):
    """Threads and forked children use the name that the first call made."""
    name = identity.run()
    monkeypatch.delenv(RUN)
    identity.begin_epoch()
    assert identity.run() == name


def test_two_runs_have_two_names():
    assert RUN not in os.environ
    assert run_of_a_child() != run_of_a_child()


def test_the_environment_can_name_the_run(monkeypatch):
    monkeypatch.setenv(RUN, "nightly_2-b")
    identity.begin_epoch()
    assert identity.run() == "nightly_2-b"
    assert identity.resolve(None) == "nightly_2-b"


def test_an_empty_variable_names_no_run(monkeypatch):
    """Some CI systems set a variable that has no value to ""."""
    monkeypatch.setenv(RUN, "")
    identity.begin_epoch()
    assert identity.run() == os.environ[RUN] != ""


def test_a_run_is_named_before_the_first_use(server):
    """So a process that is started before the first use inherits the name."""
    NamespacedCache(server.location, {})
    assert os.environ[RUN] == run_of_a_child()


def test_a_backend_with_a_namespace_option_names_no_run(server, backend):
    options = {"NAMESPACE": "shop", "WRAPPED_BACKEND": backend}
    NamespacedCache(server.location, {"OPTIONS": options})
    namespaced({"default": {"BACKEND": backend}}, NAMESPACE="shop")
    assert RUN not in os.environ


def test_wrapping_the_settings_names_the_run(backend):
    namespaced({"default": {"BACKEND": backend}})
    assert os.environ[RUN] == run_of_a_child()


def test_a_given_name_is_the_namespace_and_names_no_run():
    assert identity.resolve("shop-tests") == "shop-tests"
    assert RUN not in os.environ


def test_without_a_given_name_the_run_is_the_namespace():
    assert identity.resolve(None) == identity.run()


def test_a_process_that_is_not_a_worker_has_no_workers_name():
    assert identity.worker() == ""


@pytest.mark.parametrize("name", [None, "shop"])
def test_a_worker_of_xdist_has_a_namespace_of_its_own(monkeypatch, name):
    whole = name or identity.run()
    monkeypatch.setenv(XDIST, "gw3")
    identity.begin_epoch()
    assert identity.worker() == "gw3"
    assert identity.resolve(name) == f"{whole}.gw3"


@pytest.mark.parametrize("name", [None, "shop"])
def test_a_worker_of_djangos_runner_has_a_namespace_of_its_own(monkeypatch, name):
    whole = name or identity.run()
    monkeypatch.setattr(django.test.runner, "_worker_id", 12)
    identity.begin_epoch()
    assert identity.worker() == "w12"
    assert identity.resolve(name) == f"{whole}.w12"


def test_the_name_of_the_worker_is_found_at_each_use(monkeypatch, cache):
    """Backends are built before workers fork."""
    run = identity.run()
    seen = [cache.namespace]
    monkeypatch.setattr(django.test.runner, "_worker_id", 1)
    identity.begin_epoch()
    seen.append(cache.namespace)
    monkeypatch.setenv(XDIST, "gw0")
    identity.begin_epoch()
    seen.append(cache.namespace)
    monkeypatch.delenv(XDIST)
    monkeypatch.setattr(django.test.runner, "_worker_id", 0)
    identity.begin_epoch()
    seen.append(cache.namespace)
    assert seen == [run, f"{run}.w1", f"{run}.gw0-w1", run]


def test_the_name_of_the_run_is_found_at_each_use(monkeypatch, cache):
    monkeypatch.setenv(RUN, "one")
    identity.begin_epoch()
    assert cache.namespace == "one"
    monkeypatch.setenv(RUN, "other")
    identity.begin_epoch()
    assert cache.namespace == "other"


def test_a_test_that_clears_the_environment_keeps_its_namespace(monkeypatch, cache):
    monkeypatch.setenv(XDIST, "gw0")
    identity.begin_epoch()
    cache.set("k", 1)
    with mock.patch.dict(os.environ, clear=True):
        assert cache.get("k") == 1


def test_an_empty_xdist_variable_means_no_worker(monkeypatch):
    monkeypatch.setenv(XDIST, "")
    identity.begin_epoch()
    assert identity.worker() == ""


def test_djangos_test_runner_is_not_imported():
    """The import would make a site start slower, and needs more of Django."""
    code = (
        "import sys; from namespaced_cache import NamespacedCache as N; "
        "name = N('127.0.0.1:1', {'OPTIONS': {'NAMESPACE': 'shop'}}).namespace; "
        "print(name, 'django.test.runner' in sys.modules)"
    )
    assert in_a_child(code) == "shop False"


def test_a_process_that_a_worker_starts_has_its_name(monkeypatch):
    """Django keeps the worker's number in a global variable of the process."""
    monkeypatch.setenv(identity.WORKER_VARIABLE, "")
    monkeypatch.setattr(django.test.runner, "_worker_id", 3)
    identity.begin_epoch()
    identity.name_children()
    assert os.environ[identity.WORKER_VARIABLE] == identity.worker() == "w3"
    monkeypatch.setattr(django.test.runner, "_worker_id", 0)
    identity.begin_epoch()
    assert identity.worker() == "w3"
    # Such a process may have workers itself.
    monkeypatch.setenv(XDIST, "gw1")
    identity.begin_epoch()
    assert identity.worker() == "w3-gw1"
    monkeypatch.setattr(django.test.runner, "_worker_id", 2)
    identity.begin_epoch()
    assert identity.worker() == "w3-gw1-w2"
    identity.name_children()
    assert os.environ[identity.WORKER_VARIABLE] == identity.worker() == "w3-gw1-w2"


def test_a_process_that_is_not_a_worker_sets_no_name(monkeypatch):
    monkeypatch.setenv(identity.WORKER_VARIABLE, "")
    identity.begin_epoch()
    identity.name_children()
    assert os.environ[identity.WORKER_VARIABLE] == ""


BAD_NAMES = [" ", "a b", "a.b", "a:b", "a/b", "a\n", "\na", "é", "x" * 33]


@pytest.mark.parametrize("variable", [RUN, XDIST])
@pytest.mark.parametrize("value", BAD_NAMES)
def test_a_bad_name_in_the_environment_is_refused(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    identity.begin_epoch()
    with pytest.raises(ImproperlyConfigured) as caught:
        identity.resolve(None)
    assert str(caught.value) == (
        f"The environment variable {variable} is {value!r}: it takes 1 to 32 letters, "
        f"digits, '_' and '-'."
    )


@pytest.mark.parametrize("name", ["a", "Z", "0", "_", "-", "shop-tests_2", "x" * 32])
def test_a_name_is_accepted(name):
    assert identity.is_name(name)


@pytest.mark.parametrize("name", ["", None, 1, b"a", ["a"], *BAD_NAMES])
def test_other_values_are_not_names(name):
    assert not identity.is_name(name)


@given(names, names, names, names)
def test_different_workers_never_share_a_namespace(one, other, worker, another):
    """A worker's namespace is also no namespace that settings can name."""

    def resolved(name, worker):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(XDIST, worker)
            identity.begin_epoch()
            return identity.resolve(name)

    assert not identity.is_name(resolved(one, worker))
    same = (one, worker) == (other, another)
    assert (resolved(one, worker) == resolved(other, another)) is same


def test_threads_that_find_no_namespace_at_once_warn_once(monkeypatch, caplog):
    threads = 5
    together = Barrier(threads)

    def is_test_run():
        together.wait(timeout=10)
        return False

    monkeypatch.setattr(identity, "is_test_run", is_test_run)
    monkeypatch.setattr(identity, "_has_warned", False)
    monkeypatch.setattr(identity.places, "warn", bool)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(identity.warn_outside_of_tests, ["default"] * threads))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
