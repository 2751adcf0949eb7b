"""Django's settings in the process that runs the tests and in its helper processes."""

import django
from django.conf import settings


def configure() -> None:
    """Configure the settings and set Django up, once for each process."""
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    settings.configure(USE_TZ=True, DATABASES={"default": sqlite})
    django.setup()
