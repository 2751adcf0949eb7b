"""Checks that the installed package changes nothing in projects that do not use it.

    python bystanders.py [--too-old]

Each project is run with the plugin and without it, by the pytest of this interpreter.
The outputs and the exit statuses must be the same. With `--too-old`, pytest looks like
one that the plugin does not support. This program imports nothing of the tests, because
it runs in environments of its own.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

#: Files of projects that do not use this package.
PROJECTS = {
    "without Django": {
        "test_it.py": "def test_passes(): pass\ndef test_fails(): assert not 1\n",
    },
    "with Django, without settings": {
        "test_it.py": """
import django.core.cache


def test_passes():
    assert django.core.cache.caches
""",
    },
    "with Django, without a memcached": {
        "conftest.py": """
from django.conf import settings

settings.configure(
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
            "LOCATION": "127.0.0.1:1",
        }
    }
)
""",
        "test_it.py": """
import unittest

import pytest


@pytest.fixture(scope="module")
def given():
    yield 1


def test_passes(given):
    assert given


class Test(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        pass

    def test_it(self):
        pass
""",
    },
}

#: A project that uses it, in each way that a plugin can see.
USES = {
    "an option": ["--cache-leaks"],
    "an ini option": ["-o", "cache_namespace_wrap=true"],
    "the marker": [],
}
MARKED = """
import pytest


@pytest.mark.cache_isolation("off")
def test_it():
    pass
"""

#: Other plugins that may be there. They say other things in each run, or need a newer
#: pytest than this one looks like.
OTHERS = (
    "cacheprovider",
    "randomly",
    "django",
    "hypothesispytest",
    "xdist",
    "xdist.looponfail",
)

TOO_OLD = "import pytest; vars(pytest).pop('StashKey', None); "
RUN = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"


def main() -> int:
    """Return how many checks have failed."""
    is_too_old = "--too-old" in sys.argv
    program = (TOO_OLD if is_too_old else "") + RUN
    failed = 0
    for name, files in PROJECTS.items():
        for options in ([], ["-v"], ["--strict-markers", "-W", "error"]):
            plugged = run(program, files, *options)
            bare = run(program, files, *options, *without("namespaced_cache"))
            failed += report(f"{name}, {options}", plugged == bare, plugged, bare)
    for way, options in USES.items():
        code, output = run(program, {"test_it.py": MARKED}, *options)
        refuses = "isolates tests with pytest 7.0 and pluggy 1.2" in output
        is_right = refuses is is_too_old and (code != 0) is is_too_old
        is_right = is_right and "Traceback" not in output
        failed += report(f"{way} is used", is_right, code, output)
    return failed


def run(program, files, *options):
    """Run the tests of a project. Return the exit status and the output."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
        (Path(folder, "pytest.ini")).write_text("[pytest]\n")
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                *without("cacheprovider", *OTHERS),
                *options,
            ],
            cwd=folder,
            env={
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PYTEST_", "DJANGO_", "COV_"))
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        output = re.sub(r"\d+\.\d+s", "SECONDS", done.stdout.replace(folder, "FOLDER"))
    # pytest itself lists the plugins.
    return done.returncode, re.sub(r"^plugins: .*\n", "", output, flags=re.MULTILINE)


def without(*plugins):
    """Return the options that leave these plugins out."""
    return [part for plugin in plugins for part in ("-p", f"no:{plugin}")]


def report(name, is_right, *outcomes):
    """Print a check and what it found. Return 1 if it has failed."""
    print(f"{'ok' if is_right else 'FAILED'}: {name}")
    if not is_right:
        print(*outcomes, sep="\n")
    return int(not is_right)


if __name__ == "__main__":
    sys.exit(main())
