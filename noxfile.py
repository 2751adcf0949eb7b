"""The steps of `make test`, `make test-all` and CI: see CONTRIBUTING.md.

`nox --session NAME` runs one session. pytest gets the arguments that follow `--`:
`nox --session wheel -- tests/unit/test_backend.py`.
"""

import json
import os
import shutil
import sysconfig
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "virtualenv"  # uv's environments have no pip
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]
nox.options.stop_on_first_error = True

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
WORKFLOWS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob(".github/workflows/*.yml")
)

MATRIX = [
    ("3.11", "5.2"),
    ("3.12", "6.0"),
    ("3.12", "6.1"),
    ("3.13", "6.1"),
    ("3.14", "6.1"),
]

#: The oldest versions that pyproject.toml accepts, and the oldest asgiref that this
#: Django accepts.
SMALLEST = ["django==5.2.0", "asgiref==3.8.1", "pymemcache==4.0.0", "pylibmc==1.6.3"]

#: What is installed beside the package in projects that do not use it.
TOO_OLD = ["pytest~=6.2.0", "pytest~=7.0.0 pluggy==1.0.0"]
BYSTANDERS = [*TOO_OLD, "pytest~=7.0.0", "pytest~=7.4.0", "pytest~=8.0.0", "pytest"]

LINT = [
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports", "--no-cache"),
    ("shellcheck", "scripts/run", ".ci/run"),
    ("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS),
    ("zizmor", "--offline", "--quiet", "--persona", "pedantic", *WORKFLOWS),
]

#: Four workers even on two cores, because many tests wait for a server that is down. A
#: worker that has finished takes tests from another, because some take many seconds.
PYTEST = ("pytest", "--numprocesses", "4", "--dist", "worksteal")


def group(name: str) -> tuple[str, ...]:
    """Return what a dependency group of pyproject.toml asks for."""
    return nox.project.dependency_groups(PYPROJECT, name)


def install(session: nox.Session, package: str, *wanted: str) -> None:
    """Install the package, not editable, and what its tests need."""
    session.install(f"{package}[pymemcache,pylibmc]", *wanted, *group("test"))
    # A separate call, because django-prometheus works with Django 6.1 but refuses it.
    session.install("--no-deps", "django-prometheus", "prometheus-client")
    session.run("pip", "list")


def use_programs_beside_nox() -> None:
    """Let a session without an environment find the programs of nox's environment."""
    programs = sysconfig.get_path("scripts")
    os.environ["PATH"] = os.pathsep.join([programs, os.environ["PATH"]])


def run_lint(session: nox.Session) -> None:
    """Run each linter."""
    for step in LINT:
        session.run(*step)


def run_tests_with_coverage(session: nox.Session) -> None:
    """Run all tests and require complete coverage, or run those that were asked for."""
    if session.posargs:
        session.run(*PYTEST, *session.posargs)
        return
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", *PYTEST)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(venv_backend="none")
def check(session: nox.Session) -> None:
    """Run the linters, then the tests, in .venv: `make test`.

    Coverage is left to `tests`, because measuring it takes half as long again.
    """
    use_programs_beside_nox()
    run_lint(session)
    # The tests start hundreds of processes, which need not compile the modules again.
    session.run(*PYTEST, *session.posargs, env={"PYTHONDONTWRITEBYTECODE": ""})


@nox.session(venv_backend="none")
def stress(session: nox.Session) -> None:
    """Run the tests that take minutes, in .venv: `make stress`."""
    use_programs_beside_nox()
    session.run("pytest", "-m", "stress", "-rP", *session.posargs)


@nox.session
@nox.parametrize(("python", "django"), MATRIX)
def tests(session: nox.Session, django: str) -> None:
    """Run the tests on every supported Python and Django: `make test-all`."""
    install(session, ".", f"django~={django}.0")
    run_tests_with_coverage(session)


@nox.session(python="3.11")
def instrumentation(session: nox.Session) -> None:
    """Run the tests of tools that watch caches: `make instrumentation`."""
    session.install(".[pymemcache,pylibmc]", "django~=5.2.0", *group("instrumentation"))
    # ddtrace's plugin would trace these tests themselves.
    session.run("pytest", "-p", "no:ddtrace", "tests/tools", *session.posargs)


@nox.session(python="3.11")
def plugins(session: nox.Session) -> None:
    """Run the tests with other packages for tests and caches: `make plugins`."""
    session.install(".[pymemcache,pylibmc]", "django~=5.2.0", *group("plugins"))
    # A separate call, because djblets works with Django 5.2 but refuses it. Of what it
    # depends on, the group has what its caches import.
    session.install("--no-deps", "djblets>=6.1")
    # pytest-asyncio requires an option of these tests themselves.
    session.run("pytest", "-p", "no:asyncio", "tests/plugins", *session.posargs)


@nox.session(python="3.11")
@nox.parametrize("pytest", BYSTANDERS)
def bystanders(session: nox.Session, pytest: str) -> None:
    """Check that projects which do not use the package do not notice it."""
    session.install(".[pymemcache]", *pytest.split())
    is_too_old = ("--too-old",) if pytest in TOO_OLD else ()
    session.run("python", "tests/support/bystanders.py", *is_too_old)


@nox.session(python="3.11")
def smallest(session: nox.Session) -> None:
    """Run the tests on the oldest supported version of everything."""
    install(session, ".", *SMALLEST)
    session.run(*PYTEST, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff, mypy, import-linter, shellcheck, check-jsonschema and zizmor."""
    # mypy reads the types of pytest too.
    session.install("--editable", ".", *group("lint"), *group("test"))
    run_lint(session)


@nox.session
def pyright(session: nox.Session) -> None:
    """Run pyright on a typed use of the installed package."""
    session.install(".", *group("lint"), "pyright")
    # Outside the checkout, because pyright infers types in `src` that an installed
    # package has to declare.
    with TemporaryDirectory() as folder:
        shutil.copy(ROOT / "tests" / "unit" / "typed_use.py", folder)
        settings = {
            "typeCheckingMode": "strict",
            "enableTypeIgnoreComments": False,  # those are mypy's
            "reportUnnecessaryTypeIgnoreComment": "error",
        }
        Path(folder, "pyrightconfig.json").write_text(json.dumps(settings))
        session.run("pyright", "--project", folder, "--warnings")


# A new environment each time, because pip does not replace a wheel of the same version.
@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """Build the sdist and the wheel, and run the sdist's tests on the wheel.

    Both are left in dist/ if the tests pass.
    """
    session.install("build", "check-wheel-contents", "twine")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    with TemporaryDirectory() as folder:
        built = Path(folder, "dist")
        # `build` makes the wheel from the sdist, so the sdist has all that it needs.
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
            session.run(*PYTEST, *session.posargs)
        shutil.copytree(built, ROOT / "dist")


WHERE_FROM = """
import sysconfig, namespaced_cache
print("namespaced_cache is", namespaced_cache.__file__)
assert namespaced_cache.__file__.startswith(sysconfig.get_path("purelib"))
"""
