"""Connects the receivers once the models are loaded."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """The one app of the shop."""

    name = "catalog"

    def ready(self) -> None:
        """Import the receivers, which connects them."""
        from . import receivers  # noqa: F401, PLC0415 - for its effect
