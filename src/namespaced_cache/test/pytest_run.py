"""The isolation of a pytest run: decides when the plugin's hooks invalidate.

It imports nothing from Django before settings are configured, unless the ini option
`cache_namespace_wrap` is on.
"""

from __future__ import annotations

import sys
from collections import Counter as Tally
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from namespaced_cache.test import pytest_actors, scopes
from namespaced_cache.test.actors import Actor, group_of
from namespaced_cache.test.examples import invalidate_before_examples
from namespaced_cache.test.findings import ENDED_EARLY
from namespaced_cache.test.pytest_actors import Actors

if TYPE_CHECKING:
    from namespaced_cache.test.isolation import Isolation

_REMEDY = "Add to pytest's ini options: cache_namespace_wrap = true"


class Run:
    """The isolation of one pytest run in this process.

    `invalidations` is the count of Isolation.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.invalidations: Tally[str] = Tally()
        self._leaks_path, self._finds_leaks = _leak_options(config)
        self._wrap: bool = config.getini("cache_namespace_wrap") or self._finds_leaks
        self._exclude: list[str] = config.getini("cache_namespace_exclude")
        self._require: bool = config.getini("cache_namespace_require")
        try:
            self._scope = scopes.checked(
                config.getini("cache_isolation"), "The ini option cache_isolation"
            )
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        self._isolation: Isolation | None = None
        self._workers_notices: dict[str, None] = {}
        #: The current class, and the classes that enclose it.
        self._classes: list[Any] = []
        #: Whether the scope of the current test is "function" or "empty".
        self._is_isolated_alone = False
        #: Whether it is "function".
        self._restores = False
        #: Whether items were invalidated with a fixture that has ended since.
        self._has_forgotten = False
        #: For each running set-up of a fixture of a wider scope, whether it is noted.
        self._is_noted: list[bool] = []
        #: Whether no fixture of the current test's own was set up yet.
        self._is_in_wider_set_up = False
        #: Whether a fixture of a wider scope was set up after the test began.
        self._is_wider_set_up = False
        #: The error of an invalidation before a fixture of the current test's own.
        self._failed: Exception | None = None
        #: Who runs commands, as the leak report names them.
        self._actors = Actors()
        self._actor = Actor("")
        #: The test, until its first fixture is set up.
        self._starting: pytest.Item | None = None
        #: The fixtures of a wider scope that are being set up, and torn down.
        self._set_ups: list[tuple[Actor, Collection[str]]] = []
        self._tear_downs: list[pytest.FixtureDef[Any]] = []
        #: What workers have found, and how many workers have not told yet.
        self._findings: list[Mapping[str, Any]] = []
        self._workers = 0
        self._leak_lines: list[str] = []
        if self._wrap:
            self._start()

    def begin_test(self, item: pytest.Item) -> None:
        """Invalidate before any set-up of this test.

        If its scope is invalid, the test fails with one line.
        """
        self._failed = None
        wrong = ""
        try:
            scope, node = self._scope_of(item)
        except ValueError as error:
            wrong = str(error)
        if wrong:  # not in the `except`, or pytest shows both errors
            pytest.fail(wrong, pytrace=False)
        is_first = node not in self._classes
        self._classes = [n for n in item.listchain() if isinstance(n, pytest.Class)]
        self._is_wider_set_up = False
        self._restores = scope == "function"
        is_alone = scope in ("function", "empty")
        self._is_isolated_alone = self._is_in_wider_set_up = is_alone
        if self._finds_leaks:
            self._starting = item
            group = group_of(scope, node and node.nodeid)
            self._actor = self._actors.of_test(item, group)
            self._start().leaks.begin_test(self._actor)
        if is_alone or (scope == "class" and is_first):
            self._invalidate()
        elif scope == "off" and self._isolation is not None:
            self._isolation.suspend()

    def is_own(self, scope: str) -> bool:
        """Tell whether a fixture of this scope is set up for the current test alone."""
        # If a test has no class, fixtures of class scope are the test's own.
        return scope == "function" or (scope == "class" and not self._classes)

    def begin_own_fixture(self) -> None:
        """Invalidate before the first of the test's own fixtures: see below.

        If it fails, `begin_call` raises the error. Raised here, it would break off the
        set-up of the fixture, and pytest would then fail in later tests that use the
        same fixture.
        """
        try:
            self.begin_own_set_up()
        except Exception as error:  # noqa: BLE001  # raised later
            self._failed = error

    def begin_wider_fixture(
        self, fixture: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> None:
        """Note what the set-up of a fixture of a wider scope caches, until it ends."""
        self._is_wider_set_up = True
        self._is_noted.append(self._is_configured())
        if not self._is_noted[-1]:
            return
        if self._has_forgotten and self._is_in_wider_set_up:
            try:
                self._invalidate()
            except Exception as error:  # noqa: BLE001  # raised later, as above
                self._failed = error
        isolation = self._start()
        name = request.node.nodeid or "the session"
        isolation.set_ups.begin(fixture, f"the set-up of {name}")
        if self._finds_leaks:
            actor = self._actors.of_set_up(fixture, request, self._actor)
            isolation.leaks.enter(actor)
            self._set_ups.append((actor, [*getattr(request, "_fixture_defs", ())]))

    def end_wider_fixture(
        self,
        fixture: pytest.FixtureDef[Any],
        request: pytest.FixtureRequest,
        *,
        has_failed: bool,
    ) -> None:
        """Note that the set-up of a fixture of a wider scope has ended.

        If it has failed, nothing that it has cached counts.
        """
        if not self._is_noted.pop():
            return
        isolation = self._start()
        if has_failed:
            isolation.set_ups.give_up()
        else:
            isolation.set_ups.end()
        if self._finds_leaks:
            isolation.leaks.leave()
            actor, before = self._set_ups.pop()
            self._actors.note_requested(fixture, request, before)
            # The finalizer that is added last runs first.
            begin = partial(self._begin_tear_down, fixture, actor.tear_down())
            fixture.addfinalizer(begin)

    def _begin_tear_down(self, fixture: pytest.FixtureDef[Any], actor: Actor) -> None:
        self._tear_downs.append(fixture)
        self._start().leaks.enter(actor)

    def note_end_of_test(self) -> None:
        """Note later when the tear-down of the test's own fixtures has ended.

        Call this before the test's first fixture is set up, because the finalizer that
        is added first runs last.
        """
        item, self._starting = self._starting, None
        if item is not None:
            late = pytest_actors.late_tear_down_of(item)
            item.addfinalizer(partial(self._start().leaks.enter, late))

    def forget_fixture(self, fixture: pytest.FixtureDef[Any]) -> None:
        """Forget what a fixture that is torn down has cached."""
        if self._isolation is not None and self._isolation.set_ups.forget(fixture):
            self._has_forgotten = True
        # pytest calls this more than once, and for fixtures that were never set up.
        if self._tear_downs[-1:] == [fixture]:
            self._tear_downs.pop()
            self._start().leaks.leave()

    def begin_own_set_up(self) -> None:
        """Invalidate after fixtures of a wider scope, before the test's own.

        So the first test of a class starts with the same items as the others.
        """
        if self._is_in_wider_set_up and self._is_wider_set_up:
            self._invalidate()
        # If a fixture of a wider scope is set up later, the test itself requests it.
        self._is_in_wider_set_up = False

    def begin_call(self, test: Any) -> None:
        """Invalidate if no fixture of the test's own was set up, and before examples.

        `test` is the instance of the test's class, or None. Raises the error of an
        invalidation before the test's own fixtures.
        """
        if self._failed is not None:
            raise self._failed
        self.begin_own_set_up()
        if self._is_isolated_alone:
            invalidate_before_examples(test, self._invalidate)

    def first_lines(self) -> list[str]:
        """Return the lines for the header of a run in a project that uses Django."""
        if not self._is_configured():
            return []
        # Not at the top: it imports Django, which a project may not have.
        from namespaced_cache.test import report  # noqa: PLC0415

        isolation = self._start()
        try:
            isolation.check_exclude()
        except Exception as error:  # noqa: BLE001  # shown in one line
            raise pytest.UsageError(str(error)) from None
        return report.first_lines(isolation, self._scope)

    def last_lines(self, *, is_quiet: bool) -> list[str]:
        """Return the lines for the end of a run: with -q, no count."""
        lines = [f"cache isolation: {notice}" for notice in self.notices]
        lines += self._leak_lines
        if not self.invalidations or is_quiet:
            return lines
        from namespaced_cache.test import report  # noqa: PLC0415  # as above

        total = report.last_line(len(self.invalidations), self.invalidations.total())
        return [total, *lines]

    def found_leaks(self) -> Mapping[str, Any] | None:
        """Return what leaks in this worker, or None if nothing is to be found."""
        return self._start().leaks.take().as_plain() if self._finds_leaks else None

    def add_worker(self) -> None:
        """Note that there is another worker."""
        self._workers += 1

    def add_found_leaks(self, found: Mapping[str, Any] | None) -> None:
        """Add what a worker has found. None: it has crashed."""
        if found is not None:
            self._workers -= 1
            self._findings.append(found)

    def report_leaks(self, *, show_all: bool) -> None:
        """Make the lines of the report, and write the file."""
        if self._finds_leaks:
            findings = self._start().leaks.take()
            for found in self._findings:
                findings.merge(found)
            if self._workers:
                findings.incomplete.add(ENDED_EARLY)
            self._leak_lines = findings.report(self._leaks_path, show_all=show_all)

    @property
    def notices(self) -> list[str]:
        """The warnings that were not raised, of this process and of its workers."""
        own = [] if self._isolation is None else self._isolation.notices
        return [*own, *self._workers_notices]

    def add_notices(self, notices: Iterable[str]) -> None:
        """Add the notices of a worker. Another one may have had the same."""
        self._workers_notices |= dict.fromkeys(notices)

    def _is_configured(self) -> bool:
        django_conf = sys.modules.get("django.conf")
        return django_conf is not None and django_conf.settings.configured

    def end(self) -> None:
        """Stop the isolation."""
        if self._isolation is not None:
            self._isolation.stop()
            self._isolation = None

    def _scope_of(self, item: pytest.Item) -> tuple[str, Any]:
        """Return a test's scope, and the class that the scope "class" refers to.

        The scope that is set closest to the test is used. The ini option comes last. If
        the scope is set on a class, "class" refers to that class, else to the outermost
        class. A function outside a class counts as a class of its own.
        """
        scope = self._scope
        chain = item.listchain()
        test_class = next((n for n in chain if isinstance(n, pytest.Class)), None)
        for node in reversed(chain):
            own_scope = _scope_set_on(node)
            if own_scope is not None:
                scope = own_scope
                test_class = node if isinstance(node, pytest.Class) else test_class
                break
        if scope == "class" and test_class is None:
            scope = "function"
        return scope, test_class

    def _start(self) -> Isolation:
        if self._isolation is None:
            # Not at the top, because it imports Django, which a project may not have.
            from namespaced_cache.test.isolation import Isolation  # noqa: PLC0415

            self._isolation = Isolation(
                wrap=self._wrap,
                remedy=_REMEDY,
                exclude=self._exclude,
                require=self._require,
            )
            self._isolation.invalidations = self.invalidations
            self._isolation.start()
            if self._finds_leaks:
                self._isolation.leaks.start()
        return self._isolation

    def _invalidate(self) -> None:
        if self._is_configured():
            self._has_forgotten = False
            self._start().invalidate(restore=self._restores)


def _leak_options(config: pytest.Config) -> tuple[Path | None, bool]:
    """Return where leaks are to be written, and whether they are to be found."""
    # While plugins are loaded, `option` does not have the command line yet.
    early = getattr(config, "known_args_namespace", config.option)
    has_options = hasattr(early, "cache_leaks")  # not if a conftest loads the plugin
    given = early if has_options else config.option
    path = Path(given.cache_leaks_json).resolve() if given.cache_leaks_json else None
    return path, given.cache_leaks or path is not None


def _scope_set_on(node: Any) -> str | None:
    """Return the scope that is set on this module, class or test, or None.

    Raises ValueError, which names the source, for an invalid scope.
    """
    for marker in node.own_markers:
        if marker.name == "cache_isolation":
            given = (*marker.args, *marker.kwargs.values())
            return scopes.checked(
                given[0] if len(given) == 1 else given,
                f"The marker cache_isolation of {node.nodeid}",
            )
    if isinstance(node, pytest.Class):
        scope = getattr(node.obj, "cache_isolation", None)
        if scope is not None:
            return scopes.checked(scope, f"{node.nodeid}.cache_isolation")
    return None
