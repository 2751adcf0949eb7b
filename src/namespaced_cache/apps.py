"""The app, for projects that put "namespaced_cache" into INSTALLED_APPS."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig


class NamespacedCacheConfig(AppConfig):
    """Joins, in a process that a test has started, the run that has started it."""

    name = "namespaced_cache"
    verbose_name = "Namespaced cache"

    def __init__(self, app_name: str, app_module: Any) -> None:
        """Wrap this process's aliases too, where the test run wraps its own.

        Not in ready(): those of the apps before this one may use a cache.
        """
        super().__init__(app_name, app_module)
        from namespaced_cache import isolation  # noqa: PLC0415  # settings are there now

        isolation.join()

    def ready(self) -> None:
        """Register the checks."""
        from namespaced_cache import checks  # noqa: F401, PLC0415  # as above
