"""What set-up caches, in small projects that run as a user runs them."""

from __future__ import annotations

import pytest

from tests.support.projects import RUNNER, WRAP, empty_project, ways_to_run
from tests.support.round_trips import CountingProxy

WAYS = ways_to_run(processes=2)

ONE_PROCESS = {name: WAYS[name] for name in ("pytest", "Django")}


@pytest.fixture
def project(tmp_path, server):
    """A project with production settings and no tests."""
    return empty_project(tmp_path, server.location)


def assert_pass(run, count):
    assert run.code == 0, run.output
    assert count in (run.ran, run.count("passed")), run.output


# A project whose set-up warms a cache, and whose tests count queries.

WARM = """
from django.contrib.auth.models import Group, User
from django.core.cache import cache
from django.test import TestCase


def groups_of(user):
    return cache.get_or_set(f"groups-{user.pk}", lambda: list(user.groups.all()))


class Menu(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = User.objects.create_user("visitor")
        cls.user.groups.add(Group.objects.create(name="editors"))
        groups_of(cls.user)

    def test_no_query_is_made(self):
        with self.assertNumQueries(0):
            names = [group.name for group in groups_of(self.user)]
        self.assertEqual(names, ["editors"])

    def test_a_change_is_undone(self):
        self.assertTrue(groups_of(self.user))
        cache.set(f"groups-{self.user.pk}", ["changed"])
        cache.set("of-the-test", 1)
        self.assertEqual(groups_of(self.user), ["changed"])

    test_and_again = test_a_change_is_undone

    def test_the_rest_is_gone(self):
        self.assertIsNone(cache.get("of-the-test"))

    test_zz_the_rest_is_gone = test_the_rest_is_gone
"""


@pytest.mark.parametrize("way", ONE_PROCESS)
def test_a_warm_cache_stays_warm(project, way):
    project.write("suite/test_warm.py", WARM)
    assert_pass(WAYS[way](project), 5)


@pytest.mark.parametrize("way", ONE_PROCESS)
def test_alone_on_the_bare_backend_a_test_passes_too(project, way):
    project.write("suite/test_warm.py", WARM)
    if way == "pytest":
        run = project.pytest("-k", "test_no_query_is_made")
    else:
        run = project.manage("test", "-k", "test_no_query_is_made")
    assert_pass(run, 1)


EMPTY = '    cache_isolation = "empty"\n\n    @classmethod'
MARKER = 'import pytest\n@pytest.mark.cache_isolation("empty")\nclass Menu'
MIXIN = "from namespaced_cache.test import NamespacedCacheMixin\n"

#: Each way to set the scope: a text in the tests above, the text that replaces it, and
#: the command that runs the tests.
WAYS_TO_EMPTY = {
    "ini": ("", "", ["pytest", WRAP, "--override-ini=cache_isolation=empty"]),
    "marker": ("class Menu", MARKER, ["pytest", WRAP]),
    "attribute": ("    @classmethod", EMPTY, ["pytest", WRAP]),
    "runner": ("    @classmethod", EMPTY, ["django", "test", RUNNER]),
    "mixin": ("    @classmethod", EMPTY, ["django", "test", "--settings=wrapped"]),
}


@pytest.mark.parametrize("way", WAYS_TO_EMPTY)
def test_with_the_scope_empty_each_test_finds_nothing(project, way):
    replaced, by, arguments = WAYS_TO_EMPTY[way]
    text = WARM.replace(replaced, by) if replaced else WARM
    if way == "mixin":
        wrap_in_the_settings(project)
        text = MIXIN + text.replace("Menu(", "Menu(NamespacedCacheMixin, ")
    project.write("suite/test_warm.py", text)
    run = project.run("-m", *arguments)
    assert run.code != 0
    assert "1 queries executed, 0 expected" in run.output
    assert (run.count("failed") or run.output.count("FAIL: ")) == 1, run.output


def wrap_in_the_settings(project):
    project.write(
        "wrapped.py",
        """
        from settings import *
        from namespaced_cache import namespaced
        CACHES = namespaced(CACHES)
        """,
    )


def test_the_mixin_restores_what_the_set_up_of_a_class_cached(project):
    wrap_in_the_settings(project)
    text = WARM.replace("Menu(", "Menu(NamespacedCacheMixin, ")
    failing = """
import unittest

class FailsToBeSetUp(NamespacedCacheMixin, TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache.set("failed", 1)
        raise ValueError

    def test_never_run(self):
        pass


class IsSkipped(NamespacedCacheMixin, TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache.set("failed", 1)
        raise unittest.SkipTest

    test_never_run = FailsToBeSetUp.test_never_run


class LeavesSomething(unittest.TestCase):  # it has no mixin
    def test_leaves_something(self):
        cache.set("failed", 1)


class SetsNothingUp(NamespacedCacheMixin, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        pass  # does not call the mixin

    def test_nothing_is_left(self):
        self.assertEqual(cache.get_many(["failed", "groups-1"]), {})


class Next(NamespacedCacheMixin, TestCase):
    def test_nothing_is_left(self):
        self.assertIsNone(cache.get("failed"))
"""
    project.write("suite/test_warm.py", MIXIN + text + failing)
    run = project.manage("test", DJANGO_SETTINGS_MODULE="wrapped")
    assert run.output.count("ERROR: ") == 1, run.output
    assert "ERROR: setUpClass (suite.test_warm.FailsToBeSetUp)" in run.output
    assert "FAIL: " not in run.output
    assert run.ran == 8, run.output


# Modules and classes.

LEVELS = """
import pytest
import unittest
from django.conf import settings
from django.core.cache import cache, caches
from django.test import SimpleTestCase, TestCase, override_settings

ALL = "module", "base", "class", "changed", "raw", "test", "other"

def setUpModule():
    assert found() == {}
    cache.set("module", 1)
    cache.set("changed", "by the module")
    caches["pylibmc"].set("other", 1)

def tearDownModule():
    cache.set("module", "torn down")

def found():
    there = cache.get_many(ALL)
    if caches["pylibmc"].get("other"):
        there["other"] = 1
    return there

MODULE = {"module": 1, "changed": "by the module", "other": 1}


class Twice:
    def test_first(self):
        self.assertEqual(found(), self.expected)
        cache.set_many(dict.fromkeys(ALL, "of the test"))
        caches["pylibmc"].delete("other")

    test_second = test_third = test_first


class Plain(Twice, unittest.TestCase):
    expected = MODULE


class Base(Twice, SimpleTestCase):
    expected = {**MODULE, "base": 1}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        assert found() == MODULE
        cache.set("base", 1)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cache.set("base", "torn down")


class Inherited(Base):
    expected = {"module": 2, "changed": "by the class", "base": 1, "class": 1, "raw": 1}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache.incr("module")
        cache.set("changed", "by the class")
        cache._cache.set(cache.make_key("raw"), 1)
        cache.set("class", 1)
        caches["pylibmc"]._cache.delete(caches["pylibmc"].make_key("other"))


class Cleared(Twice, TestCase):
    expected = {"class": 1, "other": 1}

    @classmethod
    def setUpTestData(cls):
        cache.clear()
        # Both aliases have one namespace.
        cache.set("class", 1)
        caches["pylibmc"].set("other", 1)


class Empties(Twice, TestCase):
    expected = {}

    @classmethod
    def setUpTestData(cls):
        cache.clear()


OTHER = {**settings.CACHES["default"], "KEY_PREFIX": "overridden"}

@override_settings(CACHES={"default": OTHER, "pylibmc": OTHER})
class Overrides(Twice, SimpleTestCase):
    expected = {"class": 1}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        assert found() == {}
        cache.set("class", 1)


class NeedsAnEmptyOne(Twice, SimpleTestCase):
    cache_isolation = "empty"
    expected = {}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache.set("class", 1)


class HasParts(SimpleTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache.set("class", 1)

    def test_parts(self):
        for part in range(3):
            with self.subTest(part=part):
                self.assertEqual(cache.incr("class"), part + 2)

    test_parts_again = test_parts


class AsTheOthers(Twice, SimpleTestCase):
    expected = MODULE
"""

NEXT = """
from django.core.cache import cache
from django.test import SimpleTestCase

class Next(SimpleTestCase):
    def test_nothing_of_the_other_module_is_left(self):
        self.assertEqual(cache.get_many(["module", "class", "base", "changed"]), {})
"""


@pytest.mark.parametrize("way", WAYS)
def test_each_test_finds_what_its_module_and_its_class_have_cached(project, way):
    project.write("suite/test_levels.py", LEVELS)
    project.write("suite/test_next.py", NEXT)
    project.write("suite/test_a.py", NEXT)
    assert_pass(WAYS[way](project), 8 * 3 + 2 + 2)


def test_a_random_order_finds_the_same(project):
    project.write("suite/test_levels.py", LEVELS)
    project.write("suite/test_next.py", NEXT)
    run = project.manage("test", RUNNER, "--shuffle", "--reverse")
    assert_pass(run, 8 * 3 + 2 + 1)


# Fixtures of pytest.

FIXTURES = """
import pytest
from django.core.cache import cache

ALL = "session", "package", "module", "class", "number", "late", "test"

def found():
    return cache.get_many(ALL)

def finds(**expected):
    assert found() == {"session": 1, **expected}
    cache.set_many(dict.fromkeys(ALL, "of the test"))

@pytest.fixture(scope="session", autouse=True)
def of_the_session():
    cache.set("session", 1)

@pytest.fixture(scope="package")
def of_the_package():
    cache.set("package", 1)
    yield
    cache.set("package", "torn down")

@pytest.fixture(scope="module", params=[1, 2])
def number(request):
    # The item of the other parameter is gone.
    assert cache.add("number", request.param)
    return request.param

@pytest.fixture(scope="class")
def late():
    cache.set("late", 1)

@pytest.fixture(scope="class")
def of_the_class(of_the_package):
    cache.set("class", 1)

def test_1():
    finds()

class TestClass:
    def test_2(self, of_the_class):
        finds(package=1, **{"class": 1})

    def test_3(self):
        finds(package=1, **{"class": 1})

    def test_4(self, late):
        finds(package=1, late=1, **{"class": 1})

    def test_5(self, request):
        finds(package=1, late=1, **{"class": 1})

class TestOther:
    def test_6(self):
        finds(package=1)

    def test_7(self, request):
        finds(package=1)
        request.getfixturevalue("late")
        assert cache.get("late") == 1
        assert cache.get("session") == "of the test"

    def test_8(self):
        finds(package=1, late=1)

@pytest.mark.usefixtures("late")
def test_a_fixture_of_a_class_is_this_tests_own():
    finds(package=1, late=1)

def test_so_it_is_gone():
    finds(package=1)

def test_9(number):
    finds(package=1, number=number)

def test_10(number):
    finds(package=1, number=number)

def test_11(number, subtests):
    for part in range(2):
        with subtests.test(part=part):
            assert cache.get("number") == number + part
            cache.incr("number")

@pytest.fixture(scope="class")
def fails():
    cache.set("class", "of a fixture that fails")
    raise ValueError

class TestFails:
    @pytest.mark.xfail(
        raises=ValueError,
        strict=True,
        reason="its fixture has to fail, so that test_12_again finds nothing of it",
    )
    def test_12(self, fails):
        pass

    def test_12_again(self):
        finds(package=1, number=2)

@pytest.mark.cache_isolation("empty")
def test_13():
    assert found() == {}
"""


def test_each_test_finds_what_fixtures_of_a_wider_scope_have_cached(project):
    project.write("suite/test_fixtures.py", FIXTURES)
    run = project.pytest(WRAP, "-p", "no:randomly")
    assert (run.code, run.count("passed")) == (0, 18), run.output
    assert run.count("xfailed") == 1, run.output


def test_the_report_of_a_fixture_that_fails_does_not_mention_the_plugin(project):
    project.write(
        "suite/test_fails.py",
        """
        import pytest

        @pytest.fixture(scope="module")
        def of_the_module():
            raise ValueError("of the module")

        @pytest.fixture
        def of_the_test():
            raise ValueError("of the test")

        def test_first(of_the_module):
            pass

        def test_second(of_the_test):
            pass
        """,
    )
    run = project.pytest(WRAP)
    assert run.count("errors") == 2, run.output
    assert "pytest_plugin" not in run.output


def test_a_set_up_that_django_is_not_configured_for_is_left_alone(project):
    project.write("pytest.ini", "[pytest]\n")
    project.write(
        "suite/test_plain.py",
        """
        import pytest, sys

        @pytest.fixture(scope="module", autouse=True)
        def of_the_module():
            pass

        class TestClass:
            def test_nothing(self):
                assert "django" not in sys.modules
        """,
    )
    assert_pass(project.pytest("-p", "no:django"), 1)


# Round trips.

MANY = """
import unittest
from django.core.cache import cache

def make(count):
    class Made(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            if {items}:
                cache.set_many({{f"k{{number}}": number for number in range({items})}})
    for number in range(count):
        setattr(Made, f"test_{{number}}", lambda self: None)
    return Made

for number in range({classes}):
    globals()[f"Test{{number}}"] = type(f"Test{{number}}", (make(10),), {{}})
"""


@pytest.mark.parametrize(("way", "classes"), [("pytest", 20), ("Django", 100)])
def test_items_of_set_up_cost_one_round_trip_more_for_each_test(
    project, server, way, classes
):
    counts, tests = [], 10 * classes
    proxy = CountingProxy(server.port)
    project.environment["MEMCACHED_LOCATION"] = proxy.location
    project.write(
        "bare.py", "from settings import *\nINSTALLED_APPS = []\ndel ROOT_URLCONF"
    )
    project.environment["DJANGO_SETTINGS_MODULE"] = "bare"
    for items in (0, 10):
        project.write("suite/test_many.py", MANY.format(items=items, classes=classes))
        counts.append(
            proxy.during(lambda: assert_pass(ONE_PROCESS[way](project), tests))
        )
    proxy.close()
    without, with_items = counts
    # For each class, pytest invalidates before its first test and after its set-up, and
    # the runner before its set-up and before each test.
    assert tests + classes <= without <= tests + classes + 6
    # Each class stores the items, and they are read once.
    more = with_items - without
    assert tests + 2 * classes <= more <= tests + 2 * classes + 6


# Too much.


@pytest.mark.parametrize("way", ONE_PROCESS)
def test_a_class_that_caches_very_much_is_named_once(project, way):
    project.write(
        "suite/test_much.py",
        """
        from django.core.cache import cache
        from django.test import SimpleTestCase

        class Much(SimpleTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                for part in range(3):
                    names = range(part * 3500, (part + 1) * 3500)
                    cache.set_many({f"k{name}": name for name in names})

            def test_first(self):
                self.assertEqual(cache.get("k10499"), 10499)

            test_second = test_first
        """,
    )
    run = ONE_PROCESS[way](project)
    assert_pass(run, 2)
    names = {"pytest": "suite/test_much.py::Much", "Django": "suite.test_much.Much"}
    said = f"{names[way]} caches 10,500 items of 0.0 MiB"
    assert run.output.count(said) == 1, run.output
