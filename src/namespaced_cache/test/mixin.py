"""Isolation for test classes without this package's runner or its pytest plugin."""

from __future__ import annotations

from typing import Any
from unittest.util import strclass

from namespaced_cache.test import isolation
from namespaced_cache.test.isolation import Isolation, begin_test
from namespaced_cache.test.scopes import scope_of

#: unittest leaves the frames of this module out of the tracebacks that it prints.
__unittest = True

_REMEDY = (
    "Add to the settings: "
    'TEST_RUNNER = "namespaced_cache.test.NamespacedDiscoverRunner"'
)


class NamespacedCacheMixin:
    """Gives each test of a class, or the class as a whole, an empty cache.

    Put it before the test case's class among the bases. The attribute `cache_isolation`
    of the class sets when the namespaces are invalidated:

    - "function", the default: before each test. Items that `setUpClass()` and
      `setUpTestData()` cache are then stored again. Those that `setUpModule()` caches
      are not: this needs the runner or the pytest plugin.
    - "empty": before each test, which finds nothing.
    - "class": before the class is set up. Items that `setUpClass()` and
      `setUpTestData()` cache stay for its tests.
    - "off": never.

    An invalidation takes one round trip for each namespace, and storing items again
    takes one for each server. The settings must namespace the aliases.

    If this package's runner or the pytest plugin runs the tests, it isolates these
    classes in the same way, and the mixin does nothing.
    """

    @classmethod
    def setUpClass(cls) -> None:
        """Invalidate the namespaces before the class is set up."""
        isolated = _isolation_of_mixins()
        if isolated and (scope := scope_of(cls)) != "off":
            isolated.set_ups.cancel()  # of a class without a test
            isolated.invalidate(restore=False)
            if scope == "function":
                # The first test ends it.
                name = strclass(cls)
                isolated.set_ups.begin(name, f"the set-up of the class {name}")
        super().setUpClass()  # type: ignore[misc]  # the test case's

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Invalidate the namespaces before the test."""
        # setUp() would be too late, because Django loads fixtures before it.
        isolated = _isolation_of_mixins()
        if isolated:
            isolated.set_ups.begin_test_of(strclass(type(self)))
            begin_test(self, isolated)
        return super().__call__(*args, **kwargs)  # type: ignore[misc]  # as above


_shared: Isolation | None = None


def _isolation_of_mixins() -> Isolation | None:
    """Return the isolation of all mixins, or None if a runner or plugin isolates."""
    global _shared
    if isolation.current() is None:
        _shared = Isolation(wrap=False, remedy=_REMEDY)
        _shared.start()
    return _shared if isolation.current() is _shared else None
