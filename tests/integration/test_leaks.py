"""The leak report of both runners, in small projects that run as a user runs them."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.projects import (
    RUNNER,
    Project,
    empty_project,
    shop,
    ways_to_run,
)

WAYS = ways_to_run(processes=2)

ONE_PROCESS = {name: WAYS[name] for name in ("pytest", "Django")}


@pytest.fixture
def project(tmp_path, server):
    """A project with production settings and no tests."""
    return empty_project(tmp_path, server.location)


def leaks_of(project, way, *arguments, code=0):
    """Run a project, and return its leaks and its output."""
    path = project.folder / "leaks.json"
    run = WAYS[way](project, "--cache-leaks", f"--cache-leaks-json={path}", *arguments)
    assert run.code == code, run.output
    leaks = {
        (leak["alias"], leak["key"], dotted(leak["cached_by"])): {
            (dotted(asked["test"]), asked["command"]) for asked in leak["asked_for_by"]
        }
        for leak in json.loads(path.read_text())
    }
    path.unlink()
    return leaks, run.output


def dotted(test):
    """Return pytest's node id in the form of Django's dotted id."""
    return test.replace(".py", "").replace("/", ".").replace("::", ".")


ORDERED = """
from django.core.cache import cache
from django.test import SimpleTestCase


class Cards(SimpleTestCase):
    def test_1(self):
        cache.set("card", 1)

    def test_2(self):
        cache.get("card")

    def test_3(self):
        cache.add("card", 1)
        cache.get("card")

    def test_4(self):
        cache.set("card", 1)
        cache.get("card")
"""

#: The leaks of one module, as pytest and Django name the tests.
FOUND = {
    ("default", ":1:card", "suite.test_MODULE.Cards.test_1"): {
        ("suite.test_MODULE.Cards.test_2", "get"),
        ("suite.test_MODULE.Cards.test_3", "add"),
    }
}


def named(found, module):
    """Return FOUND with the name of a module."""
    return {
        tuple(part.replace("MODULE", module) for part in leak): {
            (test.replace("MODULE", module), command) for test, command in askers
        }
        for leak, askers in found.items()
    }


@pytest.mark.parametrize("way", WAYS)
def test_what_all_processes_find_is_merged(project, way):
    modules = ["a", "b"]
    for module in modules:
        text = ORDERED.replace('"card"', f'"card-of-{module}"')
        project.write(f"suite/test_{module}.py", text)
    leaks, output = leaks_of(project, way, *NO_SHUFFLE.get(way, ()))
    expected = {}
    for module in modules:
        for (alias, _, cached_by), askers in named(FOUND, module).items():
            expected[alias, f":1:card-of-{module}", cached_by] = askers
    assert leaks == expected
    assert "cache leaks: 2 keys that one test cached and another" in output


#: pytest-randomly would change the order of tests.
NO_SHUFFLE = dict.fromkeys(("pytest", "pytest-xdist"), ("-p", "no:randomly"))


@pytest.mark.parametrize("way", ONE_PROCESS)
def test_both_runners_use_the_same_words(project, way):
    project.write("suite/test_a.py", ORDERED)
    _, output = leaks_of(project, way, *NO_SHUFFLE.get(way, ()))
    (report,) = re.findall(r"^cache leaks: .*\n(?:  .*\n)*", output, re.MULTILINE)
    stem = "suite/test_a.py::Cards::" if way == "pytest" else "suite.test_a.Cards."
    assert report.splitlines() == [
        "cache leaks: 1 key that one test cached and another test asked for",
        f"  default  :1:card   cached by     {stem}test_1",
        f"                     asked for by  {stem}test_2 (get), and 1 more",
    ]


def test_all_keys_are_shown_if_the_output_is_verbose(project):
    project.write(
        "suite/test_a.py",
        """
        from django.core.cache import cache
        from django.test import SimpleTestCase


        class Many(SimpleTestCase):
            def test_1(self):
                cache.set_many({f"k{n}": 1 for n in range(21)})

            def test_2(self):
                cache.get_many([f"k{n}" for n in range(21)])
        """,
    )
    for way, verbose in (("pytest", "-v"), ("Django", "-v=2")):
        arguments = ("--cache-leaks", *NO_SHUFFLE.get(way, ()))
        short = WAYS[way](project, *arguments).output
        full = WAYS[way](project, verbose, *arguments).output
        assert (short.count("asked for by"), full.count("asked for by")) == (20, 21)
        option = {"-v=2": "--verbosity 2"}.get(verbose, verbose)
        assert f"  and 1 more key: {option} shows all" in short


# The report changes no result.

FAILING = """
import unittest
from django.core.cache import cache
from django.test import SimpleTestCase


class Mixed(SimpleTestCase):
    def test_1(self):
        cache.set("k", 1)

    def test_2(self):
        self.assertIsNone(cache.get("k"))

    def test_3(self):
        self.fail("on purpose")

    @unittest.skip("a skip has to stay a skip in a run with the report")
    def test_4(self):
        pass

    @unittest.expectedFailure
    def test_5(self):
        cache.incr("n")


class Broken(SimpleTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache.get("k")
        raise RuntimeError("on purpose")

    def test_1(self):
        pass
"""


def outcomes(output):
    """Return the numbers of the summary, and which tests failed."""
    numbers = re.findall(r"(\d+ (?:passed|failed|skipped|xfailed|errors?))", output)
    django = re.findall(r"^(?:FAILED|OK) \(.*\)$", output, re.MULTILINE)
    return sorted(numbers), django, sorted(set(re.findall(r"test_\d", output)))


# With --parallel, Django itself breaks off at a failure if tblib is not installed.
@pytest.mark.parametrize("way", ["pytest", "pytest-xdist", "Django"])
@pytest.mark.parametrize("is_writable", [True, False])
def test_the_report_changes_no_result(project, way, is_writable):
    project.write("suite/test_a.py", FAILING)
    order = NO_SHUFFLE.get(way, ())
    without = WAYS[way](project, *order)
    path = project.folder / ("leaks.json" if is_writable else "suite")
    reported = WAYS[way](project, f"--cache-leaks-json={path}", *order)
    assert without.code == reported.code == 1
    assert outcomes(without.output)[:2] == outcomes(reported.output)[:2]
    assert "cache leaks: 1 key" in reported.output
    assert (f"cache leaks: {path} cannot be written: " in reported.output) is (
        not is_writable
    )


@pytest.mark.parametrize("way", ONE_PROCESS)
def test_without_leaks_one_line_tells_what_was_watched(project, way):
    project.write("suite/test_a.py", ORDERED.replace('"card"', "self.id()"))
    leaks, output = leaks_of(project, way)
    assert leaks == {}
    # site_app asks for a key when it is imported: before Django's runner starts.
    keys = {"pytest": 5, "Django": 4}[way]
    assert f"\ncache leaks: none found in 4 tests, which used {keys} keys\n" in output


def test_a_test_with_an_invalid_scope_fails_for_that_alone(project):
    project.write(
        "suite/test_a.py",
        """
        import pytest


        @pytest.mark.cache_isolation("often")
        def test_1():
            pass
        """,
    )
    run = project.pytest("--cache-leaks")
    assert run.count("error") == 1
    assert "is 'often': it takes function, empty, class, off." in run.output
    assert "Traceback" not in run.output


def test_an_unconfigured_project_is_told_that_nothing_was_watched(project):
    project.write("suite/test_a.py", "def test_1(): pass")
    project.environment.pop("DJANGO_SETTINGS_MODULE")
    run = project.pytest("--cache-leaks")
    assert run.code == 0
    assert "cache leaks: none found in 1 test, which used 0 keys" in run.output


@pytest.mark.parametrize(
    "end", ["os._exit(1)", "os.kill(os.getppid(), signal.SIGINT); time.sleep(9)"]
)
def test_a_worker_that_ends_early_is_mentioned(project, end):
    text = f"import os, signal, time\n\ndef test_1():\n    {end}\n"
    project.write("suite/test_a.py", text)
    run = project.pytest("--cache-leaks", "--numprocesses=1")
    assert INCOMPLETE in run.output


INCOMPLETE = "cache leaks: the report is not complete, because a process ended early"


@pytest.mark.parametrize("deletes", [True, False])
def test_what_workers_of_djangos_runner_do_not_hand_over_is_mentioned(project, deletes):
    deleting = "import shutil, tempfile; shutil.rmtree(tempfile.gettempdir())"
    own_way = "run_subsuite = _run_subsuite"
    project.write("suite/test_a.py", ORDERED)
    project.write(
        "suite/test_b.py",
        f"""
        from django.test import SimpleTestCase


        class A(SimpleTestCase):
            def test_1(self):
                {deleting if deletes else "pass"}
        """,
    )
    project.write(
        "runners.py",
        f"""
        from django.test.runner import _run_subsuite
        from namespaced_cache.test import (
            NamespacedDiscoverRunner,
            NamespacedParallelTestSuite,
        )


        class Suite(NamespacedParallelTestSuite):
            {"pass" if deletes else own_way}


        class Runner(NamespacedDiscoverRunner):
            parallel_test_suite = Suite
        """,
    )
    folder = project.folder / "temporary"
    folder.mkdir()
    run = project.run(
        "-m",
        "django",
        "test",
        "--testrunner=runners.Runner",
        "--parallel=2",
        "--cache-leaks",
        TMPDIR=str(folder),
    )
    assert (run.code, run.ran) == (0, 5), run.output
    assert INCOMPLETE in run.output


def test_a_key_that_the_terminal_cannot_show_is_escaped(project):
    project.write("suite/test_a.py", ORDERED.replace('"card"', '"caf\\u00e9"'))
    run = project.manage("test", RUNNER, "--cache-leaks", PYTHONIOENCODING="ascii")
    assert run.code == 0, run.output
    assert ":1:caf\\xe9 " in run.output


@pytest.mark.parametrize("way", ONE_PROCESS)
def test_the_file_is_where_the_run_began(project, way):
    project.write(
        "suite/test_a.py",
        ORDERED.replace(
            'cache.set("card", 1)', 'cache.set("card", 1); os.chdir("/")'
        ).replace("from django.core", "import os\nfrom django.core", 1),
    )
    order = NO_SHUFFLE.get(way, ())
    run = WAYS[way](project, "--cache-leaks-json=new/leaks.json", *order)
    assert run.code == 0, run.output
    assert json.loads((project.folder / "new" / "leaks.json").read_text())


@pytest.mark.parametrize("options", [(), ("--cache-leaks-json=leaks.json",)])
def test_a_run_without_a_terminal_plugin(project, options):
    project.write("suite/test_a.py", ORDERED)
    run = project.pytest("-p", "no:terminal", *options)
    assert run.code == 0, run.output
    assert (project.folder / "leaks.json").exists() is bool(options)


def test_a_runner_need_not_have_arguments(project):
    project.write(
        "runners.py",
        """
        from namespaced_cache.test import NamespacedRunnerMixin


        class Own:
            def run_tests(self, labels):
                print("ran")
                return 0


        class Runner(NamespacedRunnerMixin, Own):
            def __init__(self, **_):
                pass
        """,
    )
    run = project.manage("test", "--testrunner=runners.Runner")
    assert (run.code, "ran" in run.output) == (0, True), run.output


def test_a_project_that_is_not_isolated_needs_no_setting(project):
    """Its bare aliases are isolated for this run, and no key is left elsewhere."""
    project.write("suite/test_a.py", ORDERED)
    run = project.pytest("-p", "no:randomly", "--cache-leaks")
    assert (run.code, run.count("passed")) == (0, 4)
    assert "cache leaks: 1 key" in run.output
    bare = "from django.core.cache import cache; print(cache.get('card'))"
    assert "None" in project.manage("shell", "-c", bare).output


# Set-ups and scopes.

SET_UPS = """
from django.core.cache import cache
from django.test import TestCase


def setUpModule():
    cache.set("of-the-module", 1)
    cache.get("of-the-class")


def tearDownModule():
    cache.get_many(["of-the-module", "of-the-class", "of-a-test"])
    cache.set("torn-down", 1)


class A(TestCase):
    @classmethod
    def setUpTestData(cls):
        cache.get("of-the-module")
        cache.set("of-the-class", 1)

    @classmethod
    def tearDownClass(cls):
        cache.get_many(["of-the-module", "of-the-class", "of-a-test"])
        super().tearDownClass()

    def test_1(self):
        cache.get_many(["of-the-module", "of-the-class"])
        cache.set("of-a-test", 1)

    def test_2(self):
        cache.get_many(["of-the-module", "of-the-class"])


class B(TestCase):
    @classmethod
    def setUpTestData(cls):
        cache.get_many(["of-the-module", "of-a-test"])

    def test_1(self):
        cache.get("of-the-class")
"""

LATER = """
from django.core.cache import cache
from django.test import TestCase


class Z(TestCase):
    def test_1(self):
        cache.get_many(["of-the-module", "torn-down"])
"""


@pytest.mark.parametrize("way", ONE_PROCESS)
def test_what_a_set_up_caches_is_for_its_tests_alone(project, way):
    project.write("suite/test_a.py", SET_UPS)
    project.write("suite/test_b.py", LATER)
    leaks, _ = leaks_of(project, way, *NO_SHUFFLE.get(way, ()))
    a, b = "suite.test_a", "suite.test_b.Z.test_1"
    assert leaks == {
        ("default", ":1:of-a-test", f"{a}.A.test_1"): {
            (f"{a}.B (set-up of the class)", "get_multi")
        },
        ("default", ":1:of-the-class", f"{a}.A (set-up of the class)"): {
            (f"{a}.B.test_1", "get")
        },
        ("default", ":1:of-the-module", f"{a} (set-up of the module)"): {
            (b, "get_multi")
        },
        ("default", ":1:torn-down", f"{a} (tear-down of the module)"): {
            (b, "get_multi")
        },
    }


@pytest.mark.parametrize("way", ONE_PROCESS)
def test_tests_of_a_class_share_if_its_scope_says_so(project, way):
    project.write(
        "suite/test_a.py",
        """
        from django.core.cache import cache
        from django.test import SimpleTestCase


        class A(SimpleTestCase):
            cache_isolation = "class"

            def test_1(self):
                cache.set("k", 1)

            def test_2(self):
                assert cache.get("k")


        class B(A):
            cache_isolation = "off"

            def test_1(self):
                assert cache.get("k")
                cache.set("k", 1)
        """,
    )
    leaks, _ = leaks_of(project, way, *NO_SHUFFLE.get(way, ()))
    a = "suite.test_a"
    assert leaks == {
        ("default", ":1:k", f"{a}.A.test_1"): {(f"{a}.B.test_1", "get")},
        ("default", ":1:k", f"{a}.B.test_1"): {(f"{a}.B.test_2", "get")},
    }


FIXTURES = """
import pytest
from django.core.cache import cache


@pytest.fixture(scope="session")
def menu():
    cache.set("of-the-session", 1)
    yield
    cache.get_many(["of-the-session", "of-a-test"])


@pytest.fixture(scope="module")
def prices(menu):
    cache.get("of-the-session")
    cache.set("of-the-fixture", 1)
    yield
    cache.get_many(["of-the-session", "of-the-fixture", "of-the-class"])


@pytest.fixture(scope="class", autouse=True)
def always():
    cache.set("of-the-class", 1)


class TestPrices:
    def test_1(self, prices):
        cache.get_many(["of-the-session", "of-the-fixture", "of-the-class"])

    def test_2(self):
        cache.get_many(["of-the-session", "of-the-class"])

    def test_3(self, request):
        request.getfixturevalue("prices")
        cache.get_many(["of-the-session", "of-the-fixture", "of-the-class"])
        cache.set("of-a-test", 1)


def test_last(menu):
    cache.get_many(["of-the-session", "of-the-class"])
"""


def test_what_a_fixture_caches_is_for_the_tests_that_request_it(project):
    project.write("suite/test_a.py", FIXTURES)
    leaks, _ = leaks_of(project, "pytest", "-p", "no:randomly")
    a = "suite.test_a"
    assert leaks == {
        ("default", ":1:of-the-session", "the session (set-up of the fixture menu)"): {
            (f"{a}.TestPrices.test_2", "get_multi")
        },
        # Without a class, this fixture is the test's own.
        ("default", ":1:of-the-class", f"{a}.test_last"): {
            (f"{a} (tear-down of the fixture prices)", "get_multi")
        },
    }


#: Fixtures that are overridden, parametrized, requested by other fixtures without being
#: named, and that register finalizers when a test calls them.
UNUSUAL_FIXTURES = """
import pytest
from django.core.cache import cache


@pytest.fixture(scope="session", params=[1, 2])
def price(request):
    return cache.get_or_set("price", request.param)


@pytest.fixture(scope="session")
def inner():
    cache.set("of-inner", 1)


@pytest.fixture(scope="session")
def outer(request):
    request.getfixturevalue("inner")


@pytest.fixture(scope="session")
def factory(request):
    def make(key):
        cache.set(key, 1)
        request.addfinalizer(lambda: cache.get(key))

    return make


@pytest.fixture(scope="session")
def menu():
    cache.set("of-menu", 1)


def test_1(price):
    pass


def test_2(outer):
    cache.get("of-inner")


def test_3(outer):
    cache.get("of-inner")


def test_4(factory):
    factory("made")


def test_5(menu):
    cache.get("of-menu")


class TestOverriding:
    @pytest.fixture
    def menu(self):
        pass

    def test_1(self, menu):
        cache.get("of-menu")


class TestExtending:
    @pytest.fixture
    def menu(self, menu):
        pass

    def test_1(self, menu):
        cache.get("of-menu")


@pytest.mark.parametrize("menu", [1])
def test_6(menu):
    cache.get("of-menu")
"""


def test_a_fixture_is_told_from_others(project):
    project.write("suite/test_a.py", UNUSUAL_FIXTURES)
    leaks, _ = leaks_of(project, "pytest", "-p", "no:randomly")
    a, price = "suite.test_a", "the session (set-up of the fixture price"
    assert leaks == {
        ("default", ":1:price", f"{price}[0])"): {
            (f"{price}[1])", "get"),
            (f"{price}[1])", "add"),
        },
        ("default", ":1:of-menu", "the session (set-up of the fixture menu)"): {
            (f"{a}.TestOverriding.test_1", "get"),
            (f"{a}.test_6[1]", "get"),
        },
    }


# Every way to a key.

EVERY_WAY = """
import threading
from urllib.request import urlopen

from django.conf import settings
from django.core.cache import cache, caches
from django.test import LiveServerTestCase, TestCase, override_settings
from site_app import held

ONE_STORE = {"renamed": {**settings.CACHES["default"], "KEY_PREFIX": "renamed"}}


class A(TestCase):
    def test_1(self):
        for name in ("alias", "thread", "live", "async", "raw", "view"):
            cache.set(name, 1)
        held.set("held", 1)

    def test_2(self):
        thread = threading.Thread(target=lambda: cache.get("thread"))
        thread.start()
        thread.join()
        cache._cache.get(":1:raw")
        self.client.get("/show/view")
        caches["pylibmc"].get("held")
        with override_settings(CACHES=ONE_STORE):
            caches["renamed"]._cache.get(":1:alias")

    async def test_3(self):
        await cache.aget("async")


class Live(LiveServerTestCase):
    def test_1(self):
        urlopen(f"{self.live_server_url}/show/live").close()
"""


@pytest.mark.parametrize("way", ONE_PROCESS)
def test_every_way_to_a_key_is_watched(project, way):
    project.write("suite/test_a.py", EVERY_WAY)
    leaks, _ = leaks_of(project, way, *NO_SHUFFLE.get(way, ()))
    a = "suite.test_a"
    by_first = f"{a}.A.test_1"
    assert leaks == {
        (alias, key, by_first): {(f"{a}.{test}", "get")}
        for alias, key, test in [
            ("default", ":1:thread", "A.test_2"),
            ("default", ":1:raw", "A.test_2"),
            ("default", ":1:view", "A.test_2"),
            ("pylibmc", "pylibmc:1:held", "A.test_2"),
            ("renamed", ":1:alias", "A.test_2"),
            ("default", ":1:async", "A.test_3"),
            ("default", ":1:live", "Live.test_1"),
        ]
    }


# The shop.

ORDERS = 10

#: Runs the shop's tests in ten random orders, each with an empty cache: on the plain
#: backend, isolated with the report, and on the plain backend again. In the third run,
#: the keys that a test asks for are deleted before it, as far as the report names them.
IN_TEN_ORDERS = """
import json
import sys
from pathlib import Path
from unittest import TestCase, TextTestRunner

import django

django.setup()

from django.conf import settings
from django.core.cache import cache, caches
from django.test.runner import DiscoverRunner

from namespaced_cache.test import NamespacedDiscoverRunner

run_test = TestCase.run
path = Path("leaks.json")
asked_for = {}


def run_without_leaks(test, *args):
    cache._cache.delete_many(asked_for.get(test.id(), []))
    return run_test(test, *args)


TestCase.run = run_without_leaks


def failed(runner_class, seed, prefix, **options):
    settings.CACHES["default"]["KEY_PREFIX"] = f"{prefix}{seed}"
    cache.close()
    del caches["default"]
    runner = runner_class(verbosity=0, interactive=False, shuffle=seed, **options)
    results = []
    runner.suite_result = lambda suite, result, **_: results.append(result) or 0
    runner.run_tests([])
    (result,) = results
    assert result.testsRun == 23
    return sorted({test.id() for test, _ in [*result.failures, *result.errors]})


for seed in range(int(sys.argv[1])):
    asked_for = {}
    plain = failed(DiscoverRunner, seed, "plain")
    isolated = failed(NamespacedDiscoverRunner, seed, "a", cache_leaks_json=str(path))
    for leak in json.loads(path.read_text()):
        for asked in leak["asked_for_by"]:
            asked_for.setdefault(asked["test"], []).append(leak["key"])
    explained = sorted(asked_for)
    without_leaks = failed(DiscoverRunner, seed, "a")
    result = json.dumps([plain, isolated, explained, without_leaks])
    print("RESULT", result, flush=True)  # whole, beside what the runners write
"""


def test_the_report_explains_each_failure_of_the_shop(tmp_path, server):
    project = shop(tmp_path, server.location)
    run = project.run("-c", IN_TEN_ORDERS, str(ORDERS))
    assert run.code == 0, run.output
    results = re.findall(r"^RESULT (.*)$", run.output, re.MULTILINE)
    assert len(results) == ORDERS
    for plain, isolated, explained, without_leaks in map(json.loads, results):
        assert len(plain) > 3
        assert set(plain) <= set(explained)
        assert (isolated, without_leaks) == ([], [])


# Suites without leaks.

#: Makes the name of the current test a part of each key.
OWN_NAMES = """

import unittest

_run = unittest.TestCase.run
_current = [""]


def _run_named(test, result=None):
    _current[0] = test.id()
    return _run(test, result)


def own_key(key, prefix, version):
    return f"{prefix}:{version}:{_current[0]}:{key}"


unittest.TestCase.run = _run_named
for _setting in CACHES.values():
    _setting["KEY_FUNCTION"] = own_key
"""


@pytest.mark.parametrize("way", ["pytest-xdist", "Django", "Django, fork"])
def test_the_shop_with_a_name_for_each_key_has_no_leak(tmp_path, server, way):
    project = shop(tmp_path, server.location)
    settings = project.folder / "config" / "settings.py"
    settings.write_text(settings.read_text() + OWN_NAMES)
    leaks, output = leaks_of(project, way)
    assert leaks == {}
    assert "cache leaks: none found in 23 tests, which used " in output


#: Classes whose tests share keys on purpose, or look at the settings.
LEFT_OUT = (
    "class FilledBy",
    "class IsEmptied",
    "class KeepsFor",
    "LoggedIn",
    "class SettingsAre",
    "class WhatATestStarts",
)


@pytest.mark.parametrize("way", ["pytest-xdist", "Django"])
def test_a_test_of_every_kind_with_a_name_for_each_key_has_no_leak(
    tmp_path, server, way
):
    project = Project(tmp_path, server.location)
    settings = project.folder / "settings.py"
    settings.write_text(settings.read_text() + OWN_NAMES)
    suite = project.folder / "suite" / "test_every_kind.py"
    text, raw = suite.read_text(), '        "raw": cache._cache,\n'
    assert raw in text
    kept = [
        part
        for part in text.replace(raw, "").split("\n\n\n")
        if not any(name in part for name in LEFT_OUT)
    ]
    suite.write_text("\n\n\n".join(kept))
    leaks, output = leaks_of(project, way)
    assert leaks == {}
    assert re.search(
        r"cache leaks: none found in 18 tests, which used \d\d keys", output
    )
