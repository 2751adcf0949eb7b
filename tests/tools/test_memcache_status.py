"""django-memcache-status, which shows the statistics of servers.

It gets them from `cache._cache`, and shows them on the start page of Django's admin. It
shows no keys. pymemcache's HashClient has no command for statistics, so it shows
nothing for pymemcache.
"""

from __future__ import annotations

import re

import pytest

from tests.support.caches import BACKENDS
from tests.support.recordings import OURS, alias, neighbours_colour, run

SETTINGS = {
    "ALLOWED_HOSTS": ["testserver"],
    "DATABASES": {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    },
    "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
    "INSTALLED_APPS": [
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "memcache_status",
    ],
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    "ROOT_URLCONF": __name__,
    "SECRET_KEY": "not a secret",
    "STATIC_URL": "static/",
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
}


def make(alias: dict, _) -> tuple[list[str], object]:
    """Return the page before a `set`, after it, and after two reads.

    Also return what a backend without a namespace finds under the key.
    """
    import django
    from django.conf import settings

    settings.configure(CACHES={"default": alias}, **SETTINGS)
    django.setup()
    from django.contrib import admin
    from django.contrib.auth.models import User
    from django.core.cache import cache
    from django.core.management import call_command
    from django.test import Client
    from django.urls import path

    global urlpatterns
    urlpatterns = [path("admin/", admin.site.urls)]
    admin.site.index_template = "memcache_status/admin_index.html"
    call_command("migrate", verbosity=0)
    browser = Client()
    browser.force_login(User.objects.create_superuser("admin"))
    cache.get("anything")  # opens a connection and reads the counter

    def page():
        return browser.get("/admin/").content.decode()

    pages = [page()]
    cache.set("colour", "red")
    pages.append(page())
    assert cache.get("colour") == "red"
    assert "colour" in cache
    pages.append(page())
    return pages, neighbours_colour(alias)


def figure(page: str, name: str) -> int:
    (value,) = re.findall(rf"<th>{name}</th>\s*<td>(\d+)</td>", page)
    return int(value)


@pytest.mark.parametrize("kind", ["bare", OURS])
def test_it_shows_statistics_that_count_each_call_once(kind, server):
    pages, found = run(__name__, alias(kind, BACKENDS["pylibmc"], server.location))
    assert found == ("red" if kind == "bare" else None)
    assert all(server.location in page for page in pages)
    first, stored, fetched = (
        {name: figure(page, name) for name in ("Cmd Set", "Cmd Get", "Curr Items")}
        for page in pages
    )
    counter_reads = 0 if kind == "bare" else 1  # the server counts these reads, too
    assert stored["Cmd Set"] - first["Cmd Set"] == 1
    assert stored["Curr Items"] - first["Curr Items"] == 1
    assert stored["Cmd Get"] - first["Cmd Get"] == counter_reads
    assert fetched["Cmd Set"] == stored["Cmd Set"]
    assert fetched["Cmd Get"] - stored["Cmd Get"] == 2 + 2 * counter_reads


@pytest.mark.parametrize("kind", ["bare", OURS])
def test_it_shows_no_statistics_for_pymemcache(kind, server):
    """As on the bare backend. It causes no error."""
    pages, found = run(__name__, alias(kind, BACKENDS["pymemcache"], server.location))
    assert found == ("red" if kind == "bare" else None)
    assert all("Site administration" in page for page in pages)
    assert all("No server provides memcache stats" in page for page in pages)
