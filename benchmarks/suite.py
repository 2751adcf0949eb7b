"""What isolation costs a suite of Django tests that do almost nothing."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from borrowed import RUNNER, CountingProxy, Memcached, Project
from measure import paired
from scale import Scale

TEMPLATE = Path(__file__).with_name("project")

#: What each test does.
TESTS = "nothing", "set and get"

RUNNERS = {
    "Django's": "--testrunner=django.test.runner.DiscoverRunner",
    "isolated": RUNNER,
}


def run(scale: Scale, seconds: float) -> Iterator[dict[str, object]]:
    """Run whole suites, with isolation and without, and count their round trips.

    Each run has connections of its own, so the rounds are placements, too.
    """
    with closing(Memcached()) as server, tempfile.TemporaryDirectory() as folder:
        project = Project(
            Path(folder), server.location, TEMPLATE, TESTS=str(scale.tests)
        )
        for test in TESTS:
            trips = {}
            for name, runner in RUNNERS.items():
                with closing(CountingProxy(server.port)) as proxy:
                    _run(project, runner, TEST=test, MEMCACHED_LOCATION=proxy.location)
                    trips[name] = proxy.count / scale.tests
            acts = {
                name: partial(_run, project, runner, TEST=test)
                for name, runner in RUNNERS.items()
            }
            # The runs that were counted have warmed up the file system.
            measured = paired(
                acts, seconds / len(TESTS), least=scale.rounds, warm=False
            )
            for name, figures in measured.items():
                yield figures.row(
                    test=test,
                    runner=name,
                    threads="default",
                    tests=scale.tests,
                    trips=trips[name],
                )


def _run(project: Project, runner: str, **environment: str) -> float:
    """Run the suite and return the seconds that the runner reports for its tests."""
    run = project.manage("test", runner, "--pattern=trivial.py", **environment)
    ran = re.search(r"^Ran (\d+) tests in ([\d.]+)s$", run.output, re.MULTILINE)
    if run.code or not ran or ran[1] != project.environment["TESTS"]:
        raise RuntimeError(f"The suite did not pass:\n{run.output}")
    return float(ran[2])
