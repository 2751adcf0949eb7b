"""Django's own tests of its memcached backends pass on ours.

They come from the source distribution of the installed Django. They run unchanged,
except for the two names of the backends.
"""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import django
import pytest

from tests.support import unmeasured

HERE = Path(__file__).parent / "django_suite"
DJANGOS = "django.core.cache.backends.memcached"
CLIENTS = {"pymemcache": "PyMemcacheCache", "pylibmc": "PyLibMCCache"}


@pytest.fixture(scope="session")
def djangos_tests(request, tmp_path_factory):
    """The folder of Django's tests, which pip downloads. It stays in .cache."""
    version = django.get_version()
    kept = request.config.rootpath / ".cache"
    name = f"[Dd]jango-{version}.tar.gz"  # the first of 5.2 has a capital
    if not any(kept.glob(name)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        what = [f"--dest={kept}", "--no-binary=django", f"django=={version}"]
        subprocess.run([*command, *what], check=True)
    (source,) = kept.glob(name)
    folder = tmp_path_factory.mktemp("django")
    with tarfile.open(source) as archive:
        # Python before 3.11.4 has no filters.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **safely)
    (unpacked,) = folder.iterdir()
    tests = unpacked / "tests"
    module = tests / "cache" / "tests.py"
    text, count = re.subn(
        r'"django\.core\.cache\.backends\.memcached\.(Py\w+Cache)"',
        r"os.environ['SUITE_BACKENDS'] + '.\1'",
        module.read_text(),
    )
    assert count == len(CLIENTS)
    module.write_text(text)
    return tests


def run(djangos_tests, client, server, backends):
    """Start the tests of one client."""
    return subprocess.Popen(
        [
            *[sys.executable, "-W", "error", "runtests.py", "--parallel=1"],
            "--settings=suite_settings",
            f"cache.tests.{CLIENTS[client]}Tests",
        ],
        cwd=djangos_tests,
        env={
            **unmeasured(),
            "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
            "MEMCACHED_LOCATION": server.location,
            "SUITE_BACKENDS": backends,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    """Return how many tests ran, and the result."""
    _, said = process.communicate()
    assert process.returncode == 0, said
    found = re.search(r"Ran (\d+) tests in .*\n\n(OK.*)\n", said)
    assert found, said
    return int(found[1]), found[2]


def test_djangos_own_tests_pass(djangos_tests, client, start):
    """No test is left out: as many run and are skipped as on Django's own backend."""
    # Each backend has its own server, because Django's own clear() would delete our
    # counters.
    ours = run(djangos_tests, client, start(), "suite_backends")
    theirs = run(djangos_tests, client, start(), DJANGOS)
    assert outcome(ours) == outcome(theirs)
