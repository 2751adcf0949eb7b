"""Every supported pair of Django and Python, and tools that watch caches.

`make test-all` and `make instrumentation`.
"""

import nox

nox.needs_version = ">=2025.5"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["tests"]

MATRIX = [("3.11", "5.2"), ("3.12", "6.0"), ("3.12", "6.1"), ("3.13", "6.1")]


@nox.session
@nox.parametrize(("python", "django"), MATRIX)
def tests(session: nox.Session, django: str) -> None:
    session.install("pip>=25.1")
    session.install(
        ".[pymemcache,pylibmc]", f"django~={django}.0", "--group", "test", silent=False
    )
    # Installed by itself, because it declares Django below 6.1 and works with it.
    session.install("--no-deps", "django-prometheus", "prometheus-client")
    session.run("coverage", "erase")
    workers = ("--numprocesses", "3", "--dist", "loadfile")
    session.run("coverage", "run", "-m", "pytest", *workers, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(python="3.11")
def instrumentation(session: nox.Session) -> None:
    session.install("pip>=25.1")
    session.install(
        ".[pymemcache,pylibmc]", "django~=5.2.0", "--group", "instrumentation"
    )
    # ddtrace's own plugin is for who wants his tests watched.
    session.run("pytest", "-p", "no:ddtrace", "tests/instrumentation", *session.posargs)
