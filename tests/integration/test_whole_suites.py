"""Whole suites of real projects, run in each way in which users run them.

The projects have production settings. One line of pytest's or Django's settings
isolates them.
"""

from __future__ import annotations

import pytest

from tests.support.projects import RUNNER, SHOP, WRAP, Project, finish, ways_to_run
from tests.support.servers import Memcached

#: Excludes tests that cannot be sent to the processes of Django's runner.
PICKLED = "--exclude-tag=cannot be pickled"

WAYS = {
    **ways_to_run(PICKLED, processes=4),
    "Django, other order": lambda project: project.manage(
        "test", RUNNER, "--keepdb", "--shuffle", "--reverse"
    ),
}

#: Acts as the running site: fills its cache, and reports damage when it is asked.
RUNNING_SITE = """
import sys
import django
django.setup()
from running_site import RunningSite
site = RunningSite()
print("open", flush=True)
for _ in sys.stdin:
    print(site.damage(), flush=True)
    site.restore()
"""


class Site:
    """The running site, on the same memcached as the tests of the same project."""

    def __init__(self, project):
        self.process = project.start("-c", RUNNING_SITE)
        assert self.process.stdout.readline() == "open\n"

    def damage(self):
        """Return how many of the site's 500 keys have changed."""
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The example project, its memcached, and the running site."""
    memcached = Memcached()
    project = Project(
        tmp_path_factory.mktemp("shop"),
        memcached.location,
        template=SHOP,
        settings="config.settings",
        SHOP_DATABASE=":memory:",
        PYTHONPATH=str(SHOP.parent),
    )
    project.site = Site(project)
    yield project
    finish(project.site.process)
    memcached.close()


@pytest.mark.parametrize("way", WAYS)
def test_the_shops_suite_passes_and_leaves_the_running_site_alone(shop, way):
    run = WAYS[way](shop)
    assert run.code == 0, run.output
    assert 23 in (run.ran, run.count("passed")), run.output
    assert shop.site.damage() == "0 of 500"


@pytest.mark.parametrize("way", ["pytest", "Django"])
def test_on_the_plain_backend_it_fails_and_damages_the_site(shop, way):
    run = shop.pytest() if way == "pytest" else shop.manage("test")
    assert run.code != 0
    assert 23 in (run.ran, run.count("passed") + run.count("failed")), run.output
    assert shop.site.damage() != "0 of 500"


def test_two_runs_at_the_same_time_do_not_disturb_each_other(shop):
    runs = [
        shop.start("-m", "pytest", WRAP, "--numprocesses=2"),
        shop.start("-m", "django", "test", RUNNER, "--parallel=2"),
    ]
    for run in map(finish, runs):
        assert run.code == 0, run.output
    assert shop.site.damage() == "0 of 500"


@pytest.mark.parametrize("way", WAYS)
def test_a_test_of_every_kind_begins_with_an_empty_cache(tmp_path, server, way):
    run = WAYS[way](Project(tmp_path, server.location))
    assert run.code == 0, run.output
    assert {run.ran, run.count("passed")} & {30, 32}, run.output


def test_without_the_package_the_cache_is_not_empty(tmp_path, server):
    run = Project(tmp_path, server.location).manage("test")
    assert run.code != 0
    assert run.ran in (28, 30), run.output  # three classes fail as a whole
