"""The hooks of the pytest plugin, for every pytest that has what they need.

They import nothing from Django before settings are configured, unless the run wraps the
aliases.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from namespaced_cache.test import pytest_leaks, pytest_options
from namespaced_cache.test.pytest_run import Run

if TYPE_CHECKING:
    from namespaced_cache.backend import NamespacedCache

_RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    pytest_options.add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config,
) -> Generator[None, object, object]:
    """Wrap the aliases before a conftest or pytest-django sets Django up."""
    early_config.stash[_RUN] = _run_of(early_config)
    return (yield)


def _run_of(config: pytest.Config) -> Run:
    return Run(config, finds_leaks=pytest_leaks.are_wanted(config))


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the report of leaks if it is wanted."""
    if _RUN not in config.stash:  # the plugin was loaded by a conftest
        config.stash[_RUN] = _run_of(config)
    if pytest_leaks.are_wanted(config):
        report = pytest_leaks.LeakReport(config, config.stash[_RUN])
        config.pluginmanager.register(report, "namespaced_cache_leaks")
    pytest_options.add_marker(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the isolation."""
    config.stash[_RUN].end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Invalidate before the set-up of a test."""
    item.config.stash[_RUN].begin_test(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Note what a fixture of a wider scope caches, and invalidate before a test's own.

    Fixtures of a wider scope are set up first.
    """
    __tracebackhide__ = True  # if the fixture fails
    run = request.config.stash[_RUN]
    if run.is_own(fixturedef.scope):
        run.begin_own_fixture()
        return (yield)
    run.begin_wider_fixture(fixturedef, request.node.nodeid or "the session")
    has_failed = True
    try:
        value = yield
        has_failed = False
    finally:
        run.end_wider_fixture(has_failed=has_failed)
    return value


def pytest_fixture_post_finalizer(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> None:
    """Forget what a fixture that is torn down has cached."""
    request.config.stash[_RUN].forget_fixture(fixturedef)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Invalidate after fixtures of a wider scope, if the test has no own fixture."""
    item.config.stash[_RUN].begin_call(getattr(item, "instance", None))


@pytest.fixture
def namespaced_cache() -> NamespacedCache:
    """Return the backend of the default alias.

    It is a NamespacedCache, with `invalidate_namespace()` and
    `pinned_generation()`. Raises ImproperlyConfigured if the alias has no namespace.
    """
    # Not at the top, because it imports Django, which a project may not have.
    try:
        from namespaced_cache.aliases import namespaced_caches  # noqa: PLC0415
    except ModuleNotFoundError as error:
        missing, _, _ = (error.name or "").partition(".")
    else:
        return namespaced_caches("default")["default"]
    pytest.fail(
        f"namespaced_cache needs {missing}, which is not installed.", pytrace=False
    )


# pytest-xdist's workers send their counts to the process that reports to the user.


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send this worker's count."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        run = session.config.stash[_RUN]
        output["cache_isolation"] = dict(run.invalidations)
        output["cache_isolation_notices"] = run.notices


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add a worker's count. A worker that crashed has sent no count."""
    output = getattr(node, "workeroutput", {})
    run = node.config.stash[_RUN]
    run.invalidations.update(output.get("cache_isolation", {}))
    run.add_notices(output.get("cache_isolation_notices", []))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Report which aliases are isolated, if the project uses this package."""
    return config.stash[_RUN].first_lines()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Report notices, and how often namespaces were invalidated."""
    is_quiet = config.option.verbose < 0
    for line in config.stash[_RUN].last_lines(is_quiet=is_quiet):
        terminalreporter.write_line(line)
