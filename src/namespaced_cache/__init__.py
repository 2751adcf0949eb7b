"""A namespace of its own for each test on a shared memcached, forgotten in O(1)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namespaced_cache.aliases import (
        get_namespaced,
        invalidate_namespaces,
        namespaced,
    )
    from namespaced_cache.backend import NamespacedCache
    from namespaced_cache.errors import (
        NamespaceError,
        NamespaceUnavailable,
        NamespaceWarning,
    )

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

_ROOMS = {
    "NamespaceError": "errors",
    "NamespaceUnavailable": "errors",
    "NamespaceWarning": "errors",
    "NamespacedCache": "backend",
    "get_namespaced": "aliases",
    "invalidate_namespaces": "aliases",
    "namespaced": "aliases",
}


# Type checkers read the imports above; by this they would take any name for ours.
if not TYPE_CHECKING:  # pragma: no branch
    # Looked up when used: pytest loads the plugin, and so this package, in every
    # project where it is installed, and one without Django shall not pay for it.
    def __getattr__(name: str) -> Any:
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
