"""Real projects in temporary folders. Their test suites run as a user runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import django

from tests.support import ROOT

#: A project with production settings only, and with tests of every kind.
ISOLATED = ROOT / "tests" / "integration" / "isolated_project"

#: The example site.
SHOP = ROOT / "examples" / "shop"

RUNNER = "--testrunner=namespaced_cache.test.NamespacedDiscoverRunner"

WRAP = "--override-ini=cache_namespace_wrap=true"

#: pylibmc prints this on Python 3.13, and pytest makes a warning of it.
HARMLESS = ("-W", "ignore:Exception ignored in PyMapping_HasKeyString")

#: What Python prints for it outside of pytest.
_HARMLESS_LINES = re.compile(
    r"Exception ignored in PyMapping_HasKeyString.*\n"
    r"Traceback \(most recent call last\):\n(?: .*\n)+\w+Error: .*\n"
)

#: Plugins that a project's tests do not need. Importing hypothesis takes as long as the
#: rest of pytest.
UNNEEDED = ("-p", "no:hypothesispytest")

#: More seconds than any suite needs, even on a busy machine.
SECONDS = 180


@dataclass(frozen=True)
class Run:
    """The result of a run: its exit status and its output."""

    code: int
    output: str

    def count(self, outcome: str) -> int:
        """Return how many tests "passed", "failed", … as pytest reports."""
        found = re.search(rf"\b(\d+) {outcome}", self.output)
        return int(found[1]) if found else 0

    @property
    def ran(self) -> int:
        """Return how many tests ran, as Django's runner reports."""
        found = re.search(r"^Ran (\d+) tests?", self.output, re.MULTILINE)
        return int(found[1]) if found else 0


class Project:
    """A folder with a Django project that uses a memcached."""

    def __init__(
        self,
        folder: Path,
        location: str,
        template: Path = ISOLATED,
        settings: str = "settings",
        **environment: str,
    ) -> None:
        self.folder = folder / "project"
        shutil.copytree(template, self.folder)
        self.write("pytest.ini", "[pytest]\npythonpath = .\n")
        # The project's tests are a run of their own. They are not a worker of this run.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("NAMESPACED_CACHE_", "PYTEST_"))
        }
        self.environment = {
            **inherited,
            "DJANGO_SETTINGS_MODULE": settings,
            "MEMCACHED_LOCATION": location,
            **environment,
        }

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(text))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start Python in the project's folder."""
        return subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> Run:
        """Run Python in the project's folder."""
        return finish(self.start(*arguments, **environment))

    def manage(self, *arguments: str, **environment: str) -> Run:
        """Run a management command."""
        return self.run("-m", "django", *arguments, **environment)

    def manage_by(self, method: str, *arguments: str) -> Run:
        """Run a management command that starts its workers by this method."""
        script = (
            f"import multiprocessing, sys\n"
            f"multiprocessing.set_start_method({method!r})\n"
            f"from django.core.management import execute_from_command_line\n"
            f"execute_from_command_line(sys.argv)"
        )
        return self.run("-c", script, *arguments)

    def pytest(self, *arguments: str, **environment: str) -> Run:
        """Run pytest."""
        # The last filter of warnings that matches is used.
        return self.run("-m", "pytest", *UNNEEDED, *arguments, *HARMLESS, **environment)


def empty_project(folder: Path, location: str) -> Project:
    """Return a project with production settings, in which a test writes its tests."""
    made = Project(folder, location)
    made.write("suite/test_every_kind.py", "")
    made.write("pytest.ini", "[pytest]\npythonpath = .\npython_files = test_*.py\n")
    return made


def shop(folder: Path, location: str) -> Project:
    """Return the example site."""
    return Project(folder, location, SHOP, "config.settings", SHOP_DATABASE=":memory:")


def finish(process: subprocess.Popen[str]) -> Run:
    """Wait for the process to end, and return its result."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return Run(process.returncode, _HARMLESS_LINES.sub("", output))


def ways_to_run(*parallel: str, processes: int) -> dict[str, Callable[..., Run]]:
    """Return each way to run the tests of a project isolated, by its name.

    A way takes the project and more arguments for the command. `parallel` are more
    arguments for Django's runner if it has several processes.
    """
    ways: dict[str, Callable[..., Run]] = {
        "pytest": lambda project, *more: project.pytest(WRAP, *more),
        "pytest-xdist": lambda project, *more: project.pytest(
            WRAP, f"--numprocesses={processes}", "--dist=loadfile", *more
        ),
        "Django": lambda project, *more: project.manage("test", RUNNER, *more),
    }
    methods = ["fork", "spawn"]
    if django.VERSION >= (6, 0):  # only these versions support it
        methods.append("forkserver")
    for method in methods:
        ways[f"Django, {method}"] = lambda project, *more, method=method: (
            project.manage_by(
                method, "test", RUNNER, *parallel, f"--parallel={processes}", *more
            )
        )
    return ways
