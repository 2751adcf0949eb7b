"""Django's runner and unittest's classes, isolated, in small projects.

test_whole_suites.py has tests of every kind. This module has errors, and the mixin.
"""

from __future__ import annotations

import re

import pytest

from tests.support.projects import RUNNER, Project
from tests.support.round_trips import CountingProxy

HEAD = """
import os
import unittest
from django.core.cache import cache
from django.test import SimpleTestCase, TestCase
from namespaced_cache.test import NamespacedCacheMixin

def leave(name):
    '''Return the items that are left, and store one.'''
    left = sorted(cache.get_many(["class", "test"]))
    cache.set(name, 1)
    return left

"""


@pytest.fixture
def project(tmp_path, server):
    """A project with production settings and no tests."""
    made = Project(tmp_path, server.location)
    made.write("suite/test_every_kind.py", "")
    made.write(
        "bare_settings.py",
        "from settings import *\nINSTALLED_APPS = []\ndel ROOT_URLCONF",
    )
    made.write(
        "namespaced_settings.py",
        """
        from settings import *
        from namespaced_cache import namespaced
        INSTALLED_APPS = []
        del ROOT_URLCONF
        CACHES = namespaced(CACHES)
        """,
    )
    made.environment["DJANGO_SETTINGS_MODULE"] = "bare_settings"
    return made


def module(text):
    """Return the text of a test module of the project."""
    return HEAD + text


def outcomes(run):
    """Return the names of the tests that failed, from Django's report."""
    return sorted(re.findall(r"^(?:FAIL|ERROR): (\w+)", run.output, re.MULTILINE))


#: The ways to isolate a test case: its base class, the arguments, the settings.
EACH_WAY = pytest.mark.parametrize(
    ("base", "arguments", "settings"),
    [
        ("", [RUNNER], "bare_settings"),
        ("NamespacedCacheMixin, ", [], "namespaced_settings"),
        # With both, the runner isolates.
        ("NamespacedCacheMixin, ", [RUNNER], "namespaced_settings"),
    ],
    ids=["runner", "mixin", "both"],
)

FAILING = """
class FailsToBeSetUp({mixin}TestCase):
    databases = []

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        leave("class")
        raise RuntimeError("in setUpClass")

    def test_never_run(self):
        pass

class FailsToSetUpData({mixin}TestCase):
    databases = ["default"]

    @classmethod
    def setUpTestData(cls):
        assert leave("class") == []
        raise RuntimeError("in setUpTestData")

    def test_never_run(self):
        pass

class IsNotTouched({mixin}SimpleTestCase):
    def test_first(self):
        self.assertEqual(leave("test"), [])

    test_second = test_first

class SharesWithinItself({mixin}SimpleTestCase):
    cache_isolation = "class"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        assert leave("class") == []

    def test_first(self):
        self.assertEqual(leave("test"), ["class"])

    def test_second(self):
        self.assertEqual(leave("test"), ["class", "test"])

class WhateverIsThere({mixin}SimpleTestCase):
    cache_isolation = "off"

    def test_first(self):
        self.assertEqual(leave("test"), ["class", "test"])
"""


@EACH_WAY
def test_a_class_that_cannot_be_set_up_leaves_nothing(
    project, base, arguments, settings
):
    project.write("test_failing.py", module(FAILING.format(mixin=base)))
    run = project.manage("test", *arguments, DJANGO_SETTINGS_MODULE=settings)
    assert outcomes(run) == ["setUpClass", "setUpClass"], run.output
    assert run.ran == 5, run.output


DOWN = """
import signal

class A{mixin}({bases}SimpleTestCase):
    def test_1_passes(self):
        self.assertEqual(leave("test"), [])
        os.kill(int(os.environ["MEMCACHED_PID"]), signal.SIGKILL)

    def test_2_fails(self):
        raise AssertionError("must not run")

    def test_3_fails(self):
        raise AssertionError("must not run")

class B{mixin}({bases}SimpleTestCase):
    def test_4_never_run(self):
        raise AssertionError("must not run")
"""


@EACH_WAY
def test_without_a_server_tests_fail_and_the_run_goes_on(
    project, start, base, arguments, settings
):
    server = start()
    project.write("test_down.py", module(DOWN.format(mixin="Class", bases=base)))
    run = project.manage(
        "test",
        *arguments,
        DJANGO_SETTINGS_MODULE=settings,
        MEMCACHED_LOCATION=server.location,
        MEMCACHED_PID=str(server.process.pid),
    )
    assert outcomes(run) == ["setUpClass", "test_2_fails", "test_3_fails"], run.output
    assert "must not run" not in run.output
    said = rf"NamespaceUnavailable: Namespace '[\w.-]+' on {server.location}: no answer"
    assert len(re.findall(said, run.output)) == 3, run.output
    assert run.ran == 3, run.output


@EACH_WAY
def test_an_unknown_scope_is_refused(project, base, arguments, settings):
    text = f"""
class Wrong({base}SimpleTestCase):
    cache_isolation = "session"
    def test_nothing(self): pass
"""
    project.write("test_wrong.py", module(text))
    run = project.manage("test", *arguments, DJANGO_SETTINGS_MODULE=settings)
    assert outcomes(run) == ["setUpClass"], run.output
    assert (
        "ValueError: Wrong.cache_isolation is 'session': "
        "it takes function, empty, class, off."
    ) in run.output


TRIVIAL = """
class Trivial({base}SimpleTestCase):
    pass

for number in range(200):
    setattr(Trivial, f"test_{{number}}", lambda self: None)
"""


@EACH_WAY
def test_isolation_costs_one_round_trip_for_each_test(
    project, server, base, arguments, settings
):
    """Each class costs one more.

    The run costs two more: its first invalidation seeds.
    """
    project.write("test_trivial.py", module(TRIVIAL.format(base=base)))
    proxy = CountingProxy(server.port)
    project.environment |= {
        "DJANGO_SETTINGS_MODULE": settings,
        "MEMCACHED_LOCATION": proxy.location,
    }

    def run_them():
        run = project.manage("test", *arguments)
        assert (run.code, run.ran) == (0, 200), run.output

    assert proxy.during(run_them) == 200 + 1 + 2
    proxy.close()


def test_the_mixin_warns_without_a_namespace(project):
    text = """
from django.core.cache import caches

class Warned(NamespacedCacheMixin, SimpleTestCase):
    def test_opens(self):
        caches["default"], caches["pylibmc"]
"""
    project.write("test_warned.py", module(text))
    run = project.run(
        *("-W", "default", "-m", "django", "test"),
        MEMCACHED_LOCATION="127.0.0.1:1",  # no server answers, but no test asks one
    )
    assert (run.code, run.ran) == (0, 1), run.output
    assert run.output.count("NamespaceWarning:") == 1, run.output
    assert (
        "NamespaceWarning: The cache alias 'default' reaches memcached at 127.0.0.1:1 "
        "without a namespace: tests read and overwrite the keys of others there. Add "
        "to "
        'the settings: TEST_RUNNER = "namespaced_cache.test.NamespacedDiscoverRunner"'
    ) in run.output


def test_a_projects_own_runner_isolates_with_the_mixin(project):
    project.write(
        "own_runner.py",
        """
        import unittest
        from django.test.runner import DiscoverRunner
        from namespaced_cache.test import NamespacedRunnerMixin, NamespacedTestSuite

        class OwnSuite(NamespacedTestSuite):
            pass

        class OwnRunner(NamespacedRunnerMixin, DiscoverRunner):
            test_suite = OwnSuite

            def run_suite(self, suite, **kwargs):
                print("by", type(suite).__name__)
                return super().run_suite(suite, **kwargs)
        """,
    )
    text = """
class Isolated(SimpleTestCase):
    def test_first(self):
        self.assertEqual(leave("test"), [])

    test_second = test_first
"""
    project.write("test_isolated.py", module(text))
    run = project.manage("test", "--testrunner=own_runner.OwnRunner")
    assert (run.code, run.ran) == (0, 2), run.output
    assert "by OwnSuite" in run.output


def test_our_suite_needs_our_runner(project):
    project.write(
        "own_runner.py",
        """
        from django.test.runner import DiscoverRunner
        from namespaced_cache.test import NamespacedTestSuite

        class OwnRunner(DiscoverRunner):
            test_suite = NamespacedTestSuite
        """,
    )
    text = """
class Refused(SimpleTestCase):
    def test_never_run(self): pass
"""
    project.write("test_refused.py", module(text))
    run = project.manage("test", "--testrunner=own_runner.OwnRunner")
    assert outcomes(run) == ["setUpClass"], run.output
    assert (
        "RuntimeError: A NamespacedTestSuite is run by a NamespacedRunnerMixin."
    ) in run.output


SUITES = """
import unittest
from django.test.runner import DiscoverRunner
from namespaced_cache.test import NamespacedRunnerMixin

class OwnSuite(unittest.TestSuite):
    pass

class OwnRunner(NamespacedRunnerMixin, DiscoverRunner):
    test_suite = OwnSuite
"""


def test_a_suite_that_isolates_nothing_is_refused(project):
    project.write("own_runner.py", SUITES)
    project.write("test_it.py", module(TRIVIAL.format(base="SimpleTestCase")))
    run = project.manage("test", "--testrunner=own_runner.OwnRunner")
    assert run.code != 0
    assert (
        "ImproperlyConfigured: The runner's suite is a OwnSuite: derive it from "
        "namespaced_cache.test.NamespacedTestSuite"
    ) in run.output


def test_items_of_tear_down_module_do_not_reach_the_next_class(project):
    text = """
def tearDownModule():
    leave("class")

class OfTheClass(SimpleTestCase):
    cache_isolation = "class"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.left = leave("class")

    def test_it(self):
        self.assertEqual(self.left, [])
"""
    project.write("test_one.py", module(text))
    project.write("test_two.py", module(text))
    run = project.manage("test", RUNNER)
    assert (run.code, run.ran) == (0, 2), run.output


def test_a_run_within_a_test_leaves_the_outer_one_as_it_was(project):
    text = """
from django.core.cache import CacheHandler, caches
from namespaced_cache.test.isolation import Isolation

def is_isolated():
    opened = caches["default"]
    del caches["default"]
    return "NamespacedCache" in repr(opened)

class Outer(SimpleTestCase):
    def test_1(self):
        for _ in range(2):
            inner = Isolation(wrap=True)
            inner.start()
            assert is_isolated()
            inner.stop()
            assert is_isolated()
            self.assertEqual(os.environ["NAMESPACED_CACHE_WRAP"], "1")

    def test_2(self):
        self.assertEqual(leave("test"), [])

    def test_3(self):
        inner = Isolation(wrap=True)
        inner.start()
        below = CacheHandler.create_connection
        calls = []

        def own(handler, alias):
            calls.append(alias)
            return below(handler, alias)

        CacheHandler.create_connection = own  # another patch on top of ours
        inner.stop()
        assert is_isolated()
        self.assertEqual(calls, ["default"])

    test_4 = test_2
"""
    project.write("test_outer.py", module(text))
    run = project.manage("test", RUNNER)
    assert (run.code, run.ran) == (0, 4), run.output


DOWN_FOR_A_WHILE = """
from django.test import override_settings
from django.conf import settings

class Overridden(SimpleTestCase):
    def test_down(self):
        there = {**settings.CACHES["default"], "LOCATION": "127.0.0.1:1"}
        with override_settings(CACHES={"default": there}):
            self.assertRaises(ConnectionRefusedError, cache.get, "k")

    def test_kept(self):
        self.assertTrue(cache.add("k", 1))
"""


def test_overridden_settings_may_name_no_running_server(project):
    """The test sees the same as with the bare backend."""
    project.write("test_down.py", module(DOWN_FOR_A_WHILE))
    run = project.run("-W", "ignore", "-m", "django", "test", RUNNER)
    assert (run.code, run.ran) == (0, 2), run.output


def test_a_class_with_scope_off_finds_its_items_through_other_settings(project):
    text = """
from django.test import override_settings
from django.conf import settings

other = {**settings.CACHES["default"], "OPTIONS": {"connect_timeout": 5}}
there = os.environ["MEMCACHED_LOCATION"].replace("127.0.0.1", "localhost")
other |= {"LOCATION": there}

class Off:
    cache_isolation = "off"

@override_settings(CACHES={"default": other})
class A(Off, SimpleTestCase):
    def test_it(self):
        leave("test")

class B(SimpleTestCase):
    def test_it(self):
        leave("test")

@override_settings(CACHES={"default": other})
class C(Off, SimpleTestCase):
    def test_it(self):
        self.assertEqual(leave("test"), ["test"])
"""
    project.write("test_off.py", module(text))
    run = project.manage("test", RUNNER)
    assert (run.code, run.ran) == (0, 3), run.output


def test_a_run_without_tests_ends_as_with_djangos_runner(project):
    arguments = ("test", "-k", "nothing_has_this_name")
    ours, theirs = project.manage(*arguments, RUNNER), project.manage(*arguments)
    assert (ours.code, ours.ran) == (theirs.code, theirs.ran) == (theirs.code, 0)
    assert "Traceback" not in ours.output


def test_an_unknown_scope_fails_its_class_alone(project):
    text = """
class Wrong(SimpleTestCase):
    cache_isolation = "session"
    def test_one(self): pass
    def test_other(self): pass

class Right(SimpleTestCase):
    def test_it(self): pass
"""
    project.write("test_wrong.py", module(text))
    run = project.manage("test", RUNNER)
    assert (run.ran, outcomes(run)) == (1, ["setUpClass"]), run.output


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_require_the_server_too(project, method):
    text = """
class One(SimpleTestCase):
    def test_it(self): pass

class Other(One):
    pass
"""
    project.write("test_it.py", module(text))
    project.write(
        "own_runner.py",
        """
        from namespaced_cache.test import NamespacedDiscoverRunner

        class Runner(NamespacedDiscoverRunner):
            cache_namespace_require = True
        """,
    )
    project.environment["MEMCACHED_LOCATION"] = "127.0.0.1:1"
    arguments = ("test", "--testrunner=own_runner.Runner", "--parallel=2")
    run = project.manage_by(method, *arguments)
    assert run.code == 1, run.output
    assert "NamespaceUnavailable" in run.output
