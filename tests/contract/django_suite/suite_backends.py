"""NamespacedCache under two names, for settings without WRAPPED_BACKEND.

Django's tests override all OPTIONS, and find their backend by its name.
"""

from namespaced_cache import NamespacedCache

DJANGOS = "django.core.cache.backends.memcached"


class PyMemcacheCache(NamespacedCache):
    wrapped_backend = f"{DJANGOS}.PyMemcacheCache"

    def __init__(self, server, params):
        ours = {"WRAPPED_BACKEND": self.wrapped_backend, "NAMESPACE": "django-suite"}
        options = {**ours, **(params.get("OPTIONS") or {})}
        super().__init__(server, {**params, "OPTIONS": options})


class PyLibMCCache(PyMemcacheCache):
    wrapped_backend = f"{DJANGOS}.PyLibMCCache"
