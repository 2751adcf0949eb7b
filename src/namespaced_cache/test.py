"""Isolation for Django's test runner and for unittest.

`NamespacedDiscoverRunner` isolates every test of a project, of whatever class;
`NamespacedCacheMixin` isolates the tests of the classes that have it, where neither
that runner nor the pytest plugin does.
"""

from __future__ import annotations

import unittest
from functools import partial
from typing import Any
from unittest import util

from django.core.exceptions import ImproperlyConfigured
from django.test import runner

from namespaced_cache import isolation, scopes
from namespaced_cache.isolation import Isolation

_REMEDY = (
    "Add to the settings: "
    'TEST_RUNNER = "namespaced_cache.test.NamespacedDiscoverRunner"'
)


def scope_of(test_class: type) -> str:
    """Return the scope of isolation that a test class asks for, "function" if none.

    Raises ValueError for one that there is not.
    """
    scope = getattr(test_class, "cache_isolation", None)
    if scope is None:
        return "function"
    return scopes.checked(scope, f"{test_class.__qualname__}.cache_isolation")


def _begin_test(test: Any, isolated: Isolation) -> None:
    """Forget what others left; where that fails, so does this test."""
    try:
        isolated.forget()
    except Exception as error:  # noqa: BLE001  # and not the whole run
        test.setUp = partial(_raise, error)


def _raise(error: Exception) -> None:
    raise error


class NamespacedCacheMixin:
    """Gives each test of a class, or the class as a whole, an empty cache.

    Stands before the test case's class. The class's `cache_isolation` is "function",
    the default: the namespaces are invalidated before each test; "class": before the
    class is set up, and what `setUpClass()` and `setUpTestData()` cache stays for its
    tests; or "off". One round trip for each namespace. The aliases must be namespaced
    by the settings.

    Where the runner or the pytest plugin isolates the tests, they do so for these
    classes too, and as these classes say.
    """

    @classmethod
    def setUpClass(cls) -> None:
        """Forget what others left, before the class is set up."""
        isolated = _isolation_of_mixins()
        if isolated and scope_of(cls) != "off":
            isolated.forget()
        super().setUpClass()  # type: ignore[misc]  # the test case's

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forget, before the test, what others left and what the class cached."""
        # Not in setUp(): Django loads fixtures before that.
        isolated = _isolation_of_mixins()
        if isolated and scope_of(type(self)) == "function":
            _begin_test(self, isolated)
        return super().__call__(*args, **kwargs)  # type: ignore[misc]  # as above


_shared: Isolation | None = None


def _isolation_of_mixins() -> Isolation | None:
    """Return the one that mixins share; None where somebody else isolates."""
    global _shared
    if isolation.current() is None:
        _shared = Isolation(wrap=False, remedy=_REMEDY)
        _shared.start()
    return _shared if isolation.current() is _shared else None


class NamespacedTestSuite(unittest.TestSuite):
    """A suite that begins each test, or each class that asks so, with an empty cache.

    Before a class or its module is set up as well, whatever the scope but "off".
    """

    # Before each test unittest calls these two in this order. They are private, and as
    # old as its class fixtures; there is no public way in between those and the test.

    def _handleModuleFixture(self, test: Any, result: Any) -> None:  # noqa: N802
        test_class = type(test)
        self._new_class = (
            test_class if result._previousTestClass is not test_class else None
        )
        self._error: Exception | None = None
        if self._get_previous_module(result) in (None, test_class.__module__):  # type: ignore[attr-defined]
            self._begin_class()
        super()._handleModuleFixture(test, result)  # type: ignore[misc]

    def _handleModuleTearDown(self, result: Any) -> None:  # noqa: N802
        # Called by the above as well, before the next module is set up.
        super()._handleModuleTearDown(result)  # type: ignore[misc]
        self._begin_class()

    def _begin_class(self) -> None:
        """Forget what others left, if a class is about to begin."""
        test_class, self._new_class = self._new_class, None
        if test_class is None:
            return
        try:
            if scope_of(test_class) == "off":
                _active().leave()
            else:
                _active().forget()
        except Exception as error:  # noqa: BLE001  # the class's, see below
            self._error = error

    def _handleClassSetUp(self, test: Any, result: Any) -> None:  # noqa: N802
        if self._error is not None:
            self._fail_class(type(test), result, self._error)
            return
        super()._handleClassSetUp(test, result)  # type: ignore[misc]
        if scope_of(type(test)) == "function":
            _begin_test(test, _active())

    def _fail_class(self, test_class: Any, result: Any, error: Exception) -> None:
        """Do as if setUpClass() had raised it: none of the class's tests is run."""
        test_class._classSetupFailed = True
        try:
            _raise(error)  # for its traceback, which is taken from here
        except type(error):
            self._createClassOrModuleLevelException(  # type: ignore[attr-defined]
                result, error, "setUpClass", util.strclass(test_class)
            )


def _active() -> Isolation:
    isolated = isolation.current()
    if isolated is None:
        raise RuntimeError("A NamespacedTestSuite is run by a NamespacedRunnerMixin.")
    return isolated


def _begin_process(*_: Any) -> None:
    """Begin a worker that was not forked, before Django is set up in it."""
    Isolation(wrap=True).start()


class NamespacedParallelTestSuite(runner.ParallelTestSuite):
    """A suite whose workers have a namespace each."""

    process_setup = _begin_process


class NamespacedRunnerMixin:
    """Isolates every test that a runner runs; stands before the runner's class.

    Every memcached alias is wrapped for the run, as `namespaced_cache.namespaced()`
    wraps it; `settings.CACHES` stays as it is. The namespaces are invalidated before
    each class and each test, or as the class's `cache_isolation` says ("function",
    "class", "off"). A runner that has suites of its own derives them from
    NamespacedTestSuite and NamespacedParallelTestSuite; any other is refused, with
    ImproperlyConfigured.
    """

    test_suite = NamespacedTestSuite
    parallel_test_suite = NamespacedParallelTestSuite

    def setup_test_environment(self, **kwargs: Any) -> None:
        """Begin to isolate."""
        super().setup_test_environment(**kwargs)  # type: ignore[misc]  # the runner's
        self._isolation = Isolation(wrap=True)
        self._isolation.start()

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        """Run a suite that isolates its tests, and refuse any other."""
        if not isinstance(suite, (NamespacedTestSuite, NamespacedParallelTestSuite)):
            raise ImproperlyConfigured(
                f"The runner's suite is a {type(suite).__qualname__}: derive it from "
                f"namespaced_cache.test.NamespacedTestSuite, or the parallel one from "
                f"NamespacedParallelTestSuite, or its tests are not isolated."
            )
        return super().run_suite(suite, **kwargs)  # type: ignore[misc]  # as above

    def teardown_test_environment(self, **kwargs: Any) -> None:
        """End it."""
        self._isolation.stop()
        super().teardown_test_environment(**kwargs)  # type: ignore[misc]  # as above


class NamespacedDiscoverRunner(NamespacedRunnerMixin, runner.DiscoverRunner):  # type: ignore[misc]
    """Django's runner with every test isolated: see NamespacedRunnerMixin."""
