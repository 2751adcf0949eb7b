"""The README's Python blocks work unchanged, one after another, with both clients."""

import json
import re
from itertools import product

import pytest
from django.core.cache import caches
from django.test import override_settings

from namespaced_cache.core import options
from tests.support import ROOT
from tests.support.caches import BACKENDS
from tests.support.pages import blocks
from tests.support.projects import Project

README = (ROOT / "README.md").read_text()
RUNNER, NAMESPACED, SETTINGS, CLASS, MIXIN, APP, USE, PINNED = blocks(
    ROOT / "README.md", "python"
)
(PYTEST_INI,) = blocks(ROOT / "README.md", "ini")


@pytest.fixture
def settings(server):
    """The CACHES of the README, on the tests' own server."""
    scope: dict = {}
    exec(SETTINGS.replace("127.0.0.1:11211", server.location), scope)
    return scope["CACHES"]


def test_the_settings_and_the_examples_work(settings):
    with override_settings(CACHES=settings):
        scope: dict = {}
        exec(USE, scope)
        exec(PINNED, scope)
        caches.close_all()


#: Two equal tests, so that one comes after the other in any order.
TWICE = """
    def test_first(self):
        assert cache.add("k", 1)

    test_second = test_first
"""
IMPORTS = "from django.core.cache import cache\nfrom django.test import TestCase\n"


@pytest.fixture
def project(tmp_path, server):
    """A project with production settings, and a test that needs an empty cache."""
    made = Project(tmp_path, server.location)
    made.write("suite/test_every_kind.py", "")
    made.write("test_it.py", f"{IMPORTS}\nclass Test(TestCase):\n{TWICE}")
    return made


def test_the_line_for_pytest_works(project):
    project.write("pytest.ini", PYTEST_INI + "pythonpath = .\n")
    run = project.pytest()
    assert run.count("passed") == 2, run.output


def test_the_line_for_djangos_runner_works(project):
    project.write("one_line.py", f"from settings import *\n{RUNNER}")
    run = project.manage("test", DJANGO_SETTINGS_MODULE="one_line")
    assert (run.code, run.ran) == (0, 2), run.output


def test_a_class_that_keeps_its_cache(project):
    project.write(
        "test_it.py",
        f"""{IMPORTS}{CLASS}
    def test_first(self):
        cache.add("count", 0)
        assert cache.incr("count") in (1, 2)

    def test_second(self):
        cache.add("count", 0)
        assert cache.incr("count") in (1, 2)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        assert cache.get("count") == 2
""",
    )
    project.write("pytest.ini", PYTEST_INI + "pythonpath = .\npython_classes = *Tests")
    run = project.pytest()
    assert (run.code, run.count("passed")) == (0, 2), run.output


def test_the_mixin_and_wrapping_in_the_settings_work(project):
    project.write("wrapped.py", f"from settings import *\n{NAMESPACED}")
    project.write(
        "test_it.py", f"{IMPORTS}{MIXIN}\nclass Test(IsolatedTestCase):\n{TWICE}"
    )
    run = project.manage("test", DJANGO_SETTINGS_MODULE="wrapped")
    assert (run.code, run.ran) == (0, 2), run.output


WITHOUT = """
from settings import *
INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "namespaced_cache"]
INSTALLED_APPS += ["early.EarlyConfig"]
"""

#: An app that is listed before ours.
EARLY = """
from django.apps import AppConfig

class EarlyConfig(AppConfig):
    name = "early"

    def ready(self):
        from django.core.cache import cache
        cache.set("early", "by the child")
"""


@pytest.mark.parametrize(
    ("app", "found", "left"),
    [(APP, "for the child", "by the child"), ("", "None", None)],
    ids=["with the app", "without it"],
)
def test_with_the_app_a_child_process_uses_the_namespace_of_its_test(
    project, app, found, left
):
    project.write("of_the_child.py", WITHOUT + app)
    project.write("early.py", EARLY)
    project.write(
        "test_it.py",
        f"""
        import os, subprocess, sys
        from django.core.cache import cache

        def test_child():
            cache.set("left", "for the child")
            code = "from django.core.cache import cache; print(cache.get('left'))"
            environment = {{**os.environ, "DJANGO_SETTINGS_MODULE": "of_the_child"}}
            child = [sys.executable, "-m", "django", "shell", "-c", code]
            output = subprocess.check_output(child, text=True, env=environment)
            assert {found!r} in output
            assert cache.get("early") == {left!r}
        """,
    )
    project.write("pytest.ini", PYTEST_INI + "pythonpath = .\n")
    run = project.pytest()
    assert run.count("passed") == 1, run.output


@pytest.mark.parametrize("backend", BACKENDS.values())
def test_wrapping_the_production_settings_works(backend):
    scope = {"CACHES": {"default": {"BACKEND": backend, "LOCATION": "127.0.0.1:1"}}}
    exec(NAMESPACED, scope)
    assert scope["CACHES"]["default"]["BACKEND"] == "namespaced_cache.NamespacedCache"
    assert scope["CACHES"]["default"]["OPTIONS"] == {
        "WRAPPED_BACKEND": backend,
        "MAX_TIMEOUT": 3600,
    }


def test_the_figures_are_those_of_the_results():
    """Each figure is in the results, which come from one run."""
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    measured = {
        (row["client"], row["command"], row["subject"]): f"{row['ratio']['median']:.2f}"
        for row in results["sections"]["commands"]
        if (row["transport"], row["threads"], row["bytes"]) == ("TCP", "default", 100)
    }
    speed = README.partition("## Speed")[2].partition("\n## ")[0]
    lines = [line for line in speed.splitlines() if line.startswith("| ")]
    columns = list(product(BACKENDS, ("strict", "bounded", "naive")))
    assert len(lines) > 2
    for line in lines[2:]:
        command, *figures = line.strip("| ").split(" | ")
        expected = [measured[client, command, subject] for client, subject in columns]
        assert figures == expected, command


def test_every_option_has_its_row():
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == options.NAMES


def test_every_target_of_make_that_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README):
        assert re.search(rf"^[\w -]*\b{target}\b[\w -]*:", makefile, re.MULTILINE)
