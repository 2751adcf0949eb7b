"""Django's runner and unittest's classes, isolated, in small projects.

test_whole_suites.py has every kind of test; here is what goes wrong, and the mixin.
"""

from __future__ import annotations

import re

import pytest
from projects import RUNNER, Project
from round_trips import CountingProxy

HEAD = """
import os
import unittest
from django.core.cache import cache
from django.test import SimpleTestCase, TestCase
from namespaced_cache.test import NamespacedCacheMixin

def leave(name):
    '''Tell what is left of others, and leave something.'''
    left = sorted(cache.get_many(["class", "test"]))
    cache.set(name, 1)
    return left

"""


@pytest.fixture
def project(tmp_path, server):
    """A project of production settings and no tests."""
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
    """Make a test module of the project of this."""
    return HEAD + text


def outcomes(run):
    """Return the names of what failed, by Django's report."""
    return sorted(re.findall(r"^(?:FAIL|ERROR): (\w+)", run.output, re.MULTILINE))


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


@pytest.mark.parametrize(
    ("mixin", "arguments", "settings"),
    [
        ("", [RUNNER], "bare_settings"),
        ("NamespacedCacheMixin, ", [], "namespaced_settings"),
        # Both, and then the runner does it.
        ("NamespacedCacheMixin, ", [RUNNER], "namespaced_settings"),
    ],
    ids=["runner", "mixin", "both"],
)
def test_a_class_that_cannot_be_set_up_leaves_nothing(
    project, mixin, arguments, settings
):
    project.write("test_failing.py", module(FAILING.format(mixin=mixin)))
    run = project.manage("test", *arguments, DJANGO_SETTINGS_MODULE=settings)
    assert outcomes(run) == ["setUpClass", "setUpClass"], run.output
    assert run.ran == 5, run.output


AWAY = """
import signal

class A{mixin}({bases}SimpleTestCase):
    def test_1_passes(self):
        self.assertEqual(leave("test"), [])
        os.kill(int(os.environ["MEMCACHED_PID"]), signal.SIGKILL)

    def test_2_fails(self):
        raise AssertionError("is not to be run")

    def test_3_fails(self):
        raise AssertionError("is not to be run")

class B{mixin}({bases}SimpleTestCase):
    def test_4_never_run(self):
        raise AssertionError("is not to be run")
"""


@pytest.mark.parametrize(
    ("bases", "arguments", "settings"),
    [
        ("", [RUNNER], "bare_settings"),
        ("NamespacedCacheMixin, ", [], "namespaced_settings"),
    ],
    ids=["runner", "mixin"],
)
def test_where_no_server_answers_tests_fail_and_the_run_goes_on(
    project, start, bases, arguments, settings
):
    server = start()
    project.write("test_away.py", module(AWAY.format(mixin="Class", bases=bases)))
    run = project.manage(
        "test",
        *arguments,
        DJANGO_SETTINGS_MODULE=settings,
        MEMCACHED_LOCATION=server.location,
        MEMCACHED_PID=str(server.process.pid),
    )
    assert outcomes(run) == ["setUpClass", "test_2_fails", "test_3_fails"], run.output
    assert "is not to be run" not in run.output
    said = rf"NamespaceUnavailable: Namespace '[\w.-]+' on {server.location}: no answer"
    assert len(re.findall(said, run.output)) == 3, run.output
    assert run.ran == 3, run.output


@pytest.mark.parametrize(
    ("base", "arguments"), [("", [RUNNER]), ("NamespacedCacheMixin, ", [])]
)
def test_a_scope_that_there_is_not_is_refused(project, base, arguments):
    text = f"""
class Wrong({base}SimpleTestCase):
    cache_isolation = "session"
    def test_nothing(self): pass
"""
    project.write("test_wrong.py", module(text))
    run = project.manage(
        "test", *arguments, DJANGO_SETTINGS_MODULE="namespaced_settings"
    )
    assert outcomes(run) == ["setUpClass"], run.output
    assert (
        "ValueError: Wrong.cache_isolation is 'session': it takes function, class, off."
    ) in run.output


TRIVIAL = """
class Trivial({base}SimpleTestCase):
    pass

for number in range(1000):
    setattr(Trivial, f"test_{{number}}", lambda self: None)
"""


@pytest.mark.parametrize(
    ("base", "arguments", "settings"),
    [
        ("", [RUNNER], "bare_settings"),
        ("NamespacedCacheMixin, ", [], "namespaced_settings"),
        ("NamespacedCacheMixin, ", [RUNNER], "namespaced_settings"),
    ],
    ids=["runner", "mixin", "both"],
)
def test_a_test_pays_one_round_trip_for_its_isolation(
    project, server, base, arguments, settings
):
    """A class one more, and the run three.

    Two because its first invalidation finds no counter to bump, and one for the
    client's farewell.
    """
    project.write("test_trivial.py", module(TRIVIAL.format(base=base)))
    proxy = CountingProxy(server.port)
    project.environment |= {
        "DJANGO_SETTINGS_MODULE": settings,
        "MEMCACHED_LOCATION": proxy.location,
    }

    def run_them():
        run = project.manage("test", *arguments)
        assert (run.code, run.ran) == (0, 1000), run.output

    assert proxy.during(run_them) == 1000 + 1 + 3
    proxy.close()


def test_the_mixin_warns_where_there_is_no_namespace(project):
    text = """
from django.core.cache import caches

class Warned(NamespacedCacheMixin, SimpleTestCase):
    def test_opens(self):
        caches["default"], caches["pylibmc"]
"""
    project.write("test_warned.py", module(text))
    run = project.run(
        *("-W", "default", "-m", "django", "test"),
        MEMCACHED_LOCATION="127.0.0.1:1",  # nobody answers, but then nobody is asked
    )
    assert (run.code, run.ran) == (0, 1), run.output
    assert run.output.count("NamespaceWarning:") == 1, run.output
    assert (
        "NamespaceWarning: The cache alias 'default' reaches memcached at 127.0.0.1:1 "
        "without a namespace: tests read and overwrite what others keep there. Add to "
        'the settings: TEST_RUNNER = "namespaced_cache.test.NamespacedDiscoverRunner"'
    ) in run.output


def test_a_runner_of_ones_own_isolates_with_the_mixin(project):
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


def test_a_suite_of_ours_needs_a_runner_of_ours(project):
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
