"""Isolation for Django's test runner: isolates every test of every class."""

from __future__ import annotations

import sys
import tempfile
import unittest
from argparse import ArgumentParser
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import util

from django.core.exceptions import ImproperlyConfigured
from django.test import runner

from namespaced_cache.test import isolation, report
from namespaced_cache.test.actors import Actor, group_of, set_up_of
from namespaced_cache.test.findings import ENDED_EARLY, LEAK_ARGUMENTS
from namespaced_cache.test.isolation import Isolation, SharedCount, begin_test
from namespaced_cache.test.scopes import scope_of

#: The owners of what the current module's and the current class's set-up caches.
_MODULE, _CLASS = "module", "class"

#: unittest leaves the frames of this module out of the tracebacks that it prints.
__unittest = True


class NamespacedTestSuite(unittest.TestSuite):
    """A suite that isolates each test by the scope of its class.

    Unless the scope is "off", the namespaces are also invalidated before a class is set
    up. For the first class of a module, this is before the module is set up. What both
    set-ups cache is stored again before each test, if the scope is "function".
    """

    #: The class that is about to begin, and whether its module is, too.
    _new_class: type | None = None
    _is_new_module = False
    #: Whether the set-up of the module is noted.
    _is_noted = False
    #: The error of the invalidation before the class.
    _error: Exception | None = None

    # Before each test, unittest calls _handleModuleFixture() and then
    # _handleClassSetUp(). They are private, but as old as unittest's class fixtures. No
    # public hook runs between class fixtures and the test.

    def _handleModuleFixture(self, test: Any, result: Any) -> None:  # noqa: N802
        test_class = type(test)
        previous_module = self._get_previous_module(result)  # type: ignore[attr-defined]
        self._new_class = (
            test_class if result._previousTestClass is not test_class else None
        )
        self._is_new_module = previous_module != test_class.__module__
        self._error = None
        if previous_module is None or not self._is_new_module:
            self._begin_class()
        try:
            super()._handleModuleFixture(test, result)  # type: ignore[misc]
        finally:
            if self._is_noted:
                self._is_noted = False
                _active().set_ups.end()
                _active().leaks.leave()

    def _handleModuleTearDown(self, result: Any) -> None:  # noqa: N802
        # unittest also calls this from the method above, before it sets up a module.
        module = self._get_previous_module(result)  # type: ignore[attr-defined]
        with _acting(_set_up_of_module(module or "").tear_down()):
            super()._handleModuleTearDown(result)  # type: ignore[misc]
        self._begin_class()

    def _tearDownPreviousClass(self, test: Any, result: Any) -> None:  # noqa: N802
        test_class = getattr(result, "_previousTestClass", None) or type(test)
        with _acting(_set_up_of_class(test_class).tear_down()):
            super()._tearDownPreviousClass(test, result)  # type: ignore[misc]

    def _begin_class(self) -> None:
        """Invalidate the namespaces if a class is about to begin."""
        test_class, self._new_class = self._new_class, None
        if test_class is None:
            return
        try:
            isolated = _active()
        except RuntimeError as error:
            self._error = error
            return
        isolated.set_ups.forget(_CLASS)
        if self._is_new_module:
            isolated.set_ups.forget(_MODULE)
        try:
            scope = scope_of(test_class)
            if scope == "off":
                isolated.suspend()
            else:
                isolated.invalidate(restore=scope == "function")
        except Exception as error:  # noqa: BLE001  # reported as the class's
            self._error = error
        if self._is_new_module:
            name = f"the set-up of the module {test_class.__module__}"
            isolated.set_ups.begin(_MODULE, name)
            isolated.leaks.enter(_set_up_of_module(test_class.__module__))
            self._is_noted = True

    def _handleClassSetUp(self, test: Any, result: Any) -> None:  # noqa: N802
        test_class = type(test)
        if self._error is not None:
            self._fail_class(test_class, result, self._error)
            return
        if result._previousTestClass is not test_class:
            self._set_class_up(test, result)
        if getattr(test_class, "_classSetupFailed", False):
            return  # none of its tests runs
        _active().leaks.begin_test(_of_test(test))
        begin_test(test, _active())

    def _set_class_up(self, test: Any, result: Any) -> None:
        """Set a class up, and note what it caches."""
        set_ups = _active().set_ups
        set_ups.begin(_CLASS, f"the set-up of the class {util.strclass(type(test))}")
        try:
            with _acting(_set_up_of_class(type(test))):
                super()._handleClassSetUp(test, result)  # type: ignore[misc]
        finally:
            set_ups.end()

    def _fail_class(self, test_class: Any, result: Any, error: Exception) -> None:
        """Report the error as one of setUpClass(), and run no test of the class."""
        test_class._classSetupFailed = True
        try:
            raise error  # unittest formats the exception that is being handled
        except type(error):
            self._createClassOrModuleLevelException(  # type: ignore[attr-defined]
                result, error, "setUpClass", util.strclass(test_class)
            )


def _active() -> Isolation:
    isolated = isolation.current()
    if isolated is None:
        raise RuntimeError("A NamespacedTestSuite is run by a NamespacedRunnerMixin.")
    return isolated


# The actors of the leak report.


def _acting(actor: Actor) -> AbstractContextManager[None]:
    isolated = isolation.current()
    return nullcontext() if isolated is None else isolated.leaks.acting(actor)


def _set_up_of_module(name: str) -> Actor:
    return set_up_of("module", name, (_MODULE, name))


def _set_up_of_class(test_class: type) -> Actor:
    name = util.strclass(test_class)
    uses = {(_MODULE, test_class.__module__)}
    return set_up_of("class", name, (_CLASS, name), uses.__contains__)


def _of_test(test: Any) -> Actor:
    test_class = type(test)
    name = util.strclass(test_class)
    uses = {(_MODULE, test_class.__module__), (_CLASS, name)}
    group = group_of(scope_of(test_class), name)
    return Actor(test.id(), uses=uses.__contains__, group=group)


def _begin_process(
    shared: SharedCount | None = None, leaks_folder: Path | None = None
) -> None:
    """Isolate a worker that was not forked, before Django is set up in it."""
    isolation.join_run()
    _active().shared = shared
    if leaks_folder is not None:
        _active().leaks.start(leaks_folder)


def _run_subsuite(arguments: Any) -> Any:
    """Run a part of the tests in a worker, and hand over what leaks there."""
    try:
        return runner.ParallelTestSuite.run_subsuite(arguments)
    finally:
        _active().leaks.hand_over()


class NamespacedParallelTestSuite(runner.ParallelTestSuite):
    """A suite in which each worker has its own namespace."""

    process_setup = _begin_process
    run_subsuite = _run_subsuite


class NamespacedRunnerMixin:
    """Isolates every test that a runner runs.

    Put it before the runner's class among the bases. It wraps every memcached alias for
    the run, as `namespaced_cache.namespaced()` does, but leaves `settings.CACHES` as it
    is. The namespaces are invalidated before each class and each test. A class can
    change this with its `cache_isolation` ("function", "empty", "class", "off").

    If the runner has suites of its own, derive them from NamespacedTestSuite and
    NamespacedParallelTestSuite. Any other suite raises ImproperlyConfigured.
    """

    test_suite = NamespacedTestSuite
    parallel_test_suite = NamespacedParallelTestSuite

    #: Aliases that are neither wrapped nor isolated.
    cache_namespace_exclude: Collection[str] = ()

    #: Whether each test fails if a memcached server cannot be reached.
    cache_namespace_require = False

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Add the arguments of `manage.py test`."""
        # As Django, which does not need it of a runner.
        add_theirs = getattr(super(), "add_arguments", None)
        if add_theirs is not None:
            add_theirs(parser)
        for name, how in LEAK_ARGUMENTS.items():
            parser.add_argument(name, **how)

    def __init__(
        self,
        *args: Any,
        cache_leaks: bool = False,
        cache_leaks_json: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        path = cache_leaks_json
        # It is absolute, because a test may change the working directory.
        self._leaks_path = Path(path).resolve() if path else None
        self._tests_run = 0
        self._finds_leaks = cache_leaks or self._leaks_path is not None

    def setup_test_environment(self, **kwargs: Any) -> None:
        """Start the isolation."""
        super().setup_test_environment(**kwargs)  # type: ignore[misc]  # the runner's
        self._isolation = Isolation(
            wrap=True,
            exclude=self.cache_namespace_exclude,
            require=self.cache_namespace_require,
        )
        self._isolation.check_exclude()
        self._isolation.shared = self._shared = SharedCount()
        self._isolation.start()
        if self._finds_leaks:
            self._isolation.leaks.start()
        for line in report.first_lines(self._isolation, "function"):
            self.log(line)  # type: ignore[attr-defined]  # the runner's

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        """Run a suite that isolates its tests, and refuse any other."""
        if not isinstance(suite, (NamespacedTestSuite, NamespacedParallelTestSuite)):
            raise ImproperlyConfigured(
                f"The runner's suite is a {type(suite).__qualname__}: derive it from "
                f"namespaced_cache.test.NamespacedTestSuite, or the parallel one from "
                f"NamespacedParallelTestSuite, or its tests are not isolated."
            )
        if isinstance(suite, NamespacedParallelTestSuite):
            leaks = self._isolation.leaks
            if self._finds_leaks:
                leaks.folder = Path(tempfile.mkdtemp())
            suite.process_setup_args = (self._shared, leaks.folder)
        result = super().run_suite(suite, **kwargs)  # type: ignore[misc]  # as above
        self._tests_run = getattr(result, "testsRun", 0)
        return result

    def teardown_test_environment(self, **kwargs: Any) -> None:
        """Stop the isolation."""
        self._isolation.stop()
        namespaces, invalidations = self._shared.totals
        if invalidations:
            self.log(report.last_line(namespaces, invalidations))  # type: ignore[attr-defined]
        for notice in self._isolation.notices:
            self.log(f"cache isolation: {notice}")  # type: ignore[attr-defined]
        if self._finds_leaks:
            self._report_leaks()
        super().teardown_test_environment(**kwargs)  # type: ignore[misc]  # as above

    def _report_leaks(self) -> None:
        leaks = self._isolation.leaks
        findings = leaks.take()
        if leaks.folder is not None:
            findings.merge_folder(leaks.folder)
        if findings.runs < self._tests_run:
            findings.incomplete.add(ENDED_EARLY)
        is_verbose = self.verbosity > 1  # type: ignore[attr-defined]  # the runner's
        lines = findings.report(
            self._leaks_path, show_all=is_verbose, option="--verbosity 2"
        )
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        for line in lines:
            encodable = line.encode(encoding, "backslashreplace").decode(encoding)
            self.log(encodable)  # type: ignore[attr-defined]  # the runner's


class NamespacedDiscoverRunner(NamespacedRunnerMixin, runner.DiscoverRunner):  # type: ignore[misc]
    """Django's runner with every test isolated: see NamespacedRunnerMixin."""
