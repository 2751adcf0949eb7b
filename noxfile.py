"""The tests on all that is supported, and on what is published: see CONTRIBUTING.md.

`nox` alone, which is `make test-all`, runs every supported pair of Django and Python.
What follows `--` goes to pytest: `nox -s wheel -- tests/unit/test_backend.py`.
"""

import json
import shutil
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import nox

nox.needs_version = ">=2025.5"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["tests"]

MATRIX = [("3.11", "5.2"), ("3.12", "6.0"), ("3.12", "6.1"), ("3.13", "6.1")]

#: What pyproject.toml asks for at the least, and the least that this Django takes.
SMALLEST = ["django==5.2.0", "asgiref==3.8.1", "pymemcache==4.0.0", "pylibmc==1.6.3"]

#: More than there are cores, for many a test waits for a server that is away; by file,
#: because a file's tests share what is slow to make.
WORKERS = ("--numprocesses", "3", "--dist", "loadfile")

ROOT = Path(__file__).parent


def install(session: nox.Session, package: str, *wanted: str) -> None:
    """Install the package, not editable, and what its tests need."""
    session.install("pip>=25.1")  # which came with `--group`
    session.install(
        f"{package}[pymemcache,pylibmc]", *wanted, "--group", "test", silent=False
    )
    # Installed by itself, because it declares Django below 6.1 and works with it.
    session.install("--no-deps", "django-prometheus", "prometheus-client")


@nox.session
@nox.parametrize(("python", "django"), MATRIX)
def tests(session: nox.Session, django: str) -> None:
    """Run the tests on a Django and a Python, and see that they leave no line out."""
    install(session, ".", f"django~={django}.0")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *WORKERS, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(python="3.11")
def instrumentation(session: nox.Session) -> None:
    """Run the tests of tools that watch caches: `make instrumentation`."""
    session.install("pip>=25.1")
    session.install(
        ".[pymemcache,pylibmc]", "django~=5.2.0", "--group", "instrumentation"
    )
    # ddtrace's own plugin is for who wants his tests watched.
    session.run("pytest", "-p", "no:ddtrace", "tests/tools", *session.posargs)


@nox.session(python="3.11")
def smallest(session: nox.Session) -> None:
    """Run the tests on the oldest of everything that is supported."""
    install(session, ".", *SMALLEST)
    session.run("pip", "list")
    session.run("pytest", *WORKERS, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Look at the style, and have mypy look at the types."""
    session.install("pip>=25.1")
    # pytest's types are its own, and so it is needed, too.
    session.install("--editable", ".", "--group", "lint", "--group", "test")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def pyright(session: nox.Session) -> None:
    """Have pyright look at a typed use of the package as it is installed."""
    session.install("pip>=25.1")
    session.install(".", "--group", "lint", "pyright")
    # Away from `src`, where types are inferred that an installed package has to state.
    with TemporaryDirectory() as folder:
        shutil.copy(ROOT / "tests" / "unit" / "typed_use.py", folder)
        settings = {
            "typeCheckingMode": "strict",
            "enableTypeIgnoreComments": False,  # those are mypy's
            "reportUnnecessaryTypeIgnoreComment": "error",
        }
        Path(folder, "pyrightconfig.json").write_text(json.dumps(settings))
        session.run("pyright", "--project", folder, "--warnings")


# In a new environment each time: pip would keep a wheel of the same version.
@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """Build what is published, and run the tests on it where there is no source.

    What has passed is left in dist/.
    """
    session.install("build", "check-wheel-contents", "twine")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    with TemporaryDirectory() as folder:
        built = Path(folder, "dist")
        # The wheel is made from the sdist, and so has all that it needs.
        session.run("python", "-m", "build", "--outdir", str(built), str(ROOT))
        (sdist,) = built.glob("*.tar.gz")
        (wheel,) = built.glob("*.whl")
        session.run("twine", "check", "--strict", str(sdist), str(wheel))
        session.run("check-wheel-contents", str(wheel))
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        unpacked = Path(folder, sdist.name.removesuffix(".tar.gz"))
        shutil.rmtree(unpacked / "src")
        with session.chdir(unpacked):
            install(session, str(wheel))
            session.run("python", "-c", WHERE_FROM)
            session.run("pytest", *WORKERS, *session.posargs)
        shutil.copytree(built, ROOT / "dist")


WHERE_FROM = """
import sysconfig, namespaced_cache
print("namespaced_cache is", namespaced_cache.__file__)
assert namespaced_cache.__file__.startswith(sysconfig.get_path("purelib"))
"""
