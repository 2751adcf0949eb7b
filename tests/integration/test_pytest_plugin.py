"""The pytest plugin, in small projects that run as a user runs them."""

from __future__ import annotations

import os
import re
import sys

import pytest

from tests.support.caches import BACKENDS, bare_cache
from tests.support.projects import Project
from tests.support.round_trips import CountingProxy

INI = "[pytest]\npythonpath = .\npython_files = test_*.py\n"
WRAP = "cache_namespace_wrap = true\n"


@pytest.fixture
def project(tmp_path, server):
    """A project with production settings and no tests, whose aliases pytest wraps."""
    made = Project(tmp_path, server.location)
    made.write("pytest.ini", INI + WRAP)
    made.write("suite/test_every_kind.py", "")
    made.write(
        "bare_settings.py",
        "from settings import *\nINSTALLED_APPS = []\ndel ROOT_URLCONF",
    )
    made.write(
        "conftest.py",
        """
        import pytest
        from django.core.cache import cache

        def leave(name):
            '''Return the items that are left, and store one.'''
            left = sorted(cache.get_many(["class", "module", "test"]))
            cache.set(name, 1)
            return left
        """,
    )
    return made


def all_pass(run, count):
    assert run.code == 0, run.output
    assert run.count("passed") == count, run.output


FIXTURES = """
import pytest
from conftest import leave

@pytest.fixture(scope="module", autouse=True)
def of_the_module():
    assert leave("module") == []

@pytest.fixture(scope="class")
def of_the_class():
    leave("class")

class TestFilled:
    def test_first(self, of_the_class):
        assert leave("test") == ["class", "module"]

    def test_second(self, of_the_class):
        assert leave("test") == ["class", "module"]

    @pytest.fixture
    def of_the_test(self):
        assert leave("test") == ["class", "module"]

    def test_third(self, of_the_class, of_the_test):
        assert leave("test") == ["class", "module", "test"]

def test_without_a_class():
    assert leave("test") == ["module"]

@pytest.fixture(scope="module")
def late():
    leave("module")

@pytest.fixture
def uses_late(request):
    leave("test")
    request.getfixturevalue("late")

def test_that_uses_it_late(uses_late):
    assert leave("test") == ["module", "test"]
"""


def test_all_tests_start_equally_including_the_first(project):
    """Each finds the items of wider fixtures, and those of its own fixtures."""
    project.write("test_fixtures.py", FIXTURES)
    all_pass(project.pytest(), 5)


def test_nothing_is_stored_outside_a_namespace_during_set_up(project, server):
    project.write(
        "conftest.py", "from django.core.cache import cache; cache.set('k', 1)"
    )
    project.write("test_nothing.py", "def test_nothing(): pass")
    all_pass(project.pytest(), 1)
    bare = bare_cache(BACKENDS["pymemcache"], server.location)
    assert bare.get("k") is None
    bare.close()


SCOPES = """
import pytest
from conftest import leave

{module}

@pytest.fixture(scope="class")
def of_the_class():
    assert "test" not in leave("class")

{decorator}
@pytest.mark.usefixtures("of_the_class")
class TestOne:
    {attribute}

    def test_first(self):
        assert leave("test") == ["class"]

    def test_second(self):
        assert leave("test") == ["class", "test"]

    @pytest.mark.cache_isolation("function")
    def test_third(self):
        assert leave("test") == ["class"]

    @pytest.mark.cache_isolation("empty")
    def test_fourth(self):
        assert leave("test") == []

class TestTwo(TestOne):
    pass

def test_without_a_class():
    assert leave("test") == []

def test_without_a_class_either():
    assert leave("test") == []
"""


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("ini", "cache_isolation = class"),
        ("module", 'pytestmark = pytest.mark.cache_isolation("class")'),
        ("decorator", '@pytest.mark.cache_isolation("class")'),
        ("attribute", 'cache_isolation = "class"'),
    ],
)
def test_a_class_may_share(project, where, what):
    places = dict.fromkeys(["module", "decorator", "attribute"], "")
    project.write("test_scopes.py", SCOPES.format(**{**places, where: what}))
    if where == "ini":
        project.write("pytest.ini", INI + WRAP + what)
    all_pass(project.pytest("-p", "no:randomly"), 10)


def test_the_closest_scope_counts(project):
    """First its own marker, then the scope of its class, then its module's marker."""
    project.write(
        "test_closest.py",
        """
        import pytest
        from conftest import leave

        pytestmark = pytest.mark.cache_isolation("off")

        class TestAttribute:
            cache_isolation = "function"

            def test_first(self):
                assert leave("test") == []

            test_second = test_first

        @pytest.mark.cache_isolation("function")
        class TestMarker:
            cache_isolation = "off"

            def test_first(self):
                assert leave("test") == []

            test_second = test_first

        def test_off():
            assert leave("test") == ["test"]

        @pytest.mark.cache_isolation(scope="function")
        def test_own():
            assert leave("test") == []
        """,
    )
    all_pass(project.pytest("-p", "no:randomly"), 6)


OF_A_MARKER = "The marker cache_isolation of test_scope.py::TestScope"


@pytest.mark.parametrize(
    ("ini", "marker", "complaint"),
    [
        ("'per test'", "", "The ini option cache_isolation is \"'per test'\""),
        ("", "'per test'", f"{OF_A_MARKER} is 'per test'"),
        ("", "'class', 'off'", f"{OF_A_MARKER} is ('class', 'off')"),
        ("", "", f"{OF_A_MARKER} is ()"),
    ],
)
def test_an_unknown_scope_is_refused(project, ini, marker, complaint):
    project.write("pytest.ini", INI + WRAP + (ini and f"cache_isolation = {ini}"))
    project.write(
        "test_scope.py",
        f"""
        import pytest
        @pytest.mark.cache_isolation({marker})
        class TestScope:
            def test(self): pass
        """,
    )
    run = project.pytest()
    assert run.code != 0
    assert f"{complaint}: it takes function, empty, class, off." in run.output


def test_the_fixture_is_the_default_alias(project):
    project.write(
        "test_fixture.py",
        """
        import pytest
        from django.core.cache import cache, caches
        from django.core.exceptions import ImproperlyConfigured
        from namespaced_cache import NamespacedCache

        def test_fixture(namespaced_cache):
            assert isinstance(namespaced_cache, NamespacedCache)
            assert namespaced_cache is caches["default"]
            cache.set("k", 1)
            namespaced_cache.invalidate_namespace()
            assert cache.get("k") is None
        """,
    )
    all_pass(project.pytest(), 1)
    run = project.pytest("-o", "cache_namespace_wrap=false")
    assert run.count("error") == 1, run.output
    assert "The cache alias 'default' has no namespace" in run.output


def test_a_run_ends_with_a_summary_unless_it_is_quiet(project):
    project.write(
        "test_report.py",
        """
        import pytest
        @pytest.mark.parametrize("number", range(12))
        def test_nothing(number): pass
        """,
    )
    # Each process invalidates once more, after a session fixture of pytest-django.
    said = r"^cache isolation: (\d+) namespaces?, invalidated ([\d,]+) times$"
    run = project.pytest()
    assert re.findall(said, run.output, re.MULTILINE) == [("1", "13")]
    run = project.pytest("-v", "-n", "2")
    assert re.findall(said, run.output, re.MULTILINE) == [("2", "14")]
    assert not re.findall(said, project.pytest("-q").output, re.MULTILINE)


def test_isolation_costs_one_round_trip_for_each_test(server, project):
    """A run costs four more.

    Its first invalidation finds no counter and takes two more. One is for a session
    fixture of pytest-django, and one for the client's `quit`.
    """
    project.write(
        "test_trivial.py",
        """
        import pytest
        @pytest.mark.parametrize("number", range(200))
        def test_nothing(number): pass
        """,
    )
    # The site must not use the cache itself while it is set up.
    proxy = CountingProxy(server.port)
    project.environment |= {
        "DJANGO_SETTINGS_MODULE": "bare_settings",
        "MEMCACHED_LOCATION": proxy.location,
    }
    count = proxy.during(lambda: all_pass(project.pytest(), 200))
    proxy.close()
    assert count == 200 + 4


def test_a_conftest_may_name_the_plugin(project):
    """Projects that do not load plugins automatically name it like this."""
    project.write("conftest.py", 'pytest_plugins = ["namespaced_cache.pytest_plugin"]')
    project.write(
        "test_named.py",
        """
        from django.core.cache import cache
        def test_first():
            assert cache.add("k", 1)
        test_second = test_first
        """,
    )
    all_pass(project.pytest("-p", "no:namespaced_cache"), 2)


def test_a_project_without_django_is_left_alone(project):
    project.write("conftest.py", "")
    project.write(
        "test_plain.py",
        """
        import sys
        def test_nothing():
            assert "namespaced_cache.pytest_plugin" in sys.modules
            assert "django" not in sys.modules
        """,
    )
    project.write("pytest.ini", INI)
    all_pass(project.pytest("-p", "no:django", "-v"), 1)


def test_a_project_without_memcached_is_left_alone(project):
    """An alias whose library or class does not exist is not opened, either."""
    project.write(
        "settings_without.py",
        """
        from settings import *
        INSTALLED_APPS = []
        broken = {"BACKEND": "no.such.Backend"}
        CACHES = {"default": CACHES["local"], "1": CACHES["unused"], "2": broken}
        """,
    )
    project.write(
        "test_local.py",
        """
        from django.core.cache import cache
        def test_first():
            assert cache.add("k", 1)
        def test_second():
            assert not cache.add("k", 1)
        """,
    )
    run = project.pytest(
        "-p", "no:randomly", "-v", DJANGO_SETTINGS_MODULE="settings_without"
    )
    all_pass(run, 2)
    # The header says so, because wrapping is on.
    (line,) = re.findall("^cache isolation: (.*)$", run.output, re.MULTILINE)
    assert line == (
        "not isolated: default (LocMemCache is not on memcached), 1 (RedisCache is not "
        "on memcached), 2 (its BACKEND cannot be imported)"
    )


def test_settings_that_a_test_overrides_show_no_old_items(project, start):
    """This includes other servers, however they were reached before."""
    project.write(
        "test_override.py",
        f"""
        import pytest
        from django.conf import settings
        from django.core.cache import cache, caches
        from django.test import override_settings

        there = {{**settings.CACHES["default"], "LOCATION": "{start().location}"}}
        elsewhere = override_settings(CACHES={{"default": there}})

        def use_elsewhere():
            with elsewhere:
                found = cache.get("k")
                cache.set("k", 1)
            with elsewhere:
                assert cache.get("k") == 1
            return found

        class TestFunctions:
            def test_first(self):
                assert use_elsewhere() is None
                assert use_elsewhere() == 1
                assert cache.add("k", 1)

            test_second = test_first

        @pytest.mark.cache_isolation("class")
        class TestClass:
            def test_first(self):
                assert use_elsewhere() is None
                assert cache.add("k", 1)

            def test_second(self):
                assert use_elsewhere() == 1
                assert not cache.add("k", 1)

        @elsewhere
        def test_decorated():
            assert cache.add("k", 1)

        test_decorated_too = test_decorated
        """,
    )
    all_pass(project.pytest("-p", "no:randomly"), 6)


def test_an_interrupted_run_leaves_nothing(project):
    """A later run with the same name finds nothing."""
    project.write(
        "test_broken_off.py",
        """
        import os, signal
        import pytest
        from conftest import leave

        @pytest.fixture
        def crashes():
            yield
            leave("test")
            raise RuntimeError("in the teardown")

        def test_teardown_crashes(crashes):
            assert leave("test") == []

        def test_after_the_crash():
            assert leave("test") == []

        def test_broken_off():
            assert leave("test") == []
            if "BREAK" in os.environ:
                os.kill(os.getpid(), signal.SIGINT)

        def test_after_all():
            assert leave("test") == []
        """,
    )
    same = {"NAMESPACED_CACHE_RUN": "named-by-hand"}
    run = project.pytest("-p", "no:randomly", **same, BREAK="1")
    assert run.code == pytest.ExitCode.INTERRUPTED
    assert (run.count("passed"), run.count("error")) == (2, 1), run.output
    run = project.pytest("-p", "no:randomly", **same)
    assert (run.count("passed"), run.count("error")) == (4, 1), run.output


def test_an_inner_class_shares_with_its_outer_class(project):
    """By the ini option, and by the outer class's scope. Its own scope comes first."""
    project.write("pytest.ini", INI + WRAP + "cache_isolation = class")
    project.write(
        "test_nested.py",
        """
        import pytest
        from conftest import leave

        class TestOuter:
            def test_1(self):
                assert leave("test") == []

            class TestInner:
                def test_2(self):
                    assert leave("class") == ["test"]

            @pytest.mark.cache_isolation("class")
            class TestOwn:
                def test_3(self):
                    assert leave("test") == []

                def test_4(self):
                    assert leave("test") == ["test"]

            def test_5(self):
                assert leave("test") == ["test"]

        class TestNext:
            def test_6(self):
                assert leave("test") == []

        @pytest.fixture(scope="module")
        def filled():
            leave("class")

        def test_7(filled):
            assert leave("test") == ["class"]

        test_8 = test_7
        """,
    )
    all_pass(project.pytest("-p", "no:randomly"), 8)


DOWN = (
    r"NamespaceWarning: CACHES\['default'\] is not isolated: "
    r"Namespace '[\w.-]+' on {}: no answer"
)


def test_a_server_that_is_never_reached_causes_one_warning(project, start):
    """Tests that do not use the server run, and others see it down.

    Skips are skipped.
    """
    server = start()
    server.kill()
    project.write(
        "one_alias.py", 'from bare_settings import *\ndel CACHES["pylibmc"]\n'
    )
    project.write(
        "test_down.py",
        """
        import pytest
        from django.core.cache import caches

        caches["default"]  # is opened, but not used, before the first test

        def test_nothing():
            pass

        def test_skipped():
            pytest.skip("a skip has to stay a skip while the server is down")

        @pytest.mark.parametrize("again", range(2))
        def test_sees_it_down(again):
            with pytest.raises(ConnectionRefusedError):
                caches["default"].get("k")
            assert caches["default"].get("k") is None  # in pymemcache's retry window
        """,
    )
    environment = {
        "DJANGO_SETTINGS_MODULE": "one_alias",
        "MEMCACHED_LOCATION": server.location,
    }
    run = project.pytest("-W", "default", "-p", "no:randomly", **environment)
    assert run.count("skipped") == 1, run.output
    assert run.count("passed") == 2, run.output  # the window lasts until the last test
    assert len(re.findall(DOWN.format(server.location), run.output)) == 1, run.output

    run = project.pytest("-p", "no:randomly", **environment)  # warnings are errors
    assert (run.count("skipped"), run.count("passed")) == (1, 2), run.output
    said = DOWN.replace("NamespaceWarning", "cache isolation")
    assert len(re.findall(said.format(server.location), run.output)) == 1, run.output


def test_a_server_that_is_reached_late_is_isolated(project, start):
    server = start()
    server.kill()
    project.environment |= {
        "MEMCACHED_LOCATION": server.location,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DJANGO_SETTINGS_MODULE": "bare_settings",
    }
    project.write("conftest.py", "")
    project.write(
        "test_late.py",
        f"""
        import pytest, time
        from django.core.cache import cache
        from tests.support.servers import Memcached

        @pytest.fixture(scope="module")
        def server():
            server = Memcached("-p", "{server.port}")
            yield
            server.close()

        def test_down():
            pass

        def test_is_there(server):
            time.sleep(1.1)  # pymemcache's retry window
            assert cache.add("k", 1)

        def test_is_isolated(server):
            assert cache.add("k", 1)

        test_is_isolated_again = test_is_isolated
        """,
    )
    run = project.pytest("-W", "default", "-p", "no:randomly")
    assert (run.code, run.count("passed")) == (0, 4), run.output


def test_a_shared_server_without_a_namespace_causes_one_warning(project):
    project.write("conftest.py", "")
    project.write(
        "test_warned.py",
        """
        from django.core.cache import caches
        def test_opens():
            caches["default"], caches["pylibmc"]
        """,
    )
    project.write("pytest.ini", INI)
    environment = {
        "DJANGO_SETTINGS_MODULE": "bare_settings",
        "MEMCACHED_LOCATION": "127.0.0.1:1",  # no server answers, but no test asks one
    }
    run = project.pytest("-W", "default", **environment)
    warning = (
        "test_warned.py:4: NamespaceWarning: The cache alias 'default' reaches "
        "memcached at 127.0.0.1:1 without a namespace: tests read and overwrite the "
        "keys of others there. Add to pytest's ini options: cache_namespace_wrap = true"
    )
    assert run.output.count("NamespaceWarning:") == 1, run.output
    assert warning in run.output, run.output
    project.write("test_too.py", "from test_warned import test_opens")
    fatal = ("-W", "error::namespaced_cache.NamespaceWarning")
    run = project.pytest(*fatal, **environment)
    # A call of the application does not raise it. The end of the run shows it, once.
    assert (run.code, run.count("passed")) == (0, 2), run.output
    text = warning.partition("NamespaceWarning: ")[2]
    assert run.output.count(f"cache isolation: {text}") == 1, run.output


FLUSHES = """
import pymemcache
from django.core.cache import cache
from django.core.cache.backends.memcached import PyMemcacheCache
from django.conf import settings

def test_namespaced():
    cache.clear()
    cache._cache.flush_all()

def test_backend():
    PyMemcacheCache(settings.CACHES["default"]["LOCATION"], {}).clear()

def test_client():
    cache._cache.wrapped.flush_all()
"""


def test_flush_all_on_a_bare_backend_is_reported_with_its_line(project, start):
    project.write("test_flushes.py", FLUSHES)
    run = project.pytest("-W", "default", MEMCACHED_LOCATION=start().location)
    all_pass(run, 3)
    places = re.findall(
        r"NamespaceWarning: flush_all\(\).* at \S+/(\S+): it", run.output
    )
    assert sorted(places) == ["test_flushes.py:12", "test_flushes.py:15"], run.output


def test_leftovers_of_a_run_expire_within_a_day(project):
    project.write(
        "test_capped.py",
        """
        import pymemcache
        from django.conf import settings
        from django.core.cache import cache
        from namespaced_cache.keys import base36

        def seconds(key):
            client = pymemcache.Client(settings.CACHES["default"]["LOCATION"])
            return int(client.raw_command(f"mg {key} t").split(b"t")[1])

        def test_stays():
            cache.set("k", 1, None)
            prefix = f"nsc:{cache.namespace}:{base36(cache.generation)}:"
            assert 86300 < seconds(prefix + cache.make_key("k")) <= 86400
        """,
    )
    all_pass(project.pytest(), 1)


REFUSED_ONCE = """
import socket
import pytest
from django.core.cache import cache, caches

@pytest.fixture(scope="module", autouse=True)
def of_the_module():
    '''Close the connections, and let the next one fail.'''
    def fail(*_):
        del socket.socket.connect
        raise RuntimeError("no connection")

    caches.close_all()
    socket.socket.connect = fail

@pytest.fixture(scope="class", autouse=True)
def of_the_class():
    pass

def test_first():
    raise AssertionError("the test itself was run")

def test_second():
    assert cache.add("k", 1)

def test_third():
    assert cache.add("k", 1)
"""


def test_an_invalidation_between_fixtures_that_fails_fails_one_test(project):
    """A fixture whose set-up a hook breaks off makes pytest fail in later tests."""
    project.write("test_it.py", REFUSED_ONCE)
    run = project.pytest(
        *("-p", "no:randomly"), "-o", "cache_namespace_exclude=pylibmc"
    )
    assert (run.count("failed"), run.count("passed")) == (1, 2), run.output
    assert "no answer from the server (RuntimeError: no connection)" in run.output
    assert "the test itself was run" not in run.output
