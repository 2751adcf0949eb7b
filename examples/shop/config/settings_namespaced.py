"""Production settings with the cache wrapped: what the tests should run on.

Server, key prefix, timeouts and client options stay those of production. Without a
`NAMESPACE` option each run gets a namespace of its own, and each parallel worker too.
"""

from .settings import *  # noqa: F403 - a settings variant is its base and a few lines
from .settings import CACHES

CACHES["default"]["BACKEND"] = "namespaced_cache.NamespacedCache"
