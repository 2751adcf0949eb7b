"""Clients that code takes out of a backend before the isolation begins."""

from __future__ import annotations

import re
from contextlib import closing

import pytest

from tests.support.caches import BACKENDS, bare_cache
from tests.support.projects import RUNNER, Project

TAKING = """
from django.core.cache import caches

clients = {alias: caches[alias]._cache for alias in ("default", "pylibmc")}
backends = {alias: caches[alias] for alias in clients}

def store(alias):
    clients[alias].set("taken", "by the client")
"""

TESTS = """
import warnings
from django.core.cache import caches
from django.test import SimpleTestCase
from taking import models

class Tests(SimpleTestCase):
    def test_taken(self):
        for alias, backend in models.backends.items():
            backend.set("k", alias)
            self.assertEqual(caches[alias].get("k"), alias)
            self.assertIsNot(backend._cache.wrapped, models.clients[alias])
            models.store(alias)
            models.store(alias)
            self.assertIsNone(caches[alias]._cache.get("taken"))
"""

SAID = (
    r"A client that was taken out of CACHES\['{}'\] before the isolation began is "
    r"used, at \S+/taking/models.py:8: its keys are in no namespace."
)


@pytest.fixture
def project(tmp_path, server):
    """A project whose models take the clients of the backends."""
    made = Project(tmp_path, server.location)
    made.write("suite/test_every_kind.py", "")
    made.write("taking/__init__.py", "")
    made.write("taking/models.py", TAKING)
    made.write("suite/test_taken.py", TESTS)
    made.write(
        "taking_settings.py",
        "from settings import *\nINSTALLED_APPS = ['taking']\ndel ROOT_URLCONF",
    )
    made.environment["DJANGO_SETTINGS_MODULE"] = "taking_settings"
    return made


@pytest.mark.parametrize("arguments", [(), ("--parallel=2",)])
def test_a_run_warns_with_the_place_and_the_backends_are_isolated(
    project, server, arguments
):
    run = project.run("-W", "default", "-m", "django", "test", RUNNER, *arguments)
    assert run.code == 0, run.output
    for alias in ("default", "pylibmc"):
        said = re.findall("NamespaceWarning: " + SAID.format(alias), run.output)
        assert len(said) == 1, run.output
    with closing(bare_cache(BACKENDS["pymemcache"], server.location)) as bare:
        assert bare._cache.get("taken") == "by the client"
        assert bare.get("k") is None


def test_if_warnings_are_errors_the_run_says_so_at_its_end(project):
    run = project.manage("test", RUNNER)
    assert run.code == 0, run.output
    for alias in ("default", "pylibmc"):
        said = re.findall(
            "^cache isolation: " + SAID.format(alias), run.output, re.MULTILINE
        )
        assert len(said) == 1, run.output


def test_an_unused_client_is_closed_and_not_mentioned(project):
    project.write("suite/test_taken.py", TESTS.replace("models.store(alias)", "pass"))
    run = project.run("-W", "error", "-m", "django", "test", RUNNER)
    assert run.code == 0, run.output
    assert "taken out" not in run.output
    assert "unclosed" not in run.output


def test_without_isolation_nothing_changes(project):
    run = project.run("-m", "django", "test")
    assert "taken out" not in run.output
    assert "AttributeError: 'HashClient' object has no attribute 'wrapped'" in (
        run.output
    )
