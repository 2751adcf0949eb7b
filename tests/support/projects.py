"""Real projects in temporary folders, whose test suites are run as a user runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from tests.support import ROOT

#: Production settings alone, and a suite of tests of every kind.
ISOLATED = ROOT / "tests" / "integration" / "isolated_project"

#: The example site.
SHOP = ROOT / "examples" / "shop"

RUNNER = "--testrunner=namespaced_cache.test.NamespacedDiscoverRunner"

#: What pylibmc prints on Python 3.13, and pytest makes a warning of.
HARMLESS = ("-W", "ignore:Exception ignored in PyMapping_HasKeyString")

#: No suite of ours runs for as long, not even on a machine that others use as well.
SECONDS = 180


@dataclass(frozen=True)
class Run:
    """What a run came to: its exit status and what it printed."""

    code: int
    output: str

    def count(self, outcome: str) -> int:
        """How many tests pytest says have "passed", "failed", …."""
        found = re.search(rf"\b(\d+) {outcome}", self.output)
        return int(found[1]) if found else 0

    @property
    def ran(self) -> int:
        """How many tests Django's runner says have run."""
        found = re.search(r"^Ran (\d+) tests?", self.output, re.MULTILINE)
        return int(found[1]) if found else 0


class Project:
    """A folder with a Django project, whose commands reach a memcached."""

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
        # A run of its own, and no worker of the one that this test is a part of.
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
        """Run a management command whose workers are started by this method."""
        script = (
            f"import multiprocessing, sys\n"
            f"multiprocessing.set_start_method({method!r})\n"
            f"from django.core.management import execute_from_command_line\n"
            f"execute_from_command_line(sys.argv)"
        )
        return self.run("-c", script, *arguments)

    def pytest(self, *arguments: str, **environment: str) -> Run:
        """Run pytest."""
        return self.run("-m", "pytest", *HARMLESS, *arguments, **environment)


def finish(process: subprocess.Popen[str]) -> Run:
    """Wait for what was started."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return Run(process.returncode, output)
