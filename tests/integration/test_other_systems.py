"""The package on a system without fork, unix sockets and what else Windows lacks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT

#: Removes what Windows does not have. First it imports modules of the standard library
#: that differ by `sys.platform`, because on Linux they need what is removed.
WITHOUT = """
import asyncio, multiprocessing, os, random, socket, subprocess, sys, tempfile, time
for name in ("register_at_fork", "fork", "forkpty"):
    delattr(os, name)
del socket.AF_UNIX, time.clock_gettime
sys.modules["fcntl"] = sys.modules["resource"] = None
"""

EVERY_MODULE = """
import importlib, pkgutil
from django.conf import settings
settings.configure()
import django
django.setup()
import namespaced_cache
names = [
    module.name
    for module in pkgutil.walk_packages(namespaced_cache.__path__, "namespaced_cache.")
]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

OVER_TCP = """
from django.conf import settings
settings.configure()
from namespaced_cache import NamespacedCache
cache = NamespacedCache(sys.argv[2], {"OPTIONS": {"WRAPPED_BACKEND": sys.argv[1]}})
cache.set("k", 1)
assert cache.get("k") == 1
with cache.pinned_generation():
    assert cache.incr("k") == 2
cache.invalidate_namespace()
assert cache.get("k") is None
"""

OVER_A_SOCKET = """
from django.conf import settings
settings.configure(CACHES={"default": {
    "BACKEND": "namespaced_cache.NamespacedCache",
    "LOCATION": "unix:/run/memcached",
    "OPTIONS": {"WRAPPED_BACKEND": sys.argv[1]},
}})
import django
django.setup()
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from namespaced_cache.management.commands.cache_namespace import Command
for use, error in (
    (lambda: cache.get("k"), ImproperlyConfigured),
    (cache.invalidate_namespace, ImproperlyConfigured),
    (lambda: call_command(Command(), "list"), CommandError),
):
    try:
        use()
    except error as raised:
        print(raised)
"""

PLAIN_TEST = """
def test_nothing_in_particular():
    assert True
"""

DJANGO_TEST = """
from django.conf import settings
settings.configure()
from django.core.cache import cache

def test_a_cache_in_memory():
    cache.set("k", 1)
    assert cache.get("k") == 1
"""


def run(script: str, *arguments: str, **where) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **where,
    )


def test_every_module_can_be_imported():
    done = run(EVERY_MODULE)
    assert done.returncode == 0, done.stderr
    modules = [*(ROOT / "src" / "namespaced_cache").rglob("*.py")]
    # All modules but the package itself. Without the source there is nothing to
    # compare.
    assert not modules or int(done.stdout) == len(modules) - 1


def test_it_works_over_tcp(backend, server):
    done = run(OVER_TCP, backend, server.location)
    assert done.returncode == 0, done.stderr


def test_a_socket_that_the_system_cannot_have_is_named(backend):
    done = run(OVER_A_SOCKET, backend)
    assert done.returncode == 0, done.stderr
    said = "/run/memcached', but this system has no unix sockets: it takes HOST:PORT."
    assert [line.endswith(said) for line in done.stdout.splitlines()] == [True] * 3


@pytest.mark.parametrize("text", [PLAIN_TEST, DJANGO_TEST], ids=["plain", "django"])
def test_a_project_runs_its_tests_with_the_plugin(tmp_path, text):
    (tmp_path / "test_it.py").write_text(text)
    arguments = ["-p", "no:randomly", "."]  # an entry point loads the plugin
    script = "import pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    done = run(script, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


#: Lets no import find Django, or what Django imports first.
WITHOUT_DJANGO = "import sys; sys.modules[{!r}] = None\n"


@pytest.mark.parametrize("missing", ["django", "asgiref"])
@pytest.mark.parametrize(
    "options", [["-o", "cache_namespace_wrap=true"], ["--cache-leaks"]]
)
def test_without_django_the_options_are_refused_in_one_line(tmp_path, missing, options):
    (tmp_path / "test_it.py").write_text(PLAIN_TEST)
    script = f"{WITHOUT_DJANGO.format(missing)}import pytest\n"
    done = run(
        f"{script}sys.exit(pytest.main(['-p', 'no:django', *sys.argv[1:]]))",
        *options,
        cwd=tmp_path,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 4, said
    assert f"To isolate Django's caches, {missing} must be installed." in said
    assert "Traceback" not in said


def test_without_django_the_fixture_says_so(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it(namespaced_cache): pass")
    script = f"{WITHOUT_DJANGO.format('django')}import pytest\n"
    done = run(
        f"{script}sys.exit(pytest.main(['-p', 'no:django', *sys.argv[1:]]))",
        cwd=tmp_path,
    )
    assert "namespaced_cache needs django, which is not installed." in done.stdout
    assert "Traceback" not in done.stdout
