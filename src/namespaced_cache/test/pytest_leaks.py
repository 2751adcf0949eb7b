"""The leak report of a pytest run: a plugin that is registered only if it is wanted."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from namespaced_cache.test.actors import Actor, group_of
from namespaced_cache.test.findings import ENDED_EARLY
from namespaced_cache.test.pytest_actors import Actors, late_tear_down_of

if TYPE_CHECKING:
    from namespaced_cache.test.pytest_run import Run


def are_wanted(config: pytest.Config) -> bool:
    """Tell whether the command line asks for the report."""
    given = _options(config)
    return bool(given.cache_leaks or given.cache_leaks_json)


def _options(config: pytest.Config) -> Any:
    # While plugins are loaded, `option` does not have the command line yet.
    early = getattr(config, "known_args_namespace", None)
    is_complete = hasattr(early, "cache_leaks")  # not if a conftest loads the plugin
    return early if is_complete else config.option


class LeakReport:
    """Tells who runs commands, and reports what leaks.

    pytest calls the hooks of a plugin that was registered later before those of the
    others, if both have `tryfirst`.
    """

    def __init__(self, config: pytest.Config, run: Run) -> None:
        path = _options(config).cache_leaks_json
        # It is absolute, because a test may change the working directory.
        self._path = Path(path).resolve() if path else None
        self._run = run
        self._leaks = run.leaks
        self._actors = Actors()
        self._test = Actor("")
        #: The test, until its first fixture is set up.
        self._starting: pytest.Item | None = None
        #: The fixtures of a wider scope that are being torn down.
        self._tear_downs: list[pytest.FixtureDef[Any]] = []
        #: What workers have found, and how many workers have not told yet.
        self._found: list[Mapping[str, Any]] = []
        self._workers = 0
        self._lines: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note that a test begins."""
        try:
            scope, node = self._run.scope_of(item)
        except ValueError:  # the test fails for this reason
            scope, node = "function", None
        self._starting = item
        self._test = self._actors.of_test(item, group_of(scope, node and node.nodeid))
        self._leaks.begin_test(self._test)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Let the fixture run the commands of its set-up, if it has a wider scope."""
        __tracebackhide__ = True  # if the fixture fails
        self._note_end_of_test()
        if self._run.is_own(fixturedef.scope):
            return (yield)
        before = [*getattr(request, "_fixture_defs", ())]
        actor = self._actors.of_set_up(fixturedef, request, self._test)
        with self._leaks.acting(actor):
            try:
                return (yield)
            finally:
                self._actors.note_requested(fixturedef, request, before)
                # The finalizer that is added last runs first.
                begin = partial(self._begin_tear_down, fixturedef, actor.tear_down())
                fixturedef.addfinalizer(begin)

    def _begin_tear_down(self, fixture: pytest.FixtureDef[Any], actor: Actor) -> None:
        self._tear_downs.append(fixture)
        self._leaks.enter(actor)

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Note that a fixture was torn down."""
        # pytest calls this more than once, and for fixtures that were never set up.
        if self._tear_downs[-1:] == [fixturedef]:
            self._tear_downs.pop()
            self._leaks.leave()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        """Note the end of a test that has no fixture."""
        self._note_end_of_test()

    def _note_end_of_test(self) -> None:
        """Note later when the tear-down of the test's own fixtures has ended.

        This is called before the test's first fixture is set up, because the finalizer
        that is added first runs last.
        """
        item, self._starting = self._starting, None
        if item is not None:
            item.addfinalizer(partial(self._leaks.enter, late_tear_down_of(item)))

    # pytest-xdist's workers send what they find to the process that reports.

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Send what leaks in this worker, or write the report."""
        output = getattr(session.config, "workeroutput", None)
        findings = self._leaks.take()
        if output is not None:
            output["cache_leaks"] = findings.as_plain()
            return
        for found in self._found:
            findings.merge(found)
        if self._workers:
            findings.incomplete.add(ENDED_EARLY)
        # There is no such option without pytest's plugin for terminals.
        is_verbose = session.config.getoption("verbose", 0) > 0
        self._lines = findings.report(self._path, show_all=is_verbose)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self) -> None:
        """Note that there is another worker."""
        self._workers += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add what a worker has found. One that crashed has sent nothing."""
        found = getattr(node, "workeroutput", {}).get("cache_leaks")
        if found is not None:
            self._workers -= 1
            self._found.append(found)

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Show the report."""
        for line in self._lines:
            terminalreporter.write_line(line)
