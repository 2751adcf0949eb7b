"""Isolation of whole test suites: the runner and the mixin are public here."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namespaced_cache.test.mixin import NamespacedCacheMixin
    from namespaced_cache.test.runner import (
        NamespacedDiscoverRunner,
        NamespacedParallelTestSuite,
        NamespacedRunnerMixin,
        NamespacedTestSuite,
    )

__all__ = [
    "NamespacedCacheMixin",
    "NamespacedDiscoverRunner",
    "NamespacedParallelTestSuite",
    "NamespacedRunnerMixin",
    "NamespacedTestSuite",
]

# Not for type checkers. They read the imports above, and with this function they
# would accept any name.
if not TYPE_CHECKING:  # pragma: no branch
    # Each name is imported when it is used, because the pytest plugin imports the
    # scopes of this package in projects without Django.
    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = "mixin" if name == "NamespacedCacheMixin" else "runner"
        return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
