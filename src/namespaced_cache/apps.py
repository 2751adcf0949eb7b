"""The app, for projects that put "namespaced_cache" into INSTALLED_APPS."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig


class NamespacedCacheConfig(AppConfig):
    """Joins the test run if a test has started this process."""

    name = "namespaced_cache"
    verbose_name = "Namespaced cache"

    def __init__(self, app_name: str, app_module: Any) -> None:
        """Wrap this process's aliases if the test run wraps its own.

        This cannot wait for ready(), because the ready() of an app before this one may
        use a cache.
        """
        super().__init__(app_name, app_module)
        # Not at the top, because Django may import this module before settings are
        # configured.
        from namespaced_cache.test import isolation  # noqa: PLC0415

        isolation.join_run()

    def ready(self) -> None:
        """Register the checks."""
        from namespaced_cache import checks  # noqa: F401, PLC0415  # as above
