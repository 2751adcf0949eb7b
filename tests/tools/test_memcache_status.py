"""django-memcache-status, which shows what servers tell of themselves.

It asks `cache._cache` for them, and shows them on the first page of Django's admin. It
knows no keys. pymemcache's HashClient has no such command, so that nothing is shown of it.
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
    "SECRET_KEY": "of nobody",
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
    """Return the page before a `set`, after it, and after two ways to get it.

    And what a neighbour in no namespace finds of it.
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
    browser.force_login(User.objects.create_superuser("somebody"))
    cache.get("anything")  # so that there is a connection, and a counter known

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
def test_it_shows_the_servers_figures_which_count_each_call_once(kind, server):
    pages, found = run(__name__, alias(kind, BACKENDS["pylibmc"], server.location))
    assert found == ("red" if kind == "bare" else None)
    assert all(server.location in page for page in pages)
    first, stored, fetched = (
        {name: figure(page, name) for name in ("Cmd Set", "Cmd Get", "Curr Items")}
        for page in pages
    )
    looks = 0 if kind == "bare" else 1  # at the counter, which the server counts
    assert stored["Cmd Set"] - first["Cmd Set"] == 1
    assert stored["Curr Items"] - first["Curr Items"] == 1
    assert stored["Cmd Get"] - first["Cmd Get"] == looks
    assert fetched["Cmd Set"] == stored["Cmd Set"]
    assert fetched["Cmd Get"] - stored["Cmd Get"] == 2 + 2 * looks


@pytest.mark.parametrize("kind", ["bare", OURS])
def test_it_shows_nothing_of_pymemcache(kind, server):
    """As on the bare backend; and nothing fails for it."""
    pages, found = run(__name__, alias(kind, BACKENDS["pymemcache"], server.location))
    assert found == ("red" if kind == "bare" else None)
    assert all("Site administration" in page for page in pages)
    assert all("No server provides memcache stats" in page for page in pages)
