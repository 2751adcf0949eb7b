"""The isolation of a pytest run: decides when the plugin's hooks invalidate.

It imports nothing from Django before settings are configured, unless the ini option
`cache_namespace_wrap` is on.
"""

from __future__ import annotations

import sys
from collections import Counter as Tally
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from namespaced_cache.test import scopes
from namespaced_cache.test.examples import invalidate_before_examples

if TYPE_CHECKING:
    from namespaced_cache.test.isolation import Isolation
    from namespaced_cache.test.leaks import Leaks

#: What the isolation imports, beside this package. A project may have neither.
_NEEDED = {"asgiref", "django"}

_REMEDY = "Add to pytest's ini options: cache_namespace_wrap = true"


class Run:
    """The isolation of one pytest run in this process.

    `invalidations` is the count of Isolation. If it finds leaks, it wraps the aliases.
    """

    def __init__(self, config: pytest.Config, *, finds_leaks: bool) -> None:
        self.invalidations: Tally[str] = Tally()
        self._finds_leaks = finds_leaks
        self._wrap: bool = config.getini("cache_namespace_wrap") or finds_leaks
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
        if self._wrap:
            try:
                self._start()
            except ModuleNotFoundError as error:
                missing, _, _ = (error.name or "").partition(".")
                if missing not in _NEEDED:
                    raise
                raise pytest.UsageError(
                    f"To isolate Django's caches, {missing} must be installed."
                ) from None

    def begin_test(self, item: pytest.Item) -> None:
        """Invalidate before any set-up of this test.

        If its scope is invalid, the test fails with one line.
        """
        self._failed = None
        wrong = ""
        try:
            scope, node = self.scope_of(item)
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
        if is_alone or (scope == "class" and is_first):
            self._invalidate()
        elif scope == "off" and self._isolation is not None:
            self._isolation.suspend()

    @property
    def leaks(self) -> Leaks:
        """The keys that leak."""
        return self._start().leaks

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

    def begin_wider_fixture(self, fixture: object, name: str) -> None:
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
        self._start().set_ups.begin(fixture, f"the set-up of {name}")

    def end_wider_fixture(self, *, has_failed: bool) -> None:
        """Note that the set-up of a fixture of a wider scope has ended.

        If it has failed, nothing that it has cached counts.
        """
        if not self._is_noted.pop():
            return
        set_ups = self._start().set_ups
        if has_failed:
            set_ups.give_up()
        else:
            set_ups.end()

    def forget_fixture(self, fixture: object) -> None:
        """Forget what a fixture that is torn down has cached."""
        if self._isolation is not None and self._isolation.set_ups.forget(fixture):
            self._has_forgotten = True

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
        if not self.invalidations or is_quiet:
            return lines
        from namespaced_cache.test import report  # noqa: PLC0415  # as above

        total = report.last_line(len(self.invalidations), self.invalidations.total())
        return [total, *lines]

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

    def scope_of(self, item: pytest.Item) -> tuple[str, Any]:
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
