"""A namespace of its own for each test on a shared memcached, forgotten in O(1)."""

from namespaced_cache.aliases import invalidate_namespaces, namespaced
from namespaced_cache.backend import NamespacedCache
from namespaced_cache.errors import NamespaceError, NamespaceUnavailable

__all__ = [
    "NamespaceError",
    "NamespaceUnavailable",
    "NamespacedCache",
    "invalidate_namespaces",
    "namespaced",
]
__version__ = "0.1.0"
