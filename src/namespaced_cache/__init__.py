"""Gives each test run its own namespace on a shared memcached, emptied in O(1)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namespaced_cache.aliases import get_namespaced, invalidate_namespaces
    from namespaced_cache.backend import NamespacedCache
    from namespaced_cache.errors import (
        NamespaceError,
        NamespaceUnavailable,
        NamespaceWarning,
    )
    from namespaced_cache.wrapping import namespaced

__all__ = [
    "NamespaceError",
    "NamespaceUnavailable",
    "NamespaceWarning",
    "NamespacedCache",
    "get_namespaced",
    "invalidate_namespaces",
    "namespaced",
]
__version__ = "0.1.0"

_MODULES = {
    "NamespaceError": "errors",
    "NamespaceUnavailable": "errors",
    "NamespaceWarning": "errors",
    "NamespacedCache": "backend",
    "get_namespaced": "aliases",
    "invalidate_namespaces": "aliases",
    "namespaced": "wrapping",
}


# Not for type checkers. They read the imports above, and with this function they
# would accept any name.
if not TYPE_CHECKING:  # pragma: no branch
    # Each name is imported when it is used. pytest loads the plugin, and so this
    # package, in every project of an environment. A project without Django must not
    # be slowed down.
    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
