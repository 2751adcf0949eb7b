"""Every supported pair of Django and Python: `make test-all`."""

import nox

nox.needs_version = ">=2025.5"
nox.options.error_on_missing_interpreters = True

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
